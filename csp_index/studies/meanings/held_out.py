"""How much better one set of images explains a neuron's activations than another, with an interval over images.

A set explains activations by their correlation with membership in it. The interval is a bootstrap over random groups of
images: sums over a group are kept, and groups are drawn with replacement, the same for all neurons. NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

GROUPS: Final = 200
RESAMPLES: Final = 400
_TAIL = 2.5  # per cent on each side


@dataclass(frozen=True, slots=True)
class Gain:
    """The correlations of activations with two sets of images, how much higher the first is, and its 95 % interval."""

    correlation: float
    single: float
    gain: float
    low: float
    high: float


class HeldOut:
    """Judges sets of N images that did not choose them."""

    def __init__(self, images: int, seed: int) -> None:
        """Divide the images into random groups, and draw the resamples of these."""
        rng = np.random.default_rng([seed, images])
        count = max(1, min(GROUPS, images // 2))
        self._group = rng.permutation(np.arange(images) % count)
        self._weights = rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)
        self._count = count

    def gain(self, activations: np.ndarray, one: np.ndarray, other: np.ndarray) -> Gain:
        """Return how much better the images of `one` explain activations [N] than those of `other`, bool [N]."""
        values = activations.astype(np.float64)
        parts = (np.ones_like(values), values, values**2, one, other, values * one, values * other)
        sums = np.stack([np.bincount(self._group, part, self._count) for part in parts])  # [7, groups]
        whole = _correlations(sums.sum(1)[:, None])
        drawn = _correlations(sums @ self._weights.T)
        low, high = np.percentile(drawn[0] - drawn[1], (_TAIL, 100 - _TAIL))
        first, second = float(whole[0, 0]), float(whole[1, 0])
        return Gain(first, second, first - second, float(low), float(high))


def _correlations(sums: np.ndarray) -> np.ndarray:
    """Return the correlations [2, R] of activations with both sets, from sums [7, R]; 0 where one does not vary."""
    count, total, squares = np.maximum(sums[0], 1), sums[1], sums[2]
    mean = total / count
    spread = np.maximum(squares / count - mean**2, 0)
    found = []
    for members, products in ((sums[3], sums[5]), (sums[4], sums[6])):
        share = members / count
        product = spread * share * (1 - share)
        known = product > 1e-18
        found.append(np.where(known, (products / count - mean * share) / np.sqrt(np.where(known, product, 1)), 0.0))
    return np.stack(found)
