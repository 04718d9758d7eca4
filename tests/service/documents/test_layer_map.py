"""The map of a layer: NumPy's own decomposition as oracle, and what stands on the map of a small real index."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from planted import CONCEPTS, PLANTED, Served, serve_arrays

from csp_index.errors import NotFoundError, SettingError
from csp_index.query import planes
from csp_index.query.planes import plane_of
from csp_index.records import LayerKey
from csp_index.service.documents.layer import GalleryQuery, neurons_document
from csp_index.service.documents.layer_map import COLOURS, layer_map

WORDS = LayerKey.parse(PLANTED)


def cloud(neurons: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((neurons, width)) * np.linspace(3, 0.2, width)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def everyone(vectors: np.ndarray) -> np.ndarray:
    return np.ones(len(vectors), dtype=bool)


@pytest.mark.parametrize(("neurons", "width"), [(50, 8), (8, 50), (12, 12), (3, 40), (40, 2)])
def test_a_plane_is_that_of_the_singular_vectors(neurons: int, width: int) -> None:
    vectors = cloud(neurons, width)
    plane = plane_of(vectors, everyone(vectors))
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    left, lengths, directions = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(directions[np.arange(2), np.abs(directions[:2]).argmax(1)])
    expected = left[:, :2] * lengths[:2] * signs
    span = np.ptp(expected, axis=0).max()
    expected = 0.5 + (expected - (expected.min(0) + expected.max(0)) / 2) / span
    np.testing.assert_allclose(plane.places, expected, atol=1e-4)
    np.testing.assert_allclose(plane.explained, lengths[:2] ** 2 / (lengths**2).sum(), atol=1e-5)
    assert plane.neurons.tolist() == list(range(neurons)) and plane.total == neurons


@given(st.integers(0, 30), st.integers(1, 12), st.integers(0, 5))
@hypothesis_settings(max_examples=40, deadline=None)
def test_places_are_in_the_unit_square_and_the_longer_axis_fills_it(neurons: int, width: int, seed: int) -> None:
    vectors = cloud(neurons, width, seed)
    plane = plane_of(vectors, everyone(vectors))
    assert plane.places.shape == (neurons, 2) and np.isfinite(plane.places).all()
    assert ((plane.places >= 0) & (plane.places <= 1)).all()
    assert 0 <= plane.explained[1] <= plane.explained[0] <= 1 + 1e-6 and sum(plane.explained) <= 1 + 1e-6
    if plane.explained[0] > 0:
        assert np.ptp(plane.places, axis=0).max() == pytest.approx(1, abs=1e-5)
    else:
        assert (plane.places == 0.5).all()


def test_the_same_vectors_give_the_same_plane_whatever_the_order_of_neurons() -> None:
    vectors = cloud(60, 10)
    first, again = (plane_of(vectors, everyone(vectors)) for _ in range(2))
    assert np.array_equal(first.places, again.places)
    order = np.random.default_rng(1).permutation(60)
    np.testing.assert_allclose(plane_of(vectors[order], everyone(vectors)).places, first.places[order], atol=1e-4)


def test_neurons_that_never_fire_or_have_no_vector_are_left_out() -> None:
    vectors = cloud(20, 6)
    vectors[[3, 8]] = 0
    alive = everyone(vectors)
    alive[5] = False
    plane = plane_of(vectors, alive)
    kept = [neuron for neuron in range(20) if neuron not in (3, 5, 8)]
    assert plane.neurons.tolist() == kept
    assert np.array_equal(plane.places, plane_of(vectors[kept], everyone(vectors[kept])).places)


@pytest.mark.parametrize("neurons", [1, 2, 5])
def test_equal_vectors_lie_in_the_middle(neurons: int) -> None:
    vectors = np.repeat(cloud(1, 16), neurons, axis=0)
    plane = plane_of(vectors, everyone(vectors))
    assert (plane.places == 0.5).all() and plane.explained == (0.0, 0.0)


def test_a_line_has_one_axis() -> None:
    vectors = np.outer(np.linspace(1, 2, 7), cloud(1, 9)[0]).astype(np.float32)
    plane = plane_of(vectors, everyone(vectors))
    assert plane.explained == (pytest.approx(1), 0.0)
    assert (plane.places[:, 1] == 0.5).all() and sorted(plane.places[:, 0])[::6] == [0, 1]


def test_of_a_large_layer_some_neurons_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "POINTS", 10)
    vectors = cloud(37, 5)
    plane = plane_of(vectors, everyone(vectors))
    assert len(plane.neurons) == 10 and plane.total == 37
    assert plane.neurons[0] == 0 and plane.neurons[-1] == 36 and (np.diff(plane.neurons) > 0).all()


@pytest.mark.parametrize("colour", COLOURS)
def test_a_map_tells_each_firing_neuron_with_the_value_of_the_gallery(planted: Served, colour: str) -> None:
    document = layer_map(*planted, WORDS, colour)
    listed: dict[int, dict[str, Any]] = {
        row["index"]: row for row in neurons_document(*planted, WORDS, GalleryQuery())["neurons"] if not row["dead"]
    }
    assert {point["index"] for point in document["points"]} == set(listed)
    for point in document["points"]:
        row = listed[point["index"]]
        value = abs(row[colour]) if colour == "effect" and row[colour] is not None else row[colour]
        assert point["value"] == value and point["label"] == row["label"]
    values = [point["value"] for point in document["points"] if point["value"] is not None]
    ends = (min(values), max(values)) if values else (None, None)  # these labels have no probability
    assert (document["low"], document["high"]) == ends
    assert document["layer"] == PLANTED and document["colour"] == colour and document["note"] == ""
    assert document["method"] == planted[0].layer(WORDS).method
    json.dumps(document, allow_nan=False)


def test_the_method_chooses_labels_and_scores(planted: Served) -> None:
    for method in ("csp", "semanticlens"):
        document = layer_map(*planted, WORDS, "score", method)
        scores = planted[0].layer(WORDS).methods[method].scores
        assert document["method"] == method
        assert all(point["value"] == scores[point["index"]] for point in document["points"])


def test_neurons_without_a_value_have_none(planted: Served) -> None:
    document = layer_map(*planted, LayerKey.parse(CONCEPTS))
    values = {point["index"]: point["value"] for point in document["points"]}
    assert values[7] is None and all(values[neuron] is not None for neuron in range(4))


def test_a_layer_without_labels_has_a_map(tmp_path_factory: pytest.TempPathFactory) -> None:
    document = layer_map(*serve_arrays(tmp_path_factory), LayerKey("m", "l"), "score")
    assert (document["low"], document["high"], document["method"]) == (None, None, None)
    assert 3 not in [point["index"] for point in document["points"]]
    assert {point["label"] for point in document["points"]} == {None}


def test_what_does_not_exist_is_refused(planted: Served) -> None:
    with pytest.raises(SettingError, match="colour is 'magic': expected score"):
        layer_map(*planted, WORDS, "magic")
    with pytest.raises(NotFoundError):
        layer_map(*planted, LayerKey("planted", "none"))
    with pytest.raises(NotFoundError, match="has no labels by 'magic'"):
        layer_map(*planted, WORDS, method="magic")
