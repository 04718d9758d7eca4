"""Values of methods whose contrastive images are made hang on what makes them: another maker is another evaluation."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from few import few

from csp_index import EvaluationOptions, Index, NetworkSource, open_index
from csp_index.evaluation.options import parse_methods

PLAIN = "semanticlens"
SYNTHETIC = "csp:contrast=nearest+synthetic,generator=python:fakes:shader,variants=2,examples=5,bootstrap=0"
EDITED = "csp:contrast=perturbation,examples=5,bootstrap=0"


@pytest.fixture
def made(tmp_path: Path) -> Index:
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="m")
    index.add_images(fakes.write_images(tmp_path / "images", 40), encoders=["python:fakes:encoder"], networks=[network])
    return index


def runs(index: Index, *methods: str) -> dict[str, str]:
    """Evaluate by an index opened anew; return the run that each method's values come from."""
    chosen = EvaluationOptions(methods=parse_methods(methods), logit_scale=20.0)
    found = open_index(index.uri).evaluate("m/concepts/0", chosen, vocabulary=["red", "blue"], templates="none")
    return {row["method"]: row["run_id"] for row in _rows(index) if row["run_id"] in found.settings["runs"]}


def _rows(index: Index) -> list[dict[str, str]]:
    order = "SELECT DISTINCT method, run_id FROM evaluations WHERE method != '' ORDER BY run_id"
    return open_index(index.uri).sql(order).rows()


@pytest.mark.parametrize(
    ("method", "variable", "other"),
    few([(SYNTHETIC, "FAKE_SHADER", "other weights"), (EDITED, "CSP_INDEX_PERTURBATION_EDITS", "blur")], 1),
)
def test_values_hang_on_what_makes_the_images(made, monkeypatch, method, variable, other):
    first = runs(made, PLAIN, method)
    assert runs(made, PLAIN, method) == first
    monkeypatch.setenv(variable, other)
    second = runs(made, PLAIN, method)
    assert second[PLAIN] == first[PLAIN]  # looks at no contrast
    assert second[method] > first[method]
    monkeypatch.delenv(variable)
    assert runs(made, method)[method] == first[method]
