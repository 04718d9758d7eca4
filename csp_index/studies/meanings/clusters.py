"""Clusters among the residuals of neurons, by k-means along their longest axes: batched over neurons, NumPy alone."""

from __future__ import annotations

from typing import Final

import numpy as np

AXES: Final = 6  # principal axes that clusters are looked for in: further ones mostly have noise
_STARTS = 3
_ROUNDS = 12
_TINY = 1e-12


def principal_points(rows: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows [M, K, D] along their principal axes, [M, K, Q], and the standard deviation along each [M, Q]."""
    counts = np.maximum(present.sum(1), 1)
    weights = present[..., None].astype(np.float32)
    centred = (rows - (rows * weights).sum(1, keepdims=True) / counts[:, None, None]) * weights
    products = centred @ centred.transpose(0, 2, 1)
    values, vectors = np.linalg.eigh(products)
    few = min(AXES, rows.shape[1])
    sizes = np.sqrt(np.maximum(values[:, ::-1][:, :few], 0))
    points: np.ndarray = vectors[:, :, ::-1][:, :, :few] * sizes[:, None]
    return points, sizes / np.sqrt(counts)[:, None]


def k_means(
    points: np.ndarray, present: np.ndarray, count: int, rng: np.random.Generator, starts: int = _STARTS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster of each point [M, K], -1 where none is present, and the sum of squared distances [M].

    The best of several random starts, each with centres that are drawn with a chance that grows with the squared
    distance to those drawn before (k-means++).
    """
    best = np.full(len(points), np.inf)
    groups = np.full(present.shape, -1)
    for _ in range(starts):
        found, spread = _one_start(points, present, count, rng)
        better = spread < best
        groups[better], best[better] = found[better], spread[better]
    return groups, best


def _one_start(
    points: np.ndarray, present: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    neurons = np.arange(len(points))
    noise = rng.gumbel(size=(count, 1, present.shape[1])).astype(np.float32)  # of all neurons alike
    first = np.where(present, noise[0], -np.inf).argmax(1)
    centres = points[neurons, first][:, None]
    for place in range(1, count):
        nearest = _distances(points, centres).min(2)
        chosen = np.where(present, np.log(nearest + _TINY) + noise[place], -np.inf).argmax(1)
        centres = np.concatenate([centres, points[neurons, chosen][:, None]], 1)
    groups = np.full(present.shape, -1)
    for _ in range(_ROUNDS):
        distances = _distances(points, centres)
        moved = np.where(present, distances.argmin(2), -1)
        if np.array_equal(moved, groups):
            break
        groups = moved
        centres = _centres(points, groups, count, centres)
    spread = np.where(present, _distances(points, centres).min(2), 0).sum(1)
    return groups, spread


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Return squared distances [M, K, C] of points [M, K, Q] to centres [M, C, Q]."""
    lengths = np.square(points).sum(2)[..., None] + np.square(centres).sum(2)[:, None]
    return np.asarray(np.maximum(lengths - 2 * points @ centres.transpose(0, 2, 1), 0))


def _centres(points: np.ndarray, groups: np.ndarray, count: int, before: np.ndarray) -> np.ndarray:
    """Return the mean [M, C, Q] of each cluster's points; a cluster without points keeps the centre it had."""
    members = (groups[..., None] == np.arange(count)).astype(points.dtype)
    sizes = members.sum(1)[..., None]
    return np.where(sizes > 0, members.transpose(0, 2, 1) @ points / np.maximum(sizes, 1), before)


def numbered(groups: np.ndarray, count: int) -> np.ndarray:
    """Return clusters [M, K] numbered from 0 on by falling size, of equals the one with the earliest image first."""
    members = groups[..., None] == np.arange(count)
    sizes = members.sum(1)
    first = np.where(sizes > 0, members.argmax(1), groups.shape[1])
    order = np.lexsort((first, -sizes), axis=1)
    places = np.argsort(order, axis=1)
    return np.where(groups >= 0, np.take_along_axis(places, np.maximum(groups, 0), 1), -1)
