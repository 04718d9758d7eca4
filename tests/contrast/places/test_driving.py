"""Where neurons look, from stored maps and by the network: both find the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from spots import SIDE, spotted

from csp_index import Index, NetworkSource, open_index
from csp_index.contrast.places.driving import MapMaker, Shown, heats, open_pictures, stored_heat
from csp_index.contrast.places.saliency import middle
from csp_index.errors import SourceError
from csp_index.models.networks import load_network
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.values.activation_maps import Frame, NeuronMaps, read_maps

PLACES = ((4, 18), (20, 2))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("spots")
    (folder / "images").mkdir()
    for number, place in enumerate(PLACES):
        spotted(*place).save(folder / "images" / f"{number}.png")
    own = open_index(folder / "db", device="cpu")
    network = NetworkSource("python:spots:spot", ("maps", "vector"))
    own.add_images(folder / "images", encoders=["python:fakes:encoder"], networks=[network])
    return own


def share_on_spot(maps: NeuronMaps, image: int) -> float:
    """Return which share of the heat lies on the spot of an image, counted in places of the coarse map."""
    heat = maps.of(image)
    assert heat is not None
    big = np.asarray(Image.fromarray(heat).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    left, top = PLACES[image]
    return float(big[top - 2 : top + 10, left - 2 : left + 10].sum() / big.sum())


def test_layers_without_places_are_asked_by_gradients(index: Index) -> None:
    for layer in ("maps", "vector"):
        maps = index.compute_maps(f"spot/{layer}/0")
        assert maps.frame == Frame(14, 14, 0.0, "gradients" if layer == "vector" else "activations")
        assert sorted(maps.images.tolist()) == [0, 1]
        assert min(share_on_spot(maps, image) for image in (0, 1)) > 0.8
    assert index.compute_maps("spot/vector/0", [1]).images.tolist() == [1]


def test_maps_made_now_are_those_that_indexing_kept(index: Index) -> None:
    stored, made = index.maps("spot/maps/0"), index.compute_maps("spot/maps/0")
    assert made.images.tolist() == stored.images.tolist() and np.array_equal(made.maps, stored.maps)
    np.testing.assert_allclose(made.scales, stored.scales, rtol=1e-6)


def test_heats_are_the_same_whether_maps_are_stored(index: Index) -> None:
    store, target = index.store, catalog.layer(index.store, LayerKey("spot", "maps"))
    pictures = open_pictures(store, [0, 1], {})
    shown = [Shown(neuron, image, pictures[image]) for neuron in (0, 1) for image in (0, 1)]
    maker = MapMaker(load_network("python:spots:spot", layers=["maps"], device="cpu"), "maps")

    def unwanted() -> MapMaker:
        raise AssertionError("all maps are stored")

    made, stored = heats({}, lambda: maker, shown), heats(read_maps(store, target, [0]), unwanted, shown[:2])
    for (heat, box), (kept, place) in zip(made, stored, strict=False):
        assert torch.equal(heat, kept) and box == place == (0, 0, SIDE, SIDE)
    assert torch.equal(made[2][0], middle(14, 14))  # neuron 1 is for blue: nothing drives it here


def test_stored_heat_covers_what_the_network_saw_and_is_none_without_a_peak(index: Index) -> None:
    maps = index.maps("spot/maps/0")
    heat = stored_heat(maps, 0, (SIDE, SIDE))
    assert heat is not None and heat[1] == (0, 0, SIDE, SIDE) and float(heat[0].median()) == 0
    assert stored_heat(maps, 7, (SIDE, SIDE)) is None and stored_heat(None, 0, (SIDE, SIDE)) is None
    flat = NeuronMaps(Frame(2, 2, 0.5), np.array([3]), np.ones(1, np.float32), np.full((1, 2, 2), 255, np.uint8))
    assert stored_heat(flat, 3, (8, 8)) is None
    flat.maps[0, 0, 1] = 0
    flat.maps[0, 1] = 0
    peaked = stored_heat(flat, 3, (16, 8))
    assert peaked is not None and peaked[1] == (6, 2, 10, 6) and peaked[0].tolist() == [[1, 0], [0, 0]]


def test_images_that_are_gone_are_told(index: Index, tmp_path: Path) -> None:
    folder = Path(index.store.read("images", ["uri"])["uri"][0].as_py()).parent
    folder.rename(tmp_path / "away")
    try:
        with pytest.raises(SourceError, match="none of 2 images of spot/vector/0 can be opened"):
            index.compute_maps("spot/vector/0")
    finally:
        (tmp_path / "away").rename(folder)
