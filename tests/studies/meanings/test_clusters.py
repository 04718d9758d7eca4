"""Clusters and their null: planted groups, clouds of one piece, small clusters, k-means against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.meanings.clusters import (
    clusters_of,
    k_means,
    numbered,
    principal_points,
    without_small,
)


def planted(*sizes: int, width: int = 12, noise: float = 0.15, seed: int = 0) -> np.ndarray:
    """Return rows [1, K, D] around as many axes as there are sizes."""
    rows = np.repeat(np.eye(width)[: len(sizes)], sizes, axis=0)
    return (rows + noise * np.random.default_rng(seed).standard_normal(rows.shape))[None].astype(np.float32)


@pytest.mark.parametrize("sizes", [(40, 30), (30, 25, 20)])
def test_planted_groups_are_the_clusters(sizes: tuple[int, ...]) -> None:
    rows = planted(*sizes)
    found = clusters_of(rows, np.ones(rows.shape[:2], bool))
    truth = np.repeat(np.arange(len(sizes)), sizes)
    assert found.counts[0] >= len(sizes) and found.clear[0] > 3
    pure = [set(truth[found.groups[0] == place].tolist()) for place in range(found.counts[0])]
    assert all(len(one) == 1 for one in pure), "no cluster mixes two groups"
    numbers = np.bincount(found.groups[0])
    assert (np.diff(numbers) <= 0).all(), "the largest first"


def test_one_cloud_is_one_cluster_however_long_it_is() -> None:
    rng = np.random.default_rng(0)
    lengths = np.array([8.0, 3, *[1] * 8])
    even = rng.uniform(-1, 1, (20, 80, 10)) * lengths
    normal = rng.standard_normal((20, 80, 10)) * lengths
    clouds = np.concatenate([even, normal]).astype(np.float32)
    found = clusters_of(clouds, np.ones(clouds.shape[:2], bool))
    assert (found.counts > 1).mean() <= 0.1 and (found.clear[found.counts == 1] == 0).all()


def test_absent_images_do_not_count_and_a_neuron_does_not_depend_on_others() -> None:
    rows = np.concatenate([planted(40, 30), planted(70, seed=1)])
    present = np.ones((2, 70), bool)
    present[0, 60:] = False
    both = clusters_of(rows, present)
    alone = clusters_of(rows[:1], present[:1])
    assert np.array_equal(both.groups[0], alone.groups[0]) and both.clear[0] == pytest.approx(alone.clear[0], rel=1e-4)
    assert (both.groups[0, 60:] == -1).all() and both.counts.tolist() == [both.counts[0], 1]
    none = clusters_of(rows, np.zeros((2, 70), bool))
    assert none.counts.tolist() == [0, 0] and (none.groups == -1).all()


def test_principal_points_keep_distances() -> None:
    rows = planted(12, 9, width=5)
    points, lengths = principal_points(rows, np.ones((1, 21), bool))
    apart = np.linalg.norm(rows[0, :, None] - rows[0], axis=2)
    assert np.allclose(np.linalg.norm(points[0, :, None] - points[0], axis=2), apart, atol=1e-4)
    spectrum = np.sqrt(np.sort(np.linalg.eigvalsh(np.cov(rows[0].T, bias=True)))[::-1])
    assert np.allclose(lengths[0, :5], spectrum, atol=1e-3)


def test_k_means_finds_what_every_division_shows() -> None:
    points = np.random.default_rng(3).standard_normal((1, 9, 2)).astype(np.float32)
    _, spread = k_means(points, np.ones((1, 9), bool), 2, np.random.default_rng(0), 8)
    best = np.inf
    for mask in range(1, 2**8):  # point 8 is always on the other side
        side = np.array([mask >> bit & 1 for bit in range(9)], bool)
        best = min(best, sum(np.square(points[0, part] - points[0, part].mean(0)).sum() for part in (side, ~side)))
    assert spread[0] == pytest.approx(best, rel=1e-4)


def test_small_clusters_join_the_nearest() -> None:
    points = np.array([[[0, 0]] * 10 + [[5, 0]] * 8 + [[6, 0]] * 2], np.float32)
    groups = np.array([[0] * 10 + [1] * 8 + [2] * 2])
    joined = without_small(points, np.ones((1, 20), bool), groups, 3)
    assert joined.tolist() == [[0] * 10 + [1] * 10]
    assert numbered(np.array([[1, 1, 0, 2, 2, -1]]), 3).tolist() == [[0, 0, 2, 1, 1, -1]]
