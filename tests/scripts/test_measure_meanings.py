"""The measured facets and formulas: their figures on small arrays."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from checkout import ROOT, python_path

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import measure_meanings


@pytest.mark.slow
def test_the_figures_of_small_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    measure_meanings.make_layer(tmp_path, 1200, 20, 30, 64)
    measure_meanings.report(tmp_path)
    facets, formulas = capsys.readouterr().out.splitlines()
    assert facets.startswith("facets: 20 neurons, ") and formulas.startswith("formulas: 20 neurons, ")
    for line in (facets, formulas):
        counts = re.search(r"several meanings: (\d+) of 10 neurons of one thing, (\d+) of 10 of two", line)
        assert counts and int(counts[1]) <= 1 and int(counts[2]) >= 8, line
