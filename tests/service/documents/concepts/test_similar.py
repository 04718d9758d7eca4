"""Similar neurons: only those nearer than chance gives, and in words how many are left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from planted import CONCEPTS, PLANTED, Served

from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.concepts.similar import similar_neurons
from csp_index.service.live.queries import Concepts
from csp_index.service.snapshot import Snapshot

LAYER, OTHER = LayerKey.parse(PLANTED), LayerKey.parse(CONCEPTS)
Opened = tuple[Snapshot, Any]


class GivenVectors:
    """An engine whose layers have given concept vectors."""

    def __init__(self, vectors: dict[LayerKey, np.ndarray]) -> None:
        self._vectors = vectors

    def models(self) -> GivenVectors:
        return self

    def concepts(self, key: LayerKey) -> Concepts:
        vectors = self._vectors[key]
        return Concepts("csp", vectors, np.ones(len(vectors), bool))


@pytest.fixture
def engine_with(planted: Served, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Opened]:
    """The planted index with concept vectors of a test's own, of one layer or of two."""

    def make(own: np.ndarray, other: np.ndarray | None = None) -> Opened:
        snapshot = Snapshot(planted[0].store.uri)
        layers = {LAYER: own} | ({} if other is None else {OTHER: other})
        row = snapshot.neuron_row(NeuronKey("planted", "words", 0))
        monkeypatch.setattr(snapshot, "neuron_row", lambda key: {**row, "neuron": str(key)})
        rows = [one for one in snapshot.layer_rows() if LayerKey(one["model"], one["name"]) in layers]
        monkeypatch.setattr(snapshot, "layer_rows", lambda: rows)
        return snapshot, GivenVectors(layers)

    return make


def unit(rng: np.random.Generator, count: int, width: int = 64) -> np.ndarray:
    rows = rng.standard_normal((count, width)).astype(np.float32)
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def test_unrelated_neurons_are_left_out_and_related_ones_are_not(engine_with: Callable[..., Opened]) -> None:
    vectors = unit(np.random.default_rng(0), 200)
    vectors[5] = vectors[0] * 0.8 + vectors[5] * 0.6
    vectors[5] /= np.linalg.norm(vectors[5])
    opened = engine_with(vectors)
    found = similar_neurons(*opened, NeuronKey("planted", "words", 0))
    assert [row["neuron"] for row in found.rows] == [f"{PLANTED}/5"] and found.left_out == 198
    assert found.floor is not None and 0.35 < found.floor < found.rows[0]["similarity"]
    assert found.note == f"198 others left out: the nearest of 199 unrelated neurons has {found.floor:.2f} by chance."
    alone = similar_neurons(*opened, NeuronKey("planted", "words", 7))
    assert alone.rows == [] and alone.left_out == 199
    assert alone.note.startswith("None is nearer than chance gives: the nearest has cosine 0.")


def test_neurons_of_other_layers_are_compared_and_few_are_shown(engine_with: Callable[..., Opened]) -> None:
    rng = np.random.default_rng(1)
    own, other = unit(rng, 100), unit(rng, 60)
    other[:12] = own[3] + 0.3 * other[:12]
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    found = similar_neurons(*engine_with(own, other), NeuronKey("planted", "words", 3))
    assert len(found.rows) == 8 and all(row["neuron"].startswith(CONCEPTS) for row in found.rows)
    assert found.left_out == 147 and found.note.startswith("The nearest 8 of 12 that stand out. 147 others left out: ")


def test_of_few_neurons_the_nearest_are_shown_and_that_chance_is_unknown(engine_with: Callable[..., Opened]) -> None:
    found = similar_neurons(*engine_with(unit(np.random.default_rng(2), 5)), NeuronKey("planted", "words", 0))
    assert len(found.rows) == 4 and found.floor is None and found.left_out == 0
    assert found.note == "Of so few neurons nobody can say which cosine chance gives."


def test_a_dead_neuron_has_none(planted: Served) -> None:
    found = similar_neurons(*planted, NeuronKey.parse(f"{PLANTED}/6"))
    assert found.rows == [] and found.note == ""
