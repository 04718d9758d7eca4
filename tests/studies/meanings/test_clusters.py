"""Clusters of residuals: planted groups, distances along principal axes, k-means against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.meanings.clusters import k_means, principal_points


def planted(*sizes: int, width: int = 12, noise: float = 0.15, seed: int = 0) -> np.ndarray:
    """Return rows [1, K, D] around as many axes as there are sizes."""
    rows = np.repeat(np.eye(width)[: len(sizes)], sizes, axis=0)
    return (rows + noise * np.random.default_rng(seed).standard_normal(rows.shape))[None].astype(np.float32)


def test_planted_groups_are_clusters_whatever_the_other_neurons_are() -> None:
    rows = np.concatenate([planted(40, 30), planted(70, seed=1)])
    present = np.ones((2, 70), bool)
    present[0, 60:] = False
    groups = [
        k_means(principal_points(rows[:few], present[:few])[0], present[:few], 2, np.random.default_rng(0))[0]
        for few in (2, 1)
    ]
    assert np.array_equal(groups[0][0], groups[1][0]), "a neuron's clusters do not depend on the others"
    assert (groups[0][0, 60:] == -1).all() and len(set(groups[0][0, :40])) == len(set(groups[0][0, 40:60])) == 1
    assert groups[0][0, 0] != groups[0][0, 40]


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
