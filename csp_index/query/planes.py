"""Vectors on a plane: the two directions in which they differ most.

Principal components by NumPy, exact and the same at every call. Knows nothing about where the vectors come from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

POINTS: Final = 20_000
"""The most neurons on a map; of a larger layer the map shows this many, spread evenly over its numbers."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Where P of `total` neurons lie: their numbers [P] and places [P, 2] in [0, 1], each axis's share of variance."""

    neurons: np.ndarray
    places: np.ndarray
    explained: tuple[float, float]
    total: int

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.neurons.nbytes + self.places.nbytes


def plane_of(vectors: np.ndarray, alive: np.ndarray, most: int | None = None) -> Plane:
    """Return the plane of those neurons `alive` [M] that have a vector [M, D]; the longer axis fills [0, 1].

    Of more than `most` neurons, by default POINTS, as many are taken, spread evenly.
    """
    most = POINTS if most is None else most
    neurons = np.flatnonzero(alive & vectors.any(axis=1))
    total = len(neurons)
    if total > most:
        neurons = neurons[np.linspace(0, len(neurons) - 1, most).astype(np.int64)]
    rows = vectors[neurons].astype(np.float32)
    rows -= rows.mean(0, dtype=np.float64).astype(np.float32) if len(rows) else 0
    places, explained = _leading(rows)
    if not len(rows):
        return Plane(neurons, places, explained, total)
    return Plane(neurons, in_unit_square(places), explained, total)


def in_unit_square(places: np.ndarray) -> np.ndarray:
    """Return places [P, 2] moved and scaled alike on both axes: the longer one fills [0, 1], the other is centered."""
    low, high = places.min(0), places.max(0)
    span = float((high - low).max()) or 1.0
    scaled: np.ndarray = (0.5 + (places - (low + high) / 2) / span).clip(0, 1).astype(np.float32)
    return scaled


def _leading(rows: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return centered rows [P, D] along their two leading directions, [P, 2], and these directions' share of variance.

    A direction's largest entry is positive, which decides between the two opposite ones.
    """
    count, width = rows.shape
    total = float(np.square(rows, dtype=np.float64).sum())
    places, shares = np.zeros((count, 2)), [0.0, 0.0]
    if total <= count * 1e-12:  # only rounding errors of unit vectors
        return places, (0.0, 0.0)
    products = rows.T @ rows if width <= count else rows @ rows.T
    values, directions = np.linalg.eigh(products.astype(np.float64))
    for axis in range(min(2, len(values))):
        value, direction = float(values[-1 - axis]), directions[:, -1 - axis]
        if value <= total * 1e-6:
            continue
        if width > count:
            direction = direction @ rows
        direction = direction / np.linalg.norm(direction) * np.sign(direction[np.abs(direction).argmax()])
        places[:, axis], shares[axis] = rows @ direction, value / total
    return places, (shares[0], shares[1])


def axes_of_blocks(blocks: Iterable[np.ndarray], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [D] of rows that come in blocks [n, D], and the two directions [D, 2] in which they differ most.

    One pass; a direction's largest entry is positive.
    """
    total, products, count = np.zeros(width), np.zeros((width, width)), 0
    for block in blocks:
        rows = block.astype(np.float64)
        total += rows.sum(0)
        products += rows.T @ rows
        count += len(rows)
    mean = total / max(count, 1)
    _, directions = np.linalg.eigh(products / max(count, 1) - np.outer(mean, mean))
    axes = np.zeros((width, 2))
    for axis in range(min(2, width)):
        direction = directions[:, -1 - axis]
        axes[:, axis] = direction * np.sign(direction[np.abs(direction).argmax()])
    return mean, axes
