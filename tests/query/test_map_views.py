"""Activation maps without a model: as rows of SQL, and as arrays."""

from __future__ import annotations

import fakes
import pytest
from indexed import ENCODER

from csp_index import Index, NetworkSource, open_index
from csp_index.errors import NotFoundError


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("maps")
    index = open_index(folder / "db")
    images = fakes.write_images(folder / "images", 9)
    for name, layers in (("net", ("conv", "concepts")), ("{a'b}", ("conv",))):
        network = NetworkSource("python:fakes:network", layers, name=name)
        index.add_images(images, encoders=[ENCODER], networks=[network])
    return index


def test_maps_of_all_layers_are_rows(index: Index) -> None:
    rows = index.sql("SELECT * FROM maps ORDER BY address, rank").rows()
    assert {row["address"] for row in rows} == {f"{net}/conv/{n}" for net in ("net", "{a'b}") for n in range(6)}
    maps = index.maps("net/conv/3")
    own = [row for row in rows if row["address"] == "net/conv/3"]
    assert [row["image_id"] for row in own] == maps.images.tolist() and [row["rank"] for row in own] == list(range(9))
    assert [row["scale"] for row in own] == pytest.approx(maps.scales.tolist(), rel=1e-6)
    assert own[0]["height"] == own[0]["width"] == 8 and maps.maps.shape == (9, 8, 8)


def test_a_layer_without_places_has_none(index: Index) -> None:
    with pytest.raises(NotFoundError, match="index DB --maps"):
        index.maps("net/concepts/3")
    with pytest.raises(NotFoundError, match="neuron net/conv/6 does not exist"):
        index.maps("net/conv/6")
