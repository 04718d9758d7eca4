"""Heat maps of a report: the picture keeps its color where it drives the neuron, and it is said where there is none."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from audited import audit, make_audited
from PIL import Image
from spots import SIDE, spotted

from csp_index import Index, NetworkSource, open_index
from csp_index.models.index_models import Models
from csp_index.records import LayerKey, NeuronKey
from csp_index.store import catalog
from csp_index.studies.auditing.stored_audits import StoredFinding
from csp_index.studies.reporting.heat_maps import faded, make_heat_maps
from csp_index.studies.reporting.pictures import HeatMaps

PLACES = ((4, 18), (20, 2))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("spots")
    (folder / "images").mkdir()
    for number, place in enumerate(PLACES):
        spotted(*place).save(folder / "images" / f"{number}.png")
    own = open_index(folder / "db", device="cpu")
    own.add_images(
        folder / "images",
        encoders=["python:fakes:encoder"],
        networks=[NetworkSource("python:spots:spot", ("maps", "vector"))],
    )
    return own


@pytest.fixture(scope="module")
def finding(tmp_path_factory: pytest.TempPathFactory) -> StoredFinding:
    return audit(make_audited(tmp_path_factory.mktemp("audited"))).findings[0]


def of(finding: StoredFinding, layer: str, images: Sequence[int]) -> StoredFinding:
    """Return the finding as if it were about the first neuron of a layer, with these activating images."""
    pairs = [dict(finding.evidence["pairs"][0]) | {"image": image} for image in images]
    return replace(finding, neuron=NeuronKey("spot", layer, 0), evidence={**finding.evidence, "pairs": pairs})


def made(index: Index, one: StoredFinding) -> HeatMaps:
    target = catalog.layer(index.store, LayerKey("spot", one.neuron.layer))
    return make_heat_maps(index.store, index._get_models, target, [one], lambda done, todo, what: None)


@pytest.mark.parametrize("layer", ["maps", "vector"])
def test_color_is_left_where_the_neuron_looks(index: Index, finding: StoredFinding, layer: str) -> None:
    found = made(index, of(finding, layer, [0, 1]))
    assert set(found.pictures) == {(0, 0), (0, 1)} and not found.note and found.of(0, 2) is None
    for image, (left, top) in enumerate(PLACES):
        pixels = np.asarray(Image.open(io.BytesIO(found.pictures[0, image])).convert("RGB"), dtype=float)
        colored = pixels.max(2) - pixels.min(2)
        inside = np.zeros((SIDE, SIDE), dtype=bool)
        inside[top : top + 8, left : left + 8] = True
        assert colored[inside].mean() > 3 * colored[~inside].mean()


def test_stored_maps_are_taken_without_the_network(index: Index, finding: StoredFinding) -> None:
    target = catalog.layer(index.store, LayerKey("spot", "maps"))

    def none() -> Models:
        raise AssertionError("the network is not needed")

    one = of(finding, "maps", [0, 1])
    found = make_heat_maps(index.store, none, target, [one], lambda done, todo, what: None)
    assert set(found.pictures) == {(0, 0), (0, 1)} and not found.note


def test_a_place_without_heat_is_gray_and_the_hottest_keeps_its_color() -> None:
    heat = torch.zeros(4, 4)
    heat[1, 2], heat[3, 0] = 4.0, 1.0
    picture = Image.new("RGB", (4, 4), (200, 20, 60))
    pixels = np.asarray(Image.open(io.BytesIO(faded(picture, heat, (0, 0, 4, 4), 128))).convert("RGB"))
    gray = round(0.3 * (200 + 20 + 60) / 3 + 0.7 * 225)
    assert tuple(pixels[1, 2]) == (200, 20, 60) and tuple(pixels[0, 0]) == (gray, gray, gray)
    half = [(one + gray) / 2 for one in (200, 20, 60)]
    np.testing.assert_allclose(pixels[3, 0], half, atol=1), "the square root of a quarter is a half"
    wide = Image.open(io.BytesIO(faded(picture.resize((400, 200)), heat, (100, 0, 300, 200), 128)))
    assert wide.size == (128, 64)
    assert len(set(np.asarray(wide)[:, :30].reshape(-1, 3).max(1).tolist())) == 1, "no map covers the left part"


def test_pictures_that_cannot_be_opened_are_counted(index: Index, finding: StoredFinding, tmp_path: Path) -> None:
    file = Path(index.store.read("images", ["uri"])["uri"][1].as_py())
    hidden = tmp_path / file.name
    os.rename(file, hidden)
    try:
        found = made(index, of(finding, "maps", [0, 1]))
    finally:
        os.rename(hidden, file)
    assert set(found.pictures) == {(0, 0)} and "cannot be opened: 1 (first: 1.png" in found.note
    assert made(index, of(finding, "maps", [])).note.startswith("There are no heat maps")
