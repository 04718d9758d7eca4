"""The comparison of two threads with one: its table, and a path of it."""

from __future__ import annotations

import sys

import pytest
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "benchmarks"))

import measure_threads


def test_a_row_marks_what_two_threads_make_slower(capsys):
    same = [((1.0, 2.0), (1.2, 2.1))]
    slower = [((1.0, 2.0), (1.0, 2.4)), ((9.0, 9.0), (9.0, 9.0)), ((1.0, 2.0), (1.0, 2.6))]
    measure_threads.say_row("index", same)
    measure_threads.say_row("label", slower)
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["index", "1.000", "1.20", "2.000", "1.05"],
        ["label", "1.000", "1.00", "2.000", "1.20", "slower"],
    ]


def test_both_processes_run_in_every_turn_and_neither_is_always_first():
    order = []

    class Runner:
        def __init__(self, threads):
            self.threads = threads

        def run(self, path):
            order.append(self.threads)
            return float(self.threads), 1.0

    pairs = measure_threads.compare("index", Runner(1), Runner(2), 2)
    assert pairs == [((1.0, 1.0), (2.0, 1.0))] * 2
    assert order == [1, 2, 1, 2, 2, 1]  # the first run of each is not timed


@pytest.mark.slow
def test_every_path_runs(tmp_path):
    measure_threads.make_data(tmp_path)
    with measure_threads.Runner(tmp_path, 1) as one:
        assert all(min(one.run(path)) > 0 for path in measure_threads.PATHS)
