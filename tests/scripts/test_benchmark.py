"""The benchmark at its smallest size makes every figure; no time is asserted here. Its arithmetic is right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import bench_costs
import bench_data
import bench_label
import benchmark
from bench_data import Made, Shape
from bench_rows import Row, table

ROWS = {  # the figures that the project promises
    "label-all.time",
    "label-all.ratio",
    "label-all.cpu",
    "label-all.products",
    "label-all.memory",
    "methods.firing-contrast",
    "methods.linear",
    "one-neuron.p50",
    "one-neuron.p95",
    "one-neuron.read",
    "one-neuron.cold",
    "start-up.help",
    "start-up.torch",
    "growth.label-all",
    "growth.one-neuron",
    "import.ratio",
    "memory.import",
    "memory.label",
    "memory.status",
    "memory.sql",
    "memory.evaluate",
    "memory.export",
    "gpu.label-all",
}


@pytest.mark.slow
def test_the_smallest_size_makes_every_figure(tmp_path: Path) -> None:
    command = [sys.executable, benchmark.__file__, "--size", "small", "--json", str(tmp_path / "found.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    found = json.loads((tmp_path / "found.json").read_text())
    rows = {row["name"]: row for row in found["rows"]}
    assert set(rows) >= ROWS
    assert {name.split(".")[0] for name in rows} == {*benchmark.GROUPS, "sizing"}
    assert found["cores"] >= 1
    for name, row in rows.items():
        assert f"| {name} |" in ended.stdout
        assert row["what"] and (row["bar"] or row["holds"] is None)
        if row["value"] is None:
            assert row["detail"]["why"] == "no GPU"
        else:
            assert math.isfinite(row["value"])
            assert row["value"] > 0 or row["unit"] == "exponent"
    assert rows["start-up.torch"]["value"] == 3
    assert rows["label-all.time"]["detail"]["distinct activating images"] > 30


def test_unknown_rows_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        benchmark.main(["--only", "label-all,speed"])
    assert "no rows speed (has: label-all" in capsys.readouterr().err


def test_a_command_that_fails_is_told() -> None:
    with pytest.raises(RuntimeError, match="ended with 3: no luck"):
        bench_data.run([sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"])


def test_a_commands_peak_memory_is_measured() -> None:
    ran = bench_data.run([sys.executable, "-c", "x = bytearray(300_000_000); print(len(x))"])
    assert ran.peak > 300_000_000
    assert ran.output == "300000000\n"
    assert ran.seconds > 0


@pytest.mark.parametrize("first", [None, 150])
def test_made_arrays_are_unit_rectified_and_confined(tmp_path: Path, first: int | None) -> None:
    bench_data.make_arrays(tmp_path, Shape(700, 300, 8, 20, first=first))
    embeddings, activations = np.load(tmp_path / "E.npy"), np.load(tmp_path / "A.npy")
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)
    assert activations.min() == 0
    top = np.argsort(-activations, axis=0, kind="stable")[:100]
    assert (top.max() < 150) == (first == 150)
    assert len((tmp_path / "T.txt").read_text().splitlines()) == len(np.load(tmp_path / "T.npy")) == 20


def test_one_neuron_reads_its_own_rows_only(tmp_path: Path) -> None:
    made = Made(Shape(5_000, 64, 8, 20), tmp_path / "made")
    bench_data.prepare({str(made.folder): bench_data.asdict(made.shape)})
    found = bench_label.warm({"made": str(made.folder)}, 2)["made"]
    own = 4 * made.shape.images
    assert own <= found["bytes read"] < 3 * own  # for the examples, and once more for the fit on a sample of the images
    assert found["bytes read"] < made.facts()["bytes"][found["table"]] / 20
    assert len(found["seconds"]) == 2


def test_costs_are_fitted_and_predicted() -> None:
    sizes = [{"N": n, "M": m, "D": 16, "U": 30} for n in (100, 1_000, 9_000) for m in (8, 32)]
    seen = [(size, 0.5 + 2e-6 * size["N"] * (size["M"] + size["D"])) for size in sizes]
    factors = bench_costs.fit({"t": seen}, {"t": ["1", "N * (M + D)", "U * N * D"]})["t"]
    assert factors["1"] == pytest.approx(0.5)
    assert factors["N * (M + D)"] == pytest.approx(2e-6)
    large = {"N": 10**9, "M": 1, "D": 1, "U": 1}
    assert bench_costs.predict(factors, large) == pytest.approx(4000.5, rel=1e-3)


def test_the_table_tells_what_holds_and_what_is_missing() -> None:
    rows = [
        Row("a.b", "one", 1234.5, "x", "<= 2 x", False),
        Row("c", "two", None, "s", "< 2 s", None, {"why": "no GPU"}),
    ]
    assert table(rows).splitlines()[2:] == ["| a.b | one | <= 2 x | 1,234 x | NO |", "| c | two | < 2 s | no GPU | - |"]


def test_the_exponent_of_growth() -> None:
    assert bench_data.slope([(n, 3 * n**1.5) for n in (10, 20, 50, 700)]) == pytest.approx(1.5)
