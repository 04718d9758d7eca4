"""Maps that a network makes on demand: stored once, of some neurons, beside whatever indexing does later."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_once import allow_originals, made_once
from spots import spotted

from csp_index import Index, NetworkSource, open_index
from csp_index.contrast.places import driving
from csp_index.errors import NotFoundError, SourceError
from csp_index.integrity.verify import verify
from csp_index.query.stored_pictures import StoredVeils
from csp_index.records import NeuronKey
from csp_index.store import column_tables

PLACES = ((4, 18), (20, 2), (12, 12))
NETWORK = NetworkSource("python:spots:spot", ("maps", "vector"))
TABLE = column_tables.maps_table("spot/vector")


def draw(folder: Path, first: int, colour: str = "#c80000") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, place in enumerate(PLACES):
        spotted(*place, colour=colour).save(folder / f"{first + number}.png")


def write(folder: Path) -> None:
    draw(folder / "photos", 0)
    draw(folder / "photos", 3, "blue")
    index = open_index(folder / "db", device="cpu")
    index.add_images(folder / "photos", encoders=["python:fakes:encoder"], networks=[NETWORK])


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made_once("maps on demand", write, tmp_path)
    return allow_originals(open_index(tmp_path / "db", device="cpu"))


def test_maps_of_a_neuron_are_stored_and_said_to_be_by_gradients(index: Index) -> None:
    with pytest.raises(NotFoundError, match=r"no maps of spot/vector/1 are stored: .*--layer spot/vector --neurons 1"):
        index.maps("spot/vector/1")
    made = index.make_maps("spot/vector/1")
    assert (made.neurons, made.lacking, made.made) == (1, 0, "gradients") and made.maps > 0
    kept, computed = index.maps("spot/vector/1"), index.compute_maps("spot/vector/1")
    assert kept.frame == computed.frame and kept.frame.made == "gradients"
    places = [computed.images.tolist().index(image) for image in kept.images.tolist()]
    assert np.array_equal(kept.maps, computed.maps[places]) and places == sorted(places)
    telling = set(kept.images[kept.scales > 0].tolist())  # before a gray ground a red spot tells nothing of blue
    assert set(StoredVeils(index.store)(NeuronKey("spot", "vector", 1), kept.images.tolist())) == telling == {3, 4, 5}
    with pytest.raises(NotFoundError, match="spot/vector/0"):
        index.maps("spot/vector/0")
    assert not verify(index.uri).findings and index.sql(
        "SELECT count(*) AS n FROM maps WHERE layer = 'vector'"
    ).rows() == [{"n": len(kept.images)}]


def test_what_is_stored_is_not_made_again_unless_that_is_asked_for(index: Index) -> None:
    first = index.make_maps("spot/vector")
    assert first.neurons == 2 and index.make_maps("spot/vector").maps == 0
    kept = index.maps("spot/vector/0")
    assert index.make_maps("spot/vector/0", recompute=True).maps == len(kept.images)
    again = index.maps("spot/vector/0")
    assert np.array_equal(again.images, kept.images) and np.array_equal(again.maps, kept.maps)
    assert index.store.count(TABLE) == 2


def test_neurons_are_added_where_maps_cover_a_part_of_a_picture(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "middle_square", lambda preprocess: 0.1)  # stored as another number
    for neuron in (0, 1):
        index.make_maps(f"spot/vector/{neuron}")
    assert (
        index.maps("spot/vector/0").frame
        == index.maps("spot/vector/1").frame
        == index.compute_maps("spot/vector/1").frame
    )


def test_images_that_come_later_push_maps_out(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_TOP_IMAGES", "3")
    index.make_maps("spot/vector/0")
    before = index.maps("spot/vector/0").images.tolist()
    (more := tmp_path / "more").mkdir()
    bright = spotted(10, 10)
    bright.paste((255, 0, 0), (0, 0, 32, 32))
    bright.save(more / "bright.png")
    index.add_images(more, encoders=["python:fakes:encoder"], networks=[NETWORK])
    (top,) = index.store.read("neurons", ["top_images"], "layer = 'vector' AND neuron = 0")["top_images"].to_pylist()
    assert set(index.maps("spot/vector/0").images.tolist()) == set(before) & set(top)
    assert not verify(index.uri).findings
    index.make_maps("spot/vector/0")
    assert 6 in index.maps("spot/vector/0").images.tolist()


def test_lost_pictures_are_counted_and_none_is_an_error(index: Index, tmp_path: Path) -> None:
    folder = Path(index.store.read("images", ["uri"])["uri"][0].as_py()).parent
    away = folder.rename(folder.with_name("away"))
    try:
        with pytest.raises(SourceError, match=r"no picture for maps of spot/vector can be opened: .*--images"):
            index.make_maps("spot/vector/1")
        folder.mkdir()
        shutil.copy(away / "0.png", folder)
        made = index.make_maps("spot/vector/0")
        assert made.maps == 1 and made.lacking == 2  # of three red spots
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)
