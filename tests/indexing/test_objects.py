"""Indexes made from objects of the caller: datasets, modules, encoders."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torch.utils.data import Dataset, Subset
from torchvision import transforms

from csp_index import CspIndexError, Encoder, Network, NetworkSource, open_index
from csp_index.cli import cli
from csp_index.errors import ModelError, SettingError, SourceError

TO_TENSOR = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])
WORDS = ["a", "bb", "ccc", "dddd"]


class Pictures(Dataset):
    """Seeded noise; `broken` items raise, `stop` ends the pass as Ctrl-C does."""

    classes = ("cat", "dog")

    def __init__(self, count: int, *, broken: int = -1, stop: int = -1, seed: int = 0) -> None:
        self.count, self.broken, self.stop, self.seed = count, broken, stop, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == self.broken:
            raise ValueError("a bad sector")
        if index == self.stop:
            raise KeyboardInterrupt
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        return torch.rand(3, 12, 10, generator=generator), index % 2


class Colours:
    """An encoder of mean colours and of the letters of a text."""

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels.mean((2, 3)), pixels.std((2, 3))], 1)

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[1.0 + text.count(c) for c in "abcdef"] for text in texts])


def net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))


def models(seed: int = 0) -> dict[str, Any]:
    return {
        "encoders": [Encoder(Colours(), TO_TENSOR, name="colours")],
        "networks": [Network(net(seed), ["2", "3"], preprocess=TO_TENSOR, name="mine")],
    }


def by_name(seed: int = 0) -> dict[str, Any]:
    return {"colours": Encoder(Colours(), TO_TENSOR), "mine": Network(net(seed), preprocess=TO_TENSOR)}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """An index made from objects, one layer labelled, and the objects gone."""
    db = tmp_path_factory.mktemp("objects") / "db"
    with open_index(db) as index:
        index.add_images(Pictures(40), shard_size=16, **models())
        index.label("mine/2", "csp", vocabulary=WORDS, examples=5)
    return db


def test_images_embeddings_and_activations_are_those_of_the_objects(made) -> None:
    index = open_index(made)
    rows = index.sql("SELECT uri, metadata FROM images ORDER BY image_id").rows()
    assert rows[3]["uri"] == "dataset:Pictures/3"
    assert json.loads(rows[3]["metadata"]) == {"target": 1, "label": "dog"}
    module = net().eval()
    with torch.no_grad():
        stored = Image.fromarray(np.uint8(np.rint(Pictures(40)[3][0].numpy() * 255).transpose(1, 2, 0)))
        expected = module(TO_TENSOR(stored)[None]).mean((2, 3))[0]
    values = [index.activations(f"mine/3/{n}")[3] for n in range(5)]
    assert np.allclose(values, expected.numpy(), atol=1e-5)


def test_what_needs_no_object_works_without(made) -> None:
    index = open_index(made)
    assert len(index.label("mine/2", "csp", examples=5)) == 4
    assert index.label("mine/3/1", "csp", examples=5)[0].labels
    assert len(index.search("bb").rows()) >= 5  # all but the dead
    assert index.sql("SELECT count(*) AS n FROM neurons").rows() == [{"n": 9}]
    assert index.view("mine/2/0").label.text in WORDS
    assert index.status()["images"] == 40


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda index: index.search("new words"), r"encoder 'colours' .* models=\{'colours': csp_index.Encoder\("),
        (lambda index: index.label("mine/3", vocabulary=["new"]), "encoder 'colours' is a Python object"),
        (
            lambda index: index.add_images(None),
            r"'mine', 'colours' are Python objects .*Network\(.*Encoder\(",
        ),
        (lambda index: index.label("mine/3", "csp", contrast="perturbation"), "network 'mine' is a Python object"),
    ],
)
def test_what_needs_an_object_says_which(made, ask, message) -> None:
    with pytest.raises(CspIndexError, match=message) as caught:
        ask(open_index(made))
    assert "\n" not in str(caught.value)


def test_objects_given_again_extend_the_index(tmp_path) -> None:
    db = tmp_path / "db"
    open_index(db).add_images(Pictures(10), **models())
    index = open_index(db, models=by_name())
    summary = index.add_images(Pictures(14))
    assert (summary.added, summary.images) == (4, 14)
    assert summary.encoders == ("object:colours",)
    assert index.search("new words").rows()
    assert index.add_layer(Network(net(3), preprocess=TO_TENSOR, name="other"), "3").layers == ("other/3",)
    assert index.label("mine/3/1", "csp", vocabulary=WORDS, examples=3, contrast="perturbation")[0].neuron.neuron == 1


def test_another_object_is_refused_with_what_differs(tmp_path) -> None:
    db = tmp_path / "db"
    open_index(db).add_images(Pictures(6), **models())
    with pytest.raises(SettingError, match=r"activations:mine/2 differs from the one in the index .*weights is"):
        open_index(db, models=by_name(seed=1)).add_images(Pictures(7))
    with pytest.raises(ModelError, match="object:mine is not the network the index was built with: its weights is"):
        open_index(db, models=by_name(seed=1)).label(
            "mine/2", "csp", vocabulary=WORDS, contrast="perturbation", examples=2
        )
    larger = transforms.Compose([transforms.Resize((9, 9)), transforms.ToTensor()])
    with pytest.raises(ModelError, match=r"object:colours is not the encoder .* its preprocessing is"):
        open_index(db, models={"colours": Encoder(Colours(), larger)}).search("new")
    with pytest.raises(ModelError, match="is an encoder, the object given is Network"):
        open_index(db, models={"colours": Network(net(), preprocess=TO_TENSOR)}).search("new")


def test_one_name_for_an_encoder_and_a_network_is_refused(tmp_path) -> None:
    message = "object name 'CLIP' is used for an encoder and a network: give one of them another name="
    encoder, network = (
        Encoder(Colours(), TO_TENSOR, name="CLIP"),
        Network(net(), "3", preprocess=TO_TENSOR, name="CLIP"),
    )
    with pytest.raises(SettingError, match=message):
        open_index(tmp_path / "db").add_images(Pictures(4), encoders=[encoder], networks=[network])
    assert not (tmp_path / "db").exists()
    index = open_index(tmp_path / "db")
    index.add_images(Pictures(4), encoders=[encoder])
    with pytest.raises(SettingError, match=message):
        index.add_layer(network, "3")
    with pytest.raises(SettingError, match=message):
        index.add_images(Pictures(4), networks=[network])
    assert index.sql("SELECT * FROM layers").rows() == []
    assert index.search("bb").rows() == []
    assert index.add_layer(network, "3", name="other").layers == ("other/3",)


@pytest.mark.parametrize("option", [{"weights": "IMAGENET1K_V2"}, {"allow_missing": True}])
def test_options_of_named_networks_are_refused_for_objects(tmp_path, option) -> None:
    index = open_index(tmp_path / "db")
    index.add_images(Pictures(4), encoders=[Encoder(Colours(), TO_TENSOR, name="colours")])
    with pytest.raises(SettingError, match=r"weights and allow_missing are for a network named by a spec"):
        index.add_layer(Network(net(), preprocess=TO_TENSOR, name="mine"), "3", **option)
    with pytest.raises(
        SettingError, match=r"a Sequential is no network: give NetworkSource\(spec, layers\) or Network"
    ):
        index.add_layer(net(), "3")
    assert index.sql("SELECT * FROM layers").rows() == []


def test_models_that_are_not_wrapped_or_not_in_a_list_are_refused(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    encoder, network = Encoder(Colours(), TO_TENSOR, name="colours"), Network(net(), "3", preprocess=TO_TENSOR)
    for message, models in {
        r"a Colours is no encoder: give a name, .* or Encoder\(model": {"encoders": [Colours()]},
        r"encoders is an Encoder: give a list, encoders=\[": {"encoders": encoder},
        "encoders is a str: give a list": {"encoders": "python:fakes:encoder"},
        "networks is a Network: give a list": {"encoders": [encoder], "networks": network},
        "networks is a Sequential: give a list": {"encoders": [encoder], "networks": net()},
    }.items():
        with pytest.raises(SettingError, match=message):
            index.add_images(Pictures(4), **models)
    assert not (tmp_path / "db").exists()


def test_another_network_under_a_name_in_use_is_refused(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    two = [Network(net(seed), layer, preprocess=TO_TENSOR, name="mine") for seed, layer in ((0, "2"), (1, "3"))]
    with pytest.raises(
        SettingError, match=r"mine/3 differs from the network of \S+mine/2 of the same call \(weights is"
    ):
        index.add_images(Pictures(4), encoders=models()["encoders"], networks=two)
    index.add_images(Pictures(4), encoders=models()["encoders"], networks=two[:1])
    with pytest.raises(SettingError, match=r"mine/3 differs from the network of \S+mine/2 in the index \(weights is"):
        index.add_layer(two[1], "3")
    larger = Network(net(), preprocess=times(2), name="mine")
    with pytest.raises(SettingError, match=r"mine/3 differs .* in the index \(preprocessing is"):
        index.add_layer(larger, "3")
    assert index.add_layer(two[0], "3").layers == ("mine/3",)


def times(scale: int):
    return lambda image: TO_TENSOR(image) * scale


def test_weights_changed_through_data_are_refused(tmp_path) -> None:
    module = net()
    index = open_index(tmp_path / "db")
    index.add_images(
        Pictures(4), encoders=models()["encoders"], networks=[Network(module, "3", preprocess=TO_TENSOR, name="mine")]
    )
    module[3].weight.data.mul_(2)
    with pytest.raises(SettingError, match=r"mine/3 differs from the one in the index .*weights is"):
        index.add_images(Pictures(6))


def test_a_broken_item_is_a_failure_and_mended_later(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    summary = index.add_images(Pictures(6, broken=2), **models())
    assert (summary.added, summary.failed) == (5, 1)
    failures = index.sql("SELECT uri, reason FROM failures").rows()
    assert failures == [{"uri": "dataset:Pictures/2", "reason": "ValueError: a bad sector"}]
    assert index.add_images(Pictures(6)).added == 1
    assert index.sql("SELECT uri FROM failures").rows() == []


@pytest.mark.slow
def test_an_interrupted_pass_resumes(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_index(tmp_path / "db").add_images(Pictures(40, stop=39), shard_size=4, **models())
    before = open_index(tmp_path / "db").status()["images"]
    assert 0 < before < 40
    assert open_index(tmp_path / "db").add_images(Pictures(40), shard_size=4, **models()).added == 40 - before
    open_index(tmp_path / "whole").add_images(Pictures(40), shard_size=4, **models())
    one, two = (open_index(tmp_path / name).activations("mine/3/2") for name in ("db", "whole"))
    assert np.array_equal(one, two)


def test_another_dataset_of_the_same_name_is_refused(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    index.add_images(Pictures(4), **models())
    with pytest.raises(
        SourceError, match=r"dataset:Pictures/0 is another one than in the index: give add_images\(name="
    ):
        index.add_images(Pictures(6, seed=1))
    assert index.add_images(Pictures(6, seed=1), name="others").added == 6


def test_a_subset_then_the_whole_adds_only_the_rest(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    assert index.add_images(Subset(Pictures(8), [1, 5]), **models()).added == 2
    assert index.add_images(Pictures(8)).added == 6


def test_another_network_is_added_over_a_dataset_that_is_given_again(tmp_path) -> None:
    open_index(tmp_path / "db").add_images(Pictures(8), **models())
    gc.collect()  # a dataset is known for as long as the index that it was given to is in memory
    index = open_index(tmp_path / "db")
    second = Network(net(2), ["0"], preprocess=TO_TENSOR, name="second")
    with pytest.raises(SourceError, match=r"dataset:Pictures/0: the dataset it came from .*add_images\(dataset\)"):
        index.add_layer(second, "0")
    index.add_images(Pictures(8), encoders=models()["encoders"], networks=[second])
    assert len(index.activations("second/0/0")) == 8


def test_each_index_reads_its_own_dataset_of_a_name(tmp_path) -> None:
    first, second = open_index(tmp_path / "first"), open_index(tmp_path / "second")
    first.add_images(Pictures(6), **models())
    second.add_images(Pictures(6, seed=1), **models())  # the newest in this process
    for index in (first, second):
        assert index.add_layer(Network(net(2), preprocess=TO_TENSOR, name="second"), "0").layers == ("second/0",)
    alone = open_index(tmp_path / "alone")
    second_net = Network(net(2), ["0"], preprocess=TO_TENSOR, name="second")
    alone.add_images(Pictures(6), encoders=models()["encoders"], networks=[second_net])
    expected = alone.activations("second/0/1")
    assert np.array_equal(first.activations("second/0/1"), expected)
    assert not np.array_equal(second.activations("second/0/1"), expected)


def test_a_stream_is_indexed_once_and_resumed(tmp_path) -> None:
    def stream(count: int):
        for i in range(count):
            yield f"photo {i}", transforms.ToPILImage()(Pictures(count)[i][0])

    index = open_index(tmp_path / "db")
    done: list[int] = []
    summary = index.add_images(stream(9), shard_size=4, progress=lambda n, *_: done.append(n), **models())
    assert summary.added == done[-1] == 9
    assert index.add_images(stream(11)).added == 2
    assert index.sql("SELECT uri FROM images WHERE image_id = 10").rows() == [{"uri": "photo 10"}]


def test_ray_and_wrong_types_are_refused(tmp_path) -> None:
    index = open_index(tmp_path / "db")
    with pytest.raises(SettingError, match="index Python objects with engine local"):
        index.add_images(Pictures(4), engine="ray", **models())
    with pytest.raises(SettingError, match="a Sequential is no network: give NetworkSource"):
        index.add_images(Pictures(4), encoders=models()["encoders"], networks=[net()])
    assert not (tmp_path / "db").exists()


def test_a_closed_index_lets_go_of_objects_and_can_be_used_again(made) -> None:
    with open_index(made, models=by_name()) as index:
        assert index.search("new words").rows()
    assert index.search("bb").rows()
    with pytest.raises(ModelError, match="is a Python object"):
        index.search("new words")


def test_an_index_of_files_takes_an_object_too(tmp_path) -> None:
    for i in range(4):
        transforms.ToPILImage()(Pictures(4)[i][0]).save(tmp_path / f"{i}.png")
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("conv",))
    index.add_images(tmp_path, encoders=["python:fakes:encoder"], networks=[network])
    assert index.add_layer(Network(net(), preprocess=TO_TENSOR, name="mine"), ["2", "3"]).layers == ("mine/2", "mine/3")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["status"], 0),
        (["show", "mine/2/0"], 0),
        (["search", "bb"], 0),
        (["label", "--layer", "mine/2", "--neurons", "all", "--method", "csp"], 0),
        (["index", "images"], 1),
        (["index"], 1),
        (["search", "something new"], 1),
    ],
)
def test_the_command_line_reads_such_an_index(made, tmp_path, monkeypatch, arguments, status) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "1.png")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, [arguments[0], str(made), *arguments[1:]])
    assert (result.exit_code != 0) == bool(status), result.output
    if status:
        assert isinstance(result.exception, CspIndexError)
        assert "Python object" in str(result.exception)


def test_the_explorer_shows_such_an_index(made) -> None:
    from starlette.testclient import TestClient

    from csp_index.service.app import make_app

    with TestClient(make_app(str(made)), base_url="http://127.0.0.1") as client:
        assert client.get("/neurons/mine/2/0").status_code == 200
        assert client.get("/api/v1/search", params={"q": "bb"}).json()["means"]
        answer = client.get("/api/v1/search", params={"q": "something new"})
        assert "only names were searched" in answer.json()["note"]
        assert "is a Python object" in answer.json()["note"]
