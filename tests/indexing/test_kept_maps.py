"""Activation maps of top images: those of the network itself, whatever kills and later images do."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from indexed import ENCODER, NETWORK, contents
from PIL import Image

from csp_index import open_index
from csp_index.images import loader
from csp_index.images.decode import fetch
from csp_index.index import Index
from csp_index.indexing import commit, kept_maps
from csp_index.models.networks import load_network
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables
from csp_index.store.values.activation_maps import NeuronMaps, read_maps

CONV = LayerKey("net", "conv")
TABLE = column_tables.maps_table("net/conv")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_MAP_IMAGES", "3")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fakes.write_images(tmp_path / "images", 23)


def add(db: Path, source: Path | None, **options: object) -> Index:
    index = open_index(db)
    index.add_images(source, **{"encoders": [ENCODER], "networks": [NETWORK], "shard_size": 10, **options})
    return index


def stored(index: Index, key: LayerKey = CONV) -> dict[int, NeuronMaps]:
    info = catalog.layer(index.store, key)
    return read_maps(index.store, info, range(info.neurons))


def check_maps(index: Index) -> None:
    """Compare all stored maps of `conv` with those that the network gives for each top image alone."""
    network = load_network("python:fakes:network", layers=["conv"], name="net")
    found = stored(index)
    for row in index.store.read("neurons", where="layer = 'conv'").to_pylist():
        maps = found[row["neuron"]]
        assert maps.images.tolist() == row["top_images"][:3]
        for image, scale, levels, peak in zip(maps.images, maps.scales, maps.maps, maps.peaks, strict=True):
            (uri,) = index.store.read("images", ["uri"], f"image_id = {image}")["uri"].to_pylist()
            pixels = network.preprocess(Image.open(uri).convert("RGB"))[None]
            whole = network.maps(pixels, "conv", torch.tensor([row["neuron"]]))
            assert whole is not None
            fires = whole[0].clamp(min=0).numpy()
            assert scale == pytest.approx(fires.max(), rel=1e-5)
            assert np.abs(levels / 255 * scale - fires).max() <= scale / 254 if scale else not levels.any()
            assert not scale or levels[tuple(peak)] == 255


def test_the_maps_of_top_images_are_kept_of_layers_that_have_places(images: Path, tmp_path: Path) -> None:
    index = add(tmp_path / "db", images)
    check_maps(index)
    rows = index.store.read(TABLE, ["neuron", "first_image", "images", "height", "width", "side"]).to_pylist()
    one = {"first_image": 0, "images": 23, "height": 8, "width": 8, "side": 0.0}
    assert rows == [{"neuron": neuron, **one} for neuron in range(6)]
    assert not index.store.has(column_tables.maps_table("net/concepts")), "a vector has no places"


def test_later_images_replace_maps_and_a_resumed_pass_makes_the_same(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path / "whole", images)
    real, marks = commit.mark, []

    def killed(*args: object) -> None:
        marks.append(args)
        if len(marks) == 2:
            raise KeyboardInterrupt
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(commit, "mark", killed)
    with pytest.raises(KeyboardInterrupt):
        add(tmp_path / "db", images)
    monkeypatch.setattr(commit, "mark", real)
    resumed = add(tmp_path / "db", images)
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")
    fakes.write_images(images, 14, start=23, seed=4)
    monkeypatch.setattr(kept_maps, "middle_square", lambda _: pytest.fail("what a picture shows is stored already"))
    resumed.add_images(images, shard_size=10)
    check_maps(resumed)
    assert resumed.store.count(TABLE) == 6


def test_no_maps_deletes_them_and_later_passes_leave_them_out(images: Path, tmp_path: Path) -> None:
    index = add(tmp_path / "db", images, maps=False)
    assert not stored(index)
    fakes.write_images(images, 4, start=23)
    index.add_images(images)
    assert not stored(index), "of a layer that had none, none are begun"
    other = add(tmp_path / "other", images)
    other.add_images(None, maps=False)
    assert not stored(other) and other.store.count("neurons") == 16


def test_maps_of_an_index_without_are_made_of_its_top_images_alone(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    whole = add(tmp_path / "whole", images)
    index = add(tmp_path / "db", images, maps=False)
    opened: list[str] = []
    monkeypatch.setattr(loader, "fetch", lambda reader, uri: opened.append(uri) or fetch(reader, uri))
    index.add_images(None, maps=True)
    top = {
        image
        for row in whole.store.read("neurons", where="layer = 'conv'")["top_images"].to_pylist()
        for image in row[:3]
    }
    assert len(opened) == len(top) < 23
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")
    opened.clear()
    index.add_images(None, maps=True)
    assert not opened, "nothing is missing"
    index.add_images(None, maps=False)
    lost = stored(whole)[0].images[0]
    (uri,) = whole.store.read("images", ["uri"], f"image_id = {lost}")["uri"].to_pylist()
    Image.new("RGB", (8, 8)).save(uri)
    index.add_images(None, maps=True)
    assert "have no activation map" in caplog.text and "it changed since it was indexed" in caplog.text
    assert lost not in stored(index)[0].images and set(stored(index)[0].images) < set(stored(whole)[0].images)
