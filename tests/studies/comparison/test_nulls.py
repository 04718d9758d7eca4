"""The nulls keep what they should of a layer, and break the rest."""

from __future__ import annotations

import numpy as np

from csp_index.studies.comparison.correlation import correlations
from csp_index.studies.comparison.nulls import level_of, mixed_neurons, mixed_vectors, moved


def layer(neurons: int = 30, images: int = 500, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.maximum(rng.standard_normal((neurons, images)) - 0.5, 0).astype(np.float32)


def test_moved_values_are_the_same_on_other_images() -> None:
    values = layer()
    other = moved(values, np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(other, 1), np.sort(values, 1))
    np.testing.assert_allclose(correlations(other, other), correlations(values, values), atol=1e-5)
    assert np.abs(np.diag(correlations(values, other))).max() < 0.3


def test_mixed_neurons_fire_no_more_often_and_are_no_neuron() -> None:
    values = layer()
    values[3] = 0
    values[4] += 5  # fires on every image
    mixed = mixed_neurons(values, np.random.default_rng(1))
    firing = [(some > 0).sum(1) for some in (values, mixed)]
    assert (np.delete(firing[1], 4) <= np.delete(firing[0], 4)).all() and firing[1][3] == 0
    assert np.median(firing[1] / np.maximum(firing[0], 1)) > 0.8
    own = np.diag(correlations(values, mixed))
    assert own.min() > -0.1 and own.max() < 0.8
    assert own[3] == 0


def test_mixed_neurons_stay_in_the_space_of_the_layer() -> None:
    light = np.random.default_rng(2).uniform(size=500)
    values = np.outer(np.linspace(1, 2, 8), light).astype(np.float32)  # all neurons see one thing
    mixed = mixed_neurons(values, np.random.default_rng(1))
    found = correlations(values, mixed)
    some = mixed.std(1) > 0.1  # in the others the four cancel
    assert some.sum() > 2 and np.isclose(found[:, some], 1, atol=1e-4).all()


def test_mixed_vectors_are_unit_vectors_on_the_side_of_those_they_replace() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 8)).astype(np.float32)
    vectors[:, 7] = 0  # a direction that the layer does not use
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mixed = mixed_vectors(vectors, rng)
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=1), 1, atol=1e-5)
    assert (np.einsum("md,md->m", mixed, vectors) >= 0).all() and not mixed[:, 7].any()


def test_the_level_leaves_out_what_was_not_matched() -> None:
    assert level_of(np.array([*np.arange(101.0), np.nan])) == 95
    assert np.isnan(level_of(np.array([np.nan])))
