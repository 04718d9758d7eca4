"""Where a neuron looks, asked of its network now: maps and veils as stored ones, and who may ask."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_once import allow_originals
from PIL import Image

from csp_index import open_index
from csp_index.concurrency import Stop
from csp_index.errors import ModelError, SourceError, StoppedError
from csp_index.models import trust
from csp_index.records import LayerKey, NeuronKey
from csp_index.service import ServiceSettings
from csp_index.service.documents import maps as documents
from csp_index.service.documents.maps import computed_maps_document, maps_document, placed_maps
from csp_index.service.live.engine import Engine
from csp_index.service.snapshot import Snapshot
from csp_index.store import column_tables
from csp_index.store.values.activation_maps import Frame, MapPairs, packed

VECTOR, PLACES = NeuronKey("net", "concepts", 1), NeuronKey("net", "conv", 2)


@pytest.fixture(scope="module")
def engine(snapshot: Snapshot) -> Engine:
    return Engine(snapshot, ServiceSettings())


def test_maps_made_now_come_with_veils(squares: Path, snapshot: Snapshot, engine: Engine) -> None:
    expected = allow_originals(open_index(squares / "db", device="cpu")).compute_maps(str(VECTOR), [7, 3])
    document = computed_maps_document(snapshot, engine, VECTOR, [7, 3, 7])
    assert (document["made"], [row["image_id"] for row in document["images"]]) == ("gradients", [7, 3])
    for row, levels in zip(document["images"], expected.maps, strict=True):
        assert base64.b64decode(row["map"]) == levels.tobytes()
        head, _, data = (row["veil"] or "").partition(",")
        assert head == "data:image/png;base64" and Image.open(io.BytesIO(base64.b64decode(data))).mode == "LA"
    assert len(computed_maps_document(snapshot, engine, VECTOR, None)["images"]) == documents.MOST_COMPUTED
    assert placed_maps(snapshot, VECTOR.layer_key).count == 0  # nothing was stored


def test_of_a_layer_with_places_they_are_as_the_stored_ones(snapshot: Snapshot, engine: Engine) -> None:
    stored = maps_document(snapshot, PLACES)["images"][:4]
    made = computed_maps_document(snapshot, engine, PLACES, [row["image_id"] for row in stored])
    assert made["made"] == "activations" and [row["map"] for row in made["images"]] == [row["map"] for row in stored]


def test_it_stops_when_nobody_waits(snapshot: Snapshot, engine: Engine) -> None:
    stop = Stop()
    stop.set("the client left")
    with pytest.raises(StoppedError, match="the client left"):
        computed_maps_document(snapshot, engine, VECTOR, [11], stop.check)


def test_pictures_that_may_not_be_opened_and_code_that_may_not_run(
    snapshot: Snapshot, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = snapshot.layer(VECTOR.layer_key).info
    assert engine.may_run(target)
    monkeypatch.setattr(trust, "_given", set())
    assert not engine.may_run(target) and Engine(snapshot, ServiceSettings(trust=True)).may_run(target)
    with pytest.raises(ModelError, match="an index may come from a stranger"):
        computed_maps_document(Snapshot(snapshot.store.uri), Engine(snapshot, ServiceSettings()), VECTOR, [5])
    monkeypatch.setattr(documents, "can_open", lambda *_: False)
    with pytest.raises(SourceError, match="may not be opened here"):
        computed_maps_document(snapshot, engine, VECTOR, [5])


def test_gradients_that_tell_nothing_lay_no_veil(tmp_path: Path, squares: Path) -> None:
    shutil.copytree(squares / "db", tmp_path / "db")
    index, layer = open_index(tmp_path / "db"), LayerKey("net", "concepts")
    (top,) = index.store.read("neurons", ["top_images"], "layer = 'concepts' AND neuron = 1")["top_images"].to_pylist()
    levels = np.zeros((3, 2, 2), np.uint8)
    levels[[0, 2], 1, 1] = 255
    scales = np.array([1, 0, 2], np.float32)
    pairs = MapPairs(np.full(3, 1), np.array(top[:3]), scales, levels)
    rows = packed(Frame(2, 2, 0.0, "gradients"), pairs, np.array([1]), 0, 41)
    with index.store.write_lock():
        index.store.append(column_tables.maps_table(str(layer)), rows)
    snapshot = Snapshot(tmp_path / "db")
    placed = placed_maps(snapshot, layer)
    assert (placed.made, placed.of(1, top), placed.of(0, top)) == ("gradients", [top[0], top[2]], [])
    assert maps_document(snapshot, NeuronKey("net", "concepts", 1))["made"] == "gradients"
    maps = index.maps("net/concepts/1")
    assert maps.of(top[1]) is None and maps.levels(top[1]) is not None
