"""Checkpoints of a tiny network: one pass over the images, the paths of its neurons, kept and read again."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from csp_index import Index, open_index
from csp_index.errors import ModelError
from csp_index.images import loader
from csp_index.integrity.verify import verify

WORDS = ["striped", "red", "moon", "blue", "dotted", "ring"]
SPEC = "python:fakes:network"


def write_checkpoints(folder: Path) -> list[str]:
    """Write three checkpoints: neuron 0 dies at the second and is born again at the third; 1 never moves."""
    folder.mkdir(parents=True, exist_ok=True)
    states = []
    for step in range(3):
        state = {name: value.clone() for name, value in fakes.network().state_dict().items()}
        generator = torch.Generator().manual_seed(step)
        state["head.weight"][2:9] += step * torch.randn(7, 6, generator=generator)
        if step == 1:
            state["head.weight"][0], state["head.bias"][0] = 0, -1
        states.append(state)
    files = [str(folder / f"step{step}.safetensors") for step in range(3)]
    for file, state in zip(files, states, strict=True):
        save_file(state, file)
    return files


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, list[str]]:
    folder = tmp_path_factory.mktemp("evolution")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 30), encoders=["python:fakes:encoder"], shard_size=12)
    files = write_checkpoints(folder / "checkpoints")
    index.evolution(SPEC, "concepts", files, name="net", method="csp", vocabulary=WORDS, templates="none")
    return index, files


def again(index: Index, files: list[str], **options: object):
    (found,) = index.evolution(SPEC, "concepts", files, name="net", method="csp", **options)
    return found


def test_every_checkpoint_is_a_network_of_the_index(made: tuple[Index, list[str]]) -> None:
    index, files = made
    found = again(index, files)
    assert found.checkpoints == ("step0", "step1", "step2") and found.rows.num_rows == 30
    for step, name in enumerate(found.checkpoints):
        labels = index.label(f"net@{name}/concepts", "csp")
        assert [label.text for label in labels] == found.labels[step]
    rates = index.sql("SELECT firing_rate FROM neurons ORDER BY model, neuron").to_arrow()["firing_rate"]
    np.testing.assert_array_equal(rates.to_numpy(), found.rows["firing_rate"].to_numpy())


def test_birth_death_and_what_does_not_move(made: tuple[Index, list[str]]) -> None:
    found = again(*made)
    neurons = found.neurons().to_pylist()
    assert (neurons[0]["died"], neurons[0]["born"], neurons[0]["drift"]) == ("step1", "step2", None)
    assert neurons[0]["labels"][1] is None and neurons[0]["changes"] == 2 and neurons[0]["settled"] == "step2"
    assert neurons[1]["drift"] == pytest.approx(0, abs=1e-5) and neurons[1]["settled"] == "step0"
    assert max(row["drift"] or 0 for row in neurons[2:9]) > 0.01
    steps = found.steps()
    dead = [sum(row[name] == "step1" for row in neurons) for name in ("died", "born")]
    assert steps[0]["died"] == steps[0]["born"] == 0 and (steps[1]["died"], steps[1]["born"]) == (dead[0], dead[1])
    assert steps[0]["cosine"] is None and steps[-1]["settled"] == 10


def test_the_sql_view_says_the_same(made: tuple[Index, list[str]]) -> None:
    index, files = made
    rows = index.sql("SELECT * FROM evolutions ORDER BY neuron").rows()
    for row, told in zip(rows, again(index, files).neurons().to_pylist(), strict=True):
        assert (row["network"], row["layer"]) == ("net", "concepts")
        for name in ("neuron", "labels", "settled", "changes", "born", "died"):
            assert row[name] == told[name], name
        assert row["drift"] == (told["drift"] and pytest.approx(told["drift"], abs=1e-9))


def test_names_of_readers_come_first_where_no_method_is_asked_for(
    made: tuple[Index, list[str]], tmp_path: Path
) -> None:
    index, files = open_index(shutil.copytree(made[0].uri, tmp_path / "db")), made[1]
    index.note("net@step1/concepts/4", "rename", "a name", by="ann")
    (found,) = index.evolution(SPEC, "concepts", files, name="net")
    assert [labels[4] == "a name" for labels in found.labels] == [False, True, False]
    assert "a name" not in again(index, files).labels[1]


def test_what_is_stored_is_read(made: tuple[Index, list[str]]) -> None:
    index, files = made
    before = index.sql("SELECT count(*) AS n FROM runs").rows()
    assert again(index, files).run_id == again(index, files).run_id
    assert index.sql("SELECT count(*) AS n FROM runs").rows() == before
    fewer = again(index, files[:2])
    assert fewer.checkpoints == ("step0", "step1")
    assert index.sql("SELECT count(*) AS n FROM evolution").rows() == [{"n": 20}]  # in place of the other
    assert again(index, files).rows.num_rows == 30
    assert verify(index.uri).sound


def test_an_image_is_decoded_and_prepared_once_for_all_checkpoints(tmp_path: Path, monkeypatch) -> None:
    index = open_index(tmp_path / "db")
    index.add_images(fakes.write_images(tmp_path / "images", 9), encoders=["python:fakes:encoder"])
    counts = {"decoded": 0, "prepared": 0}
    read, own = loader.read_image, fakes.FakeNetwork.preprocess

    def counted_read(*arguments):
        counts["decoded"] += 1
        return read(*arguments)

    def counted_own(self, image):
        counts["prepared"] += image.size == (fakes.SIDE, fakes.SIDE)  # trial pictures are larger
        return own(self, image)

    monkeypatch.setattr(loader, "read_image", counted_read)
    monkeypatch.setattr(fakes.FakeNetwork, "preprocess", counted_own)
    files = write_checkpoints(tmp_path / "checkpoints")
    index.evolution(SPEC, ["concepts", "conv"], files, name="net", method="csp", vocabulary=WORDS, templates="none")
    assert counts == {"decoded": 9, "prepared": 9}
    assert len(index.status()["layers"]) == 6


def test_checkpoints_of_another_architecture_are_named_with_their_keys(made, tmp_path: Path) -> None:
    index, files = made
    other = str(tmp_path / "other.safetensors")
    save_file({"conv.weight": torch.zeros(6, 3, 3, 3), "trunk.bias": torch.zeros(2)}, other)
    layers = len(index.status()["layers"])
    with pytest.raises(ModelError, match=r"other.safetensors do not fit FakeNetwork: conv.bias is missing"):
        index.evolution(SPEC, "concepts", [files[0], other], name="net", method="csp")
    assert len(index.status()["layers"]) == layers


def test_a_checkpoint_that_changed_is_refused(made, tmp_path: Path) -> None:
    index, files = made
    state = fakes.network().state_dict()
    state["conv.weight"] = state["conv.weight"] * 2
    changed = str(tmp_path / "step0.safetensors")
    save_file(state, changed)
    with pytest.raises(Exception, match=r"net@step0/concepts"):
        index.evolution(SPEC, "concepts", [changed, files[1]], name="net", method="csp")
