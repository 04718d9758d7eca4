"""The comparison of two threads with one: its table, and a path of it."""

from __future__ import annotations

import json
import sys

import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import measure_threads


def test_the_table_marks_what_two_threads_make_slower(capsys):
    same, slower = {1: [(1.0, 2.0)], 2: [(1.2, 2.1)]}, {1: [(1.0, 2.0), (9.0, 9.0), (1.0, 2.0)], 2: [(1.0, 2.4)] * 3}
    measure_threads.say_table({"index": same, "label": slower}, busy=False)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [
        ["index", "1.000", "1.20", "2.000", "1.05"],
        ["label", "1.000", "1.00", "2.000", "1.20", "slower"],
    ]


@pytest.mark.slow
def test_every_path_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(measure_threads, "REPEATS", 1)
    measure_threads.make_data(tmp_path)
    measure_threads.run_paths(tmp_path, list(measure_threads.PATHS))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [row["path"] for row in rows] == list(measure_threads.PATHS)
    assert all(row["cpu"] > 0 for row in rows)
