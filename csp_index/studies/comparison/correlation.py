"""Correlations of two layers' activations, from blocks of images: one matrix product a block. NumPy alone.

Knows nothing of stores. Activations are standardized by moments that are roughly those of the images that come, so that
products in float32 lose no digits; the exact mean and deviation are counted on the way and used at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_FLAT = 1e-12  # a variance, as a share of the one expected, below which a neuron does not vary


@dataclass(frozen=True, slots=True)
class Moments:
    """About the mean and the standard deviation of M neurons, each [M] float64; a deviation of 0 counts as 1."""

    mean: np.ndarray
    deviation: np.ndarray

    def standardize(self, values: np.ndarray) -> np.ndarray:
        """Return activations [M, n] minus the mean, over the deviation, float32."""
        scale = np.where(self.deviation > 0, self.deviation, 1.0)
        result: np.ndarray = ((values - self.mean[:, None]) / scale[:, None]).astype(np.float32)
        return result

    def some(self, neurons: slice) -> Moments:
        """Return those of some neurons."""
        return Moments(self.mean[neurons], self.deviation[neurons])


class CorrelationSums:
    """The sums behind the Pearson correlations of M1 neurons with M2 others."""

    def __init__(self, first: Moments, second: Moments) -> None:
        """Start without images."""
        self._moments = first, second
        self._images = 0
        self._products = np.zeros((len(first.mean), len(second.mean)), np.float32)
        self._totals = [np.zeros(len(moments.mean)) for moments in self._moments]
        self._squares = [np.zeros(len(moments.mean)) for moments in self._moments]

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Add the activations [M1, n] and [M2, n] on the same n images."""
        pair = [moments.standardize(values) for moments, values in zip(self._moments, (first, second), strict=True)]
        self._products += pair[0] @ pair[1].T
        for side, values in enumerate(pair):
            self._totals[side] += values.sum(1, dtype=np.float64)
            self._squares[side] += np.einsum("mn,mn->m", values, values, dtype=np.float64)
        self._images += first.shape[1]

    def correlations(self) -> np.ndarray:
        """Return the correlations [M1, M2] float32, in [-1, 1], 0 where a neuron does not vary. Uses up the sums."""
        means = [totals / self._images for totals in self._totals]
        variances = [
            squares / self._images - np.square(mean) for squares, mean in zip(self._squares, means, strict=True)
        ]
        scales = [1 / np.sqrt(np.where(var > _FLAT, var, np.inf)) for var in variances]
        result = self._products
        result /= self._images
        for start in range(0, len(result), 256):  # in blocks: the product of the means is as large as the result
            rows = slice(start, start + 256)
            result[rows] -= np.outer(means[0][rows], means[1])
            result[rows] *= np.outer(scales[0][rows], scales[1])
        return np.clip(result, -1, 1, out=result)


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the Pearson correlations [M1, M2] float32 of rows [M1, n] with rows [M2, n]; 0 where a row is constant.

    >>> correlations(np.array([[1.0, 2, 3], [5, 5, 5]]), np.array([[3.0, 2, 1]])).tolist()
    [[-1.0], [0.0]]
    """
    pair = [
        Moments(values.mean(1, dtype=np.float64), values.std(1, dtype=np.float64)).standardize(values)
        for values in (first, second)
    ]
    result: np.ndarray = np.clip(pair[0] @ pair[1].T / np.float32(first.shape[1]), -1, 1)
    return result


class ImageSample:
    """The activations of both layers on a seeded sample of the images that pass by."""

    def __init__(self, images: int, size: int, seed: int) -> None:
        """Choose `size` of `images` images, all of them where there are no more."""
        rng = np.random.default_rng(seed)
        self._chosen = np.sort(rng.choice(images, size, replace=False)) if size < images else np.arange(images)
        self._images, self._passed = images, 0
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, first: np.ndarray, second: np.ndarray) -> None:
        """Look at the next n images, [M1, n] and [M2, n]."""
        low, high = np.searchsorted(self._chosen, (self._passed, self._passed + first.shape[1]))
        if high > low:
            places = self._chosen[low:high] - self._passed
            self._parts.append((first[:, places], second[:, places]))
        self._passed += first.shape[1]

    @property
    def is_full(self) -> bool:
        """Whether all images have passed by."""
        return self._passed == self._images

    def values(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the activations [M1, n] and [M2, n] on the sample."""
        first, second = zip(*self._parts, strict=True)
        return np.concatenate(first, 1), np.concatenate(second, 1)
