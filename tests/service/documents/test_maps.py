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
from csp_index.service.documents.maps import map_veil, mapped_images, maps_document
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
