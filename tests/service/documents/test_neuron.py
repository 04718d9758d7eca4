"""The document of a neuron's page."""

from __future__ import annotations

import json
from collections.abc import Sequence

import fakes
import numpy as np
import pytest
from indexed import ENCODER, WORDS

from csp_index import NetworkSource, open_index
from csp_index.errors import NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.documents import spread
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.live.engine import Engine
from csp_index.service.live.queries import Concepts
from csp_index.service.snapshot import Snapshot
from csp_index.store import column_tables
from csp_index.store.catalog import LayerInfo

KEY = NeuronKey("net", "concepts", 0)


class FakeEngine:
    """An engine whose models read the store itself."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        column = snapshot.store.read(snapshot.encoder.table)[column_tables.EMBEDDING].to_pylist()
        self._embeddings = np.array(column, dtype=np.float32)

    def models(self) -> FakeEngine:
        return self

    def may_run(self, target: LayerInfo) -> bool:
        return False

    def concepts(self, key: LayerKey) -> Concepts:
        table = self._snapshot.layer(key)
        vectors = self._embeddings[table.top_images[:, 0]]
        return Concepts("first image", vectors, ~table.dead)

    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        return self._embeddings[list(ids)]


@pytest.fixture(scope="module")
def engine(snapshot: Snapshot) -> FakeEngine:
    return FakeEngine(snapshot)


def test_a_neurons_document_agrees_with_show(snapshot, engine, squares):
    document = neuron_document(snapshot, engine, KEY)  # csp labeled last
    shown = open_index(squares / "db").view(str(KEY), "csp").as_json()
    assert document["method"] == "csp" and document["label"] == shown["labels"][0]["text"]
    for name in ("pairs", "contrast_quality", "note"):
        assert document[name] == shown[name]
    told = {name: value for name, value in document["statistics"].items() if name != "quantiles"}
    assert shown["statistics"] | told == shown["statistics"]
    assert list(document["statistics"]["quantiles"].values()) == shown["statistics"]["quantiles"]
    assert {int(image) for image in document["images"]} >= set(shown["images"])
    assert [row["method"] for row in document["methods"]] == ["csp", "mean-centred"]
    assert document["previous"] is None and document["next"] == "net/concepts/1"
    run = document["provenance"]["run"]
    assert run["run_id"] == shown_run(snapshot, "csp") and run["settings"]["examples"]["examples"] == 8
    assert document["provenance"]["versions"]["csp_index"] and document["provenance"]["vocabulary"].startswith("list@")
    assert set(document["queries"]) == {"python", "cli", "curl", "sql"}
    json.dumps(document, allow_nan=False)


def shown_run(snapshot: Snapshot, method: str) -> str:
    return str(snapshot.layer(KEY.layer_key).methods[method].runs[KEY.neuron])


def test_quantile_rows_and_histogram_equal_plain_sorting(tmp_path):
    paths = fakes.write_arrays(tmp_path, neurons=70)  # more than are read together; neuron 3 is dead
    open_index(tmp_path / "db").import_arrays(
        paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=25
    )
    snapshot, activations = Snapshot(tmp_path / "db"), np.load(paths["activations"])
    engine = FakeEngine(snapshot)
    for neuron in (0, 3, 4, 17, 69):
        document = neuron_document(snapshot, engine, NeuronKey("m", "l", neuron))
        values = activations[:, neuron]
        counts, edges = np.histogram(values, bins=40)
        assert document["histogram"]["counts"] == counts.tolist()
        assert np.allclose(document["histogram"]["edges"], edges)
        order = sorted(range(len(values)), key=lambda image: (-values[image], image))  # strongest first
        for row in document["quantile_rows"]:
            place = len(values) - 1 - round(row["quantile"] * (len(values) - 1))
            images = [image["image_id"] for image in row["images"]]
            first = order.index(images[0])
            assert images == order[first : first + 6] and order[place] in images
            assert row["value"] == values[order[place]]
            assert [image["activation"] for image in row["images"]] == [values[image] for image in images]


DRAWN = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
SPREADS = {
    "one": DRAWN[:1],
    "few": DRAWN[:5],
    "normal": DRAWN,
    "never fires": np.zeros(50, np.float32),
    "mostly silent": np.maximum(DRAWN - 1, 0),
    "two zeros": np.where(DRAWN > 0, np.float32(-0.0), np.float32(0)),
    "steps": np.round(DRAWN),
    "narrow": 100 + DRAWN / 1000,
    "one far above": np.append(DRAWN, np.float32(1e9)),
    "one far below": np.append(np.float32(-1e9), DRAWN),
    "tiny": DRAWN * np.float32(1e-38),
    "large": DRAWN * np.float32(1e30),
    "beyond float32": np.array([-3e38, 3e38, 0], np.float32),
    "equal and large": np.full(20, 1e20, np.float32),
}


@pytest.mark.parametrize("name", SPREADS)
def test_rows_of_images_are_those_of_plain_sorting_however_activations_lie(name: str) -> None:
    activations = SPREADS[name].astype(np.float32)
    found = spread._spread_of(activations)
    order = np.lexsort((-np.arange(len(activations)), activations))  # weakest first; of equals the higher id
    for quantile, value, images in zip(spread._QUANTILES, found.values, found.images, strict=True):
        place = round(quantile * (len(order) - 1))
        first = min(max(place - 3, 0), max(0, len(order) - 6))
        assert images.tolist() == order[first : first + 6][::-1].tolist()
        assert value == activations[order[place]]
    assert found.counts.sum() == len(activations) and np.isfinite(found.edges).all()
    assert found.edges[0] <= activations.min() and found.edges[-1] >= activations.max()


def test_similar_neurons_come_from_all_layers(snapshot, engine):
    document = neuron_document(snapshot, engine, KEY)
    alive = sum(int((~snapshot.layer(info.key).dead).sum()) for info in snapshot.layers())
    assert len(document["similar"]) == min(8, alive - 1)
    assert str(KEY) not in [row["neuron"] for row in document["similar"]]
    cosines = [row["similarity"] for row in document["similar"]]
    assert cosines == sorted(cosines, reverse=True)
    assert {row["layer"] for row in document["similar"]} == {"conv", "concepts"}
    assert not any(row["dead"] for row in document["similar"])


def test_a_neuron_without_label_and_a_dead_one(snapshot, engine):
    alive = int(np.flatnonzero(~snapshot.layer(LayerKey("net", "conv")).dead)[0])
    bare = neuron_document(snapshot, engine, NeuronKey("net", "conv", alive))
    assert bare["state"] == "unlabelled" and bare["labels"] == bare["pairs"] == bare["methods"] == []
    assert bare["provenance"]["run"] is None and bare["threshold"] == bare["statistics"]["mean"]
    assert bare["facets"] and bare["similar"] and bare["queries"]["cli"]
    dead = neuron_document(snapshot, engine, NeuronKey("net", "concepts", 9))
    assert dead["state"] == "dead" and dead["note"] and dead["facets"] == dead["similar"] == []
    for document in (bare, dead):
        json.dumps(document, allow_nan=False)
    with pytest.raises(NotFoundError, match="no labels by 'pmi'"):
        neuron_document(snapshot, engine, KEY, "pmi")


def test_a_label_made_on_fewer_images_says_so(tmp_path):
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(fakes.write_images(tmp_path / "images", 20), encoders=[ENCODER], networks=[network])
    index.label("net/concepts", vocabulary=WORDS)
    fakes.write_images(tmp_path / "images", 10, start=20)
    index.add_images(tmp_path / "images", encoders=[ENCODER], networks=[network])
    snapshot = Snapshot(tmp_path / "db")
    document = neuron_document(snapshot, FakeEngine(snapshot), KEY)
    assert "made on 20 of 30 images: label again" in document["note"]


def test_the_engine_fits_the_document(snapshot):
    engine = Engine(snapshot, ServiceSettings())
    engine.start()
    engine.models(60)
    document = neuron_document(snapshot, engine, KEY)
    assert document["similar"] and document["facets"][0]["label"] in WORDS
    assert sum(facet["share"] for facet in document["facets"]) == pytest.approx(1)
