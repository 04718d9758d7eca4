"""Measures beside those of a null: the fall in the metric's direction, its interval, and what does not fall."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from csp_index.errors import EvaluationError
from csp_index.evaluation.evaluation import VALUES, Evaluation
from csp_index.evaluation.report.nulls import TOO_FEW, UNMOVED, against_null, fall_line, null_rows, unmoved_line
from csp_index.evaluation.report.write import write_report

RNG = np.random.default_rng(0)


def evaluation(layer: str, means: dict[tuple[str, str], float], neurons: int, judge: str = "clip") -> Evaluation:
    rows = [
        {
            "model": layer,
            "layer": "l",
            "neuron": neuron,
            "kind": "",
            "method": method,
            "text": "red" if method else None,
            "metric": metric,
            "value": None if neuron == 0 else mean + float(RNG.normal(0, 0.05)),
            "note": "dead" if neuron == 0 else "",
        }
        for (method, metric), mean in means.items()
        for neuron in range(neurons)
    ]
    settings = {"layer": f"{layer}/l", "methods": ["csp"], "judge": judge, "encoder": "clip", "candidates": "words@1"}
    return Evaluation(pa.Table.from_pylist(rows, schema=VALUES), settings, "run")


OWN = {("csp", "simulation"): 0.6, ("csp", "label-images"): 0.1, ("csp", "agreement-exact"): 1.0, ("", "clarity"): 0.5}
NULL = {("csp", "simulation"): 0.2, ("csp", "label-images"): 0.3, ("", "clarity"): 0.5}


def test_a_measure_falls_in_its_own_direction_or_measures_the_data() -> None:
    rows = {row["metric"]: row for row in null_rows(evaluation("net", OWN, 41), evaluation("null", NULL, 31))}
    assert set(rows) == {"simulation", "label-images", "clarity"}  # the null has no truth
    assert rows["simulation"]["fall"] == pytest.approx(0.4, abs=0.05) and rows["simulation"]["verdict"] == "falls"
    assert rows["label-images"]["fall"] == pytest.approx(0.2, abs=0.05)  # lower is better, and the null is higher
    assert rows["clarity"]["verdict"] == UNMOVED
    assert (rows["clarity"]["neurons"], rows["clarity"]["null_neurons"]) == (40, 30)
    error = 1.959964 * np.sqrt(0.05**2 / 40 + 0.05**2 / 30)
    assert rows["simulation"]["high"] - rows["simulation"]["low"] == pytest.approx(2 * error, rel=0.4)
    assert unmoved_line(list(rows.values())) == f"do not fall, so each {UNMOVED}: clarity"


def test_of_one_neuron_nothing_falls_for_certain() -> None:
    rows = {row["metric"]: row for row in null_rows(evaluation("net", OWN, 2), evaluation("null", NULL, 31))}
    assert rows["simulation"]["neurons"] == 1 and rows["simulation"]["low"] is None
    assert {row["verdict"] for row in rows.values()} == {TOO_FEW} and not unmoved_line(list(rows.values()))
    assert fall_line(rows["simulation"]).endswith("(too few neurons) [1 and 30 neurons]")
    two = {row["metric"]: row for row in null_rows(evaluation("net", OWN, 41), evaluation("null", NULL, 3))}
    assert fall_line(two["simulation"]).endswith(") [40 and 2 neurons]") and two["simulation"]["low"] is not None


def test_a_null_of_another_judge_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"the null was evaluated with another judge \(siglip, expected clip\)"):
        null_rows(evaluation("net", OWN, 5), evaluation("null", NULL, 5, judge="siglip"))


def test_a_report_shows_the_null(tmp_path: Path) -> None:
    result = against_null(evaluation("net", OWN, 12), evaluation("null", NULL, 12))
    assert (
        TOO_FEW
        in write_report(
            against_null(evaluation("net", OWN, 2), evaluation("null", NULL, 12)), tmp_path / "one"
        ).read_text()
    )
    text = write_report(result, tmp_path / "report").read_text()
    assert "Against a network that has learned nothing" in text and "on null/l." in text and UNMOVED in text
