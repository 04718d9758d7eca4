"""The numbers of a path, against loops over neurons and steps."""

from __future__ import annotations

import numpy as np

from csp_index.studies.evolution.paths import cosines_to_previous, events, label_changes, settled_at


def test_a_label_is_settled_from_its_last_change_on() -> None:
    rng = np.random.default_rng(0)
    labels = [[[None, "a", "b"][n] for n in rng.integers(0, 3, 20)] for _ in range(6)]
    expected = []
    for neuron in range(20):
        path = [row[neuron] for row in labels]
        expected.append(next(step for step in range(6) if all(one == path[-1] for one in path[step:])))
    assert settled_at(labels).tolist() == expected
    assert label_changes(labels)[3].tolist() == [a != b for a, b in zip(labels[2], labels[3], strict=True)]


def test_a_neuron_that_dies_and_comes_back() -> None:
    assert events(np.array([[0.2], [0.0], [0.0], [0.1]]))[:, 0].tolist() == ["", "died", "", "born"]


def test_cosines_are_those_of_consecutive_vectors_of_neurons_alive_at_both() -> None:
    rng = np.random.default_rng(0)
    vectors = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((3, 4, 5))]
    alive = np.ones((3, 4), bool)
    alive[1, 2] = False
    found = cosines_to_previous([v.astype(np.float32) for v in vectors], alive)
    assert np.isnan(found[0]).all() and np.isnan(found[1:, 2]).all()
    for step in (1, 2):
        np.testing.assert_allclose(found[step, 0], vectors[step][0] @ vectors[step - 1][0], atol=1e-6)
