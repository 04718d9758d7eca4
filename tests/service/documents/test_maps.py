"""Where a neuron fires in its images: the stored maps as a document, and veils that leave the right place open."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import fakes
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from csp_index import Network, NetworkSource, open_index
from csp_index.errors import NotFoundError, StoreError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.maps import map_veil, maps_document, placed_maps
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, column_tables, schema
from csp_index.store.connect import open_store
from csp_index.store.values.activation_maps import neuron_maps


def opened(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data))
    assert picture.mode == "LA"
    return np.asarray(picture)[..., 1].astype(float)


def test_the_document_has_the_stored_maps(squares: Path, snapshot: Snapshot) -> None:
    store = open_index(squares / "db").store
    maps = neuron_maps(store, catalog.layer(store, LayerKey("net", "conv")), 2)
    assert maps is not None
    document = maps_document(snapshot, NeuronKey("net", "conv", 2))
    assert (document["neuron"], document["height"], document["width"]) == ("net/conv/2", 8, 8)
    assert [row["image_id"] for row in document["images"]] == maps.images.tolist()
    for row, levels, scale in zip(document["images"], maps.maps, maps.scales, strict=True):
        assert base64.b64decode(row["map"]) == levels.tobytes()
        assert row["scale"] == scale and row["box"] == (0, 0, 1, 1) and row["name"].endswith(".png")
        assert row["peak"] is None or levels[row["peak"]] == 255
    top = snapshot.layer(LayerKey("net", "conv")).statistics_of(2)["top_images"]
    assert placed_maps(snapshot, LayerKey("net", "conv")).of(2, top) == maps.images.tolist()
    assert placed_maps(snapshot, LayerKey("net", "concepts")).of(2, top) == []


def test_a_layer_without_places_and_an_image_without_a_map_are_missing(snapshot: Snapshot) -> None:
    with pytest.raises(NotFoundError, match="csp-index index DB --maps"):
        maps_document(snapshot, NeuronKey("net", "concepts", 0))
    image = maps_document(snapshot, NeuronKey("net", "conv", 0))["images"][0]["image_id"]
    assert opened(map_veil(snapshot, NeuronKey("net", "conv", 0), image)).shape == (96, 96)
    with pytest.raises(NotFoundError, match="no map on image 4000"):
        map_veil(snapshot, NeuronKey("net", "conv", 0), 4000)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("neuron", 2**31 - 1, "of neurons that the layer does not have"),
        ("neuron", -1, "of neurons that the layer does not have"),
        ("neuron", None, "of neurons that the layer does not have"),
        ("scales", [], "images and scales do not fit together"),
        ("image_ids", [None] * 4, "do not fit together"),
    ],
)
def test_maps_of_other_neurons_are_damage(
    squares: Path, tmp_path: Path, column: str, value: object, message: str
) -> None:
    """An index may come from a stranger: the number of a neuron decides how much memory its layer's pages take."""
    store = open_store(shutil.copytree(squares / "db", tmp_path / "db"))
    table = column_tables.maps_table("net/conv")
    with store.write_lock():
        rows = store.read(table).to_pylist()
        rows[1][column] = value
        store.delete(table, "true")
        store.append(table, pa.Table.from_pylist(rows, schema=column_tables.maps_schema()))
    with pytest.raises(StoreError, match=f"maps of net/conv .* are damaged .*{message}"):
        placed_maps(Snapshot(tmp_path / "db"), LayerKey("net", "conv"))


class Letterboxed(fakes.FakeNetwork):
    """Sees whole pictures with a margin around them; its neurons fire where it is red."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.weight.data.zero_()
        self.conv.weight.data[:, 0, 1, 1] = 1
        self.conv.weight.data[:, 1, 1, 1] = -1
        self.conv.bias.data.zero_()

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), (128, 128, 128))
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        pixels = np.asarray(canvas.resize((56, 56)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)


def test_a_veil_is_placed_where_the_preprocessing_adds_margins(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        picture = Image.new("RGB", (160, 80), (90, 90, 90))
        picture.paste((255, 0, 0), (120, 0, 160, 40))  # the upper right corner
        picture.putpixel((0, 79), (number, 0, 0))
        picture.save(tmp_path / "images" / f"{number}.png")
    index = open_index(tmp_path / "db")
    index.add_images(
        tmp_path / "images",
        encoders=["python:fakes:encoder"],
        networks=[Network(Letterboxed(), "conv", name="net", pool="max")],
    )
    snapshot, key = Snapshot(tmp_path / "db"), NeuronKey("net", "conv", 0)
    placed = placed_maps(snapshot, key.layer_key)
    assert placed.of(0, [3, 2, 1, 0]) == [3, 2, 1, 0]
    opacity = opened(map_veil(snapshot, key, 1))
    assert opacity.shape == (48, 96)
    assert opacity[4:16, 80:92].max() < 40 and opacity[30:44, 4:60].min() > 150
    (row, *_) = maps_document(snapshot, key)["images"]
    assert row["box"] == pytest.approx((0, -0.5, 1, 1.5), abs=0.05)


@pytest.mark.parametrize("lost", ["map", "size", "place"])
def test_no_page_asks_for_a_veil_that_cannot_be_laid(tmp_path: Path, lost: str) -> None:
    fakes.write_images(tmp_path / "images", 12)
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("conv",), name="net")
    index.add_images(tmp_path / "images", encoders=["python:fakes:encoder"], networks=[network])
    layer, store = LayerKey("net", "conv"), index.store
    maps = neuron_maps(store, catalog.layer(store, layer), 0)
    assert maps is not None
    image, table = int(maps.images[1]), column_tables.maps_table("net/conv")
    with store.write_lock():
        if lost == "map":
            rows = store.read(table).to_pylist()
            at = 8 * 8 * int((maps.scales[:1] > 0).sum())
            rows[0]["maps"] = rows[0]["maps"][:at] + rows[0]["maps"][at + 8 * 8 * int(maps.scales[1] > 0) :]
            rows[0]["image_ids"].pop(1), rows[0]["scales"].pop(1)
        elif lost == "size":
            table = schema.IMAGES
            rows = store.read(table).to_pylist()
            rows[image]["width"] = 0
        else:
            rows = [row | {"side": None} for row in store.read(table).to_pylist()]
        store.replace(table, pa.Table.from_pylist(rows, schema=store.dataset(table).schema))
    snapshot = Snapshot(tmp_path / "db")
    top = snapshot.layer(layer).statistics_of(0)["top_images"]
    shown = placed_maps(snapshot, layer).of(0, top)
    assert shown == ([] if lost == "place" else [one for one in maps.images.tolist() if one != image])
    for one in shown:
        map_veil(snapshot, NeuronKey("net", "conv", 0), one)
    with pytest.raises(NotFoundError):
        map_veil(snapshot, NeuronKey("net", "conv", 0), image)
