"""Clusters among the residuals of neurons, their number against a null: batched over neurons, NumPy alone.

One meaning gives a cloud without gaps, however long it is in some directions. So what k-means finds is compared with
what it finds in clouds of one piece that are as long in each direction: points drawn evenly along each principal axis,
with the variance that the residuals have there (the gap statistic of Tibshirani, Walther and Hastie, 2001, in the box
along the principal axes). An even cloud is easier to cut in two than a normal one, so it is the stricter of the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

MOST: Final = 5
"""The most clusters that are looked for."""

AXES: Final = 6  # principal axes that clusters are looked for in: further ones mostly have noise
DRAWS: Final = 12  # clouds of one piece
CLEAR: Final = 3.0  # deviations of the null by which clusters must be tighter
SMALL: Final = 0.12  # smallest share of the images in a cluster
LEAST: Final = 4  # images in a cluster
_STARTS = 3
_ROUNDS = 12
_TINY = 1e-12


@dataclass(frozen=True, slots=True)
class Clusters:
    """The cluster of each image, [M, K] int64 from 0 on (-1 absent), and how clear they are.

    `clear` [M] says by how many deviations of the null the clusters are tighter than in clouds of one piece; 0 where
    there is one cluster.
    """

    groups: np.ndarray
    clear: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """The number of clusters of each neuron [M], 0 without an image."""
        counts: np.ndarray = self.groups.max(1, initial=-1) + 1
        return counts


def clusters_of(rows: np.ndarray, present: np.ndarray, seed: int = 0) -> Clusters:
    """Return the clusters of M neurons' rows [M, K, D], of which those `present` [M, K] count.

    Their number is the largest that stands out from the null by CLEAR deviations, 1 where none does: a cluster too many
    is joined later, where it is no meaning of its own. Clusters of less than a SMALL share, or LEAST images, are added
    to the nearest other one. A neuron's clusters do not depend on the other neurons.
    """
    points, lengths = principal_points(rows, present)
    rng = np.random.default_rng(seed)
    null = _null_points(lengths, present, rng)
    groups = np.where(present, 0, -1)
    best = np.zeros(len(rows))
    for count in range(2, MOST + 1):
        found, spread = k_means(points, present, count, rng)
        drawn = np.stack([np.log(k_means(one, present, count, rng)[1] + _TINY) for one in null])
        clear = (drawn.mean(0) - np.log(spread + _TINY)) / np.maximum(drawn.std(0), 1e-3)
        found = without_small(points, present, found, count)
        better = (found.max(1) > 0) & (clear > CLEAR)
        groups[better], best[better] = found[better], clear[better]
    return Clusters(groups, best)


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


def _null_points(lengths: np.ndarray, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return clouds of one piece [DRAWS, M, K, Q]: even along each axis, with its standard deviation [M, Q]."""
    shape = (DRAWS, 1, present.shape[1], lengths.shape[1])  # the same for all neurons, whichever are computed
    drawn = rng.uniform(-(3**0.5), 3**0.5, shape).astype(np.float32) * lengths[:, None]
    return np.asarray(drawn * present[..., None])


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


def without_small(points: np.ndarray, present: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Return the clusters [M, K] with small ones added to the nearest other; numbered anew, the largest first."""
    sizes = (groups[..., None] == np.arange(count)).sum(1)
    least = np.maximum(LEAST, SMALL * present.sum(1))[:, None]
    kept = sizes >= least
    centres = _centres(points, groups, count, np.zeros((len(points), count, points.shape[2]), points.dtype))
    distances = np.where(kept[:, None], _distances(points, centres), np.inf)
    own = np.take_along_axis(kept, np.maximum(groups, 0), 1)
    joined = np.where(own, groups, distances.argmin(2))
    joined = np.where(kept.any(1)[:, None], joined, 0)
    return numbered(np.where(present, joined, -1), count)


def numbered(groups: np.ndarray, count: int) -> np.ndarray:
    """Return clusters [M, K] numbered from 0 on by falling size, of equals the one with the earliest image first."""
    members = groups[..., None] == np.arange(count)
    sizes = members.sum(1)
    first = np.where(sizes > 0, members.argmax(1), groups.shape[1])
    order = np.lexsort((first, -sizes), axis=1)
    places = np.argsort(order, axis=1)
    return np.where(groups >= 0, np.take_along_axis(places, np.maximum(groups, 0), 1), -1)
