"""Sums of quantities over images, on the images of each class and in all, and the contrast of their means.

Pure numerics: knows nothing about networks and stores. M neurons, C classes, B images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NORMAL = 1.96  # standard errors on both sides of a mean that leave out 5 %


@dataclass(frozen=True, slots=True)
class Contrast:
    """Means on the images of each class and on the others, and how they differ; all [M, C] float64.

    NaN where a class has no images or all of them. `half` is half of the width of the 95 % interval of `effect`, by the
    normal approximation over images as independent draws; NaN with fewer than two images on either side.
    """

    on_class: np.ndarray
    elsewhere: np.ndarray
    effect: np.ndarray
    half: np.ndarray


class ClassSums:
    """Sums and sums of squares of M x C quantities over images."""

    def __init__(self, neurons: int, classes: int) -> None:
        """Begin with no images."""
        self.counts = np.zeros(classes, dtype=np.int64)
        self._on, self._on_squares = np.zeros((neurons, classes)), np.zeros((neurons, classes))
        self._all, self._all_squares = np.zeros((neurons, classes)), np.zeros((neurons, classes))

    def count(self, classes: np.ndarray) -> None:
        """Count images of these classes [B], before or after their quantities are added."""
        self.counts += np.bincount(classes, minlength=len(self.counts))

    def add(self, quantities: np.ndarray, classes: np.ndarray, first: int = 0) -> None:
        """Add quantities [m, B, C] of the neurons from the row `first` on, for images of these classes [B]."""
        values, rows = np.asarray(quantities, dtype=np.float64), slice(first, first + len(quantities))
        own = values[:, np.arange(len(classes)), classes]  # of the class that each image has, [m, B]
        squares = values**2
        self._all[rows] += values.sum(1)
        self._all_squares[rows] += squares.sum(1)
        self._add_own(own, classes, rows)

    def add_same(self, quantities: np.ndarray, classes: np.ndarray) -> None:
        """Add quantities [M, B] that are the same for every class, of images of these classes [B]."""
        values = np.asarray(quantities, dtype=np.float64)
        self._all += values.sum(1, keepdims=True)
        self._all_squares += (values**2).sum(1, keepdims=True)
        self._add_own(values, classes, slice(None))

    def _add_own(self, values: np.ndarray, classes: np.ndarray, rows: slice) -> None:
        """Add values [m, B] to the sums of the class that each image has."""
        order = np.argsort(classes, kind="stable")
        present, starts = np.unique(classes[order], return_index=True)
        if not len(present):
            return
        ordered = values[:, order]
        self._on[rows, present] += np.add.reduceat(ordered, starts, axis=1)
        self._on_squares[rows, present] += np.add.reduceat(ordered**2, starts, axis=1)

    def contrast(self) -> Contrast:
        """Return the means and their differences."""
        on, off = self.counts, self.counts.sum() - self.counts
        on_mean, on_error = _mean_and_error(self._on, self._on_squares, on)
        off_mean, off_error = _mean_and_error(self._all - self._on, self._all_squares - self._on_squares, off)
        return Contrast(on_mean, off_mean, on_mean - off_mean, _NORMAL * np.sqrt(on_error + off_error))


def _mean_and_error(sums: np.ndarray, squares: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means, and squared standard errors of the means; NaN for fewer than one and two images."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(counts > 0, sums / counts, np.nan)
        spread = np.maximum(squares - counts * np.nan_to_num(means) ** 2, 0) / (counts - 1)
        return means, np.where(counts > 1, spread / counts, np.nan)
