"""Names of clusters: what tells them from the layer, at most three labels, and what happens without labels."""

from __future__ import annotations

import numpy as np

from csp_index.studies.layer_maps.names import name_clusters


def names(clusters: list[int], texts: list[str | None], central: list[float] | None = None) -> list[tuple[str, ...]]:
    cosines = np.array(central or [0.5] * len(clusters))
    return [one.labels for one in name_clusters(np.array(clusters), cosines, texts)]


def test_the_label_that_a_cluster_has_more_than_the_layer_names_it() -> None:
    # "red" is the more frequent label of cluster 0, but as frequent everywhere
    texts = ["red", "red", "dog", "dog", "red", "red", "cat", "cat", "red", "red"]
    assert names([0, 0, 0, 0, 1, 1, 1, 1, -1, -1], texts) == [("dog",), ("cat",)]


def test_labels_are_added_until_half_of_the_cluster_has_one() -> None:
    texts = ["a", "a", "b", "b", "c", "c", "d", "e", *["z"] * 8]
    (labels,) = names([0] * 8 + [-1] * 8, texts)
    assert labels == ("a", "b"), "they have half of the neurons; c would tell as much"
    found = name_clusters(np.array([0] * 8 + [-1] * 8), np.full(16, 0.5), texts)[0]
    assert found.share == 0.5


def test_of_single_labels_those_nearest_to_the_mean_come_first() -> None:
    assert names([0, 0, 0, 0, -1], ["a", "b", "c", "d", "e"], [0.1, 0.9, 0.5, 0.7, 0]) == [("b", "d")]


def test_what_has_no_label_has_no_name_and_there_may_be_no_cluster() -> None:
    assert names([0, 0, 1, 1], [None, None, "a", None]) == [(), ("a",)]
    assert names([-1, -1], ["a", "b"]) == [] == names([], [])


def test_names_do_not_depend_on_the_order_of_neurons() -> None:
    rng = np.random.default_rng(0)
    clusters, texts = rng.integers(-1, 4, 60), [str(one) for one in rng.integers(0, 9, 60)]
    central = rng.random(60)
    order = rng.permutation(60)
    mixed = name_clusters(clusters[order], central[order], [texts[one] for one in order])
    assert [one.labels for one in mixed] == names(clusters.tolist(), texts, central.tolist())
