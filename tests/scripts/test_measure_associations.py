"""The measured comparison of neurons with classes: its figures on small arrays."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from checkout import ROOT, python_path

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import measure_associations


@pytest.mark.slow
@pytest.mark.parametrize("active", [None, 2])
def test_the_figures_of_small_arrays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], active: int | None
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    kinds = measure_associations.make_classes(tmp_path, 400, 4)
    measure_associations.make_arrays(tmp_path, kinds, 30, active)
    measure_associations.report(tmp_path, kinds, "small", turns=1, checked=20)
    said = capsys.readouterr().out
    assert said.startswith("small: 30 neurons x 4 classes x 400 images: ")
    apart = re.search(r"one by one: (\S+) apart at most", said)
    assert apart and float(apart[1]) < 1e-12
