"""Odd command lines and hostile files, as many as the project promises; a few of them in every run of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT, python_path

sys.path.insert(0, str(ROOT / "scripts" / "chaos"))

import command_lines
import hostile_images

MEGABYTES = 3500  # most of an indexing pass with pictures just below the limit of pixels


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chaos") / "world"
    command_lines.make_world(folder)
    return folder


def test_lines_are_the_same_for_the_same_seed() -> None:
    lines = [command_lines.draw_line(number, 0) for number in range(300)]
    assert lines == [command_lines.draw_line(number, 0) for number in range(300)]
    assert lines != [command_lines.draw_line(number, 1) for number in range(300)]
    assert len({line[0] for line in lines}) > 15


def test_a_line_that_hangs_or_ends_its_process_costs_itself_alone(
    world: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "lines.py"
    program.write_text(
        "import json, os, sys, time\n"
        "for number in range(int(sys.argv[2]), int(sys.argv[4])):\n"
        "    print(json.dumps(['begin', number]), flush=True)\n"
        "    if number == 1: time.sleep(60)\n"
        "    if number == 3: os.abort()\n"
        "    print(json.dumps(['end', number, 'traceback' if number == 5 else '0', '']), flush=True)\n"
    )
    monkeypatch.setattr(command_lines, "__file__", str(program))
    monkeypatch.setattr(command_lines, "SECONDS", 2)
    outcomes = command_lines.fuzz(7, 0, world)
    assert dict(outcomes.counts) == {"0": 4, "hang": 1, "crash": 1, "traceback": 1}
    assert [outcome for outcome, _, _ in outcomes.faults] == ["hang", "crash", "traceback"]
    assert outcomes.row == ("7 command lines: 4 ok (0: 4, 1: 0, 2: 0), 1 tracebacks, 1 hangs, 1 crashes")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0])
def test_500_command_lines_end_with_their_status(world: Path, seed: int) -> None:
    outcomes = command_lines.fuzz(500, seed, world)
    print(outcomes.row)
    assert outcomes.faults == []
    assert outcomes.counts.total() == 500


@pytest.mark.slow
def test_1000_hostile_image_files_cost_nothing_but_themselves(tmp_path: Path) -> None:
    figures = hostile_images.index_files(tmp_path / "files", 1000, 1000)
    print(figures.row)
    assert figures.status == 0, figures.message
    assert figures.wrong == ()
    assert (figures.indexed, figures.recorded) == (1000, 1000)
    assert figures.megabytes < MEGABYTES


@pytest.mark.slow
def test_each_kind_of_hostile_file_is_recorded_with_its_reason(tmp_path: Path) -> None:
    good, bad = len(hostile_images.GOOD) + 5, len(hostile_images.BAD) + 5
    figures = hostile_images.index_files(tmp_path / "files", good, bad)
    assert (figures.wrong, figures.status) == ((), 0), figures.message


@pytest.mark.slow
@pytest.mark.parametrize("part", ["kills", "readers", "readers-s3", "opening", "lines", "files"])
def test_a_small_part_of_each_goes_well(part: str) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "chaos.py"), part, "--quick"]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WRONG" not in done.stdout
