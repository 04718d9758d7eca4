"""`csp-index evolution`: what it says for people and for machines, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
import torch
from safetensors.torch import save_file

from csp_index import open_index


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evolution")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 20), encoders=["python:fakes:encoder"])
    for step in range(3):
        state = fakes.network().state_dict()
        state["head.weight"] = state["head.weight"] + step * torch.ones(10, 6)
        save_file(state, folder / f"step{step}.safetensors")
    save_file({"conv.weight": torch.zeros(6, 3, 3, 3)}, folder / "other.safetensors")
    (folder / "words.txt").write_text("red\nblue\nring\nstriped\n")
    return folder


OPTIONS = ("--network", "python:fakes:network", "--layers", "concepts", "--name", "net", "--method", "csp")


@pytest.fixture
def typed(world: Path, run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(world)
    files = [f"step{step}.safetensors" for step in range(3)]

    def command(*checkpoints: str, more: tuple[object, ...] = ()):
        words = ("--vocabulary", "words.txt", "--templates", "none", "--images", "images")
        return run("evolution", "db", *OPTIONS, *words, *more, "--checkpoints", *(checkpoints or files))

    return command


def test_checkpoints_follow_each_other_in_words(typed) -> None:
    said = typed(more=("--top", 2))
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "net/concepts: 10 neurons at 3 checkpoints"
    assert [line.partition("\t")[0] for line in lines[1:4]] == ["step0", "step1", "step2"]
    assert "alive (0 born, 0 died)" in lines[1] and "like before" in lines[2] and len(lines) == 6
    assert lines[4].startswith("neuron ") and "settled at step" in lines[4] and "drift" in lines[4]


def test_for_machines(typed) -> None:
    head, *rows = typed(more=("--json",)).rows
    assert [one["checkpoint"] for one in head["checkpoints"]] == ["step0", "step1", "step2"]
    assert [row["neuron"] for row in rows] == list(range(10)) and len(rows[0]["labels"]) == 3


def test_each_checkpoint_with_its_own_option(run, world: Path, typed, monkeypatch: pytest.MonkeyPatch) -> None:
    several = ("--checkpoints", "step0.safetensors", "--checkpoints", "step1.safetensors")
    said = run("evolution", "db", *OPTIONS, "--images", "images", *several)
    assert said.status == 0 and "at 2 checkpoints" in said.out
    mixed = run("evolution", "db", *OPTIONS, *several, "step2.safetensors")
    assert mixed.status == 2 and "write it once, or each alone" in mixed.err


@pytest.mark.parametrize(
    ("checkpoints", "message"),
    [
        (("step0.safetensors",), "1 checkpoint is given: an evolution needs at least two, in the order of training"),
        (("step0.safetensors", "images/../step0.safetensors"), "are both called step0"),
        (("step0.safetensors", "nowhere.pt"), "the weight file nowhere.pt does not exist"),
        (("step0.safetensors", "other.safetensors"), "do not fit FakeNetwork: conv.bias is missing"),
    ],
)
def test_what_is_no_training_is_one_line(typed, checkpoints: tuple[str, ...], message: str) -> None:
    said = typed(*checkpoints)
    assert said.status == 1 and message in said.err.splitlines()[-1], said.err
