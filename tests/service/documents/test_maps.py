"""Where a neuron fires in its images: the stored maps as a document, and veils that leave the right place open."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csp_index import open_index
from csp_index.errors import NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.maps import map_veil, mapped_images, maps_document, veil
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog
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
    assert mapped_images(snapshot, NeuronKey("net", "conv", 2), top) == maps.images.tolist()
    assert mapped_images(snapshot, NeuronKey("net", "concepts", 2), top) == []


def test_a_layer_without_places_and_an_image_without_a_map_are_missing(snapshot: Snapshot) -> None:
    with pytest.raises(NotFoundError, match="csp-index index DB --maps"):
        maps_document(snapshot, NeuronKey("net", "concepts", 0))
    image = maps_document(snapshot, NeuronKey("net", "conv", 0))["images"][0]["image_id"]
    assert opened(map_veil(snapshot, NeuronKey("net", "conv", 0), image)).shape == (96, 96)
    with pytest.raises(NotFoundError, match="no map on image 4000"):
        map_veil(snapshot, NeuronKey("net", "conv", 0), 4000)


def test_a_veil_is_open_where_the_neuron_fires_and_shut_outside_of_what_the_network_saw() -> None:
    heat = np.zeros((7, 7), np.float32)
    heat[1, 5] = 1
    shut = opened(veil(heat, (0.25, 0.0, 0.75, 1.0), (400, 200)))
    assert shut.shape == (48, 96)
    row, column = np.unravel_index(shut.argmin(), shut.shape)
    assert (row / 48, (column / 96 - 0.25) / 0.5) == pytest.approx((1.5 / 7, 5.5 / 7), abs=0.05)
    assert shut.min() < 40 and (shut[:, :24] > 190).all() and (shut[:, 72:] > 190).all()
