"""The measured candidates from an endpoint: all neurons are answered, also after a kill."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from checkout import ROOT, python_path

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import measure_remote


@pytest.mark.slow
def test_the_endpoint_answers_about_every_neuron(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.setattr(measure_remote, "NEURONS", 24)
    monkeypatch.setattr(measure_remote, "IMAGES", 60)
    db = measure_remote.make_index(tmp_path / "made")
    measure_remote.measure_speed(db)
    measure_remote.measure_kill(db)
    speed, kill = capsys.readouterr().out.splitlines()
    assert speed.startswith("24 neurons at concurrency 8, ")
    counts = re.search(r"(\d+) of them answered and kept; started again: (\d+) answered, 24 neurons in all", kill)
    assert counts and int(counts[1]) + int(counts[2]) == 24, kill
