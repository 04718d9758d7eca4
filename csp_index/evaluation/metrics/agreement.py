"""How far people agree, and what they say of a label: pure NumPy over verdicts; knows no store.

Agreement is over I items (a label on a picture) that several people rated, in C categories; "not sure" is one of them.
Intervals are percentiles of a seeded bootstrap over items: resampled kinds of items are drawn by their numbers, which
is the same as drawing items. What is undefined is NaN: kappa where chance alone would make everybody agree.

Sources: Cohen 1960 (kappa of two raters), Fleiss 1971 (of several), with shares of a category averaged over items where
these have different numbers of raters (Gwet, Handbook of Inter-Rater Reliability).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.errors import EvaluationError

ROUNDS: Final = 1000
LEVEL: Final = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its bootstrap interval, and the number of items behind it; NaN where it is undefined."""

    value: float
    low: float
    high: float
    items: int


_UNKNOWN: Final = Estimate(math.nan, math.nan, math.nan, 0)


def cohen_kappa(a: np.ndarray, b: np.ndarray, categories: int, seed: int = 0, rounds: int = ROUNDS) -> Estimate:
    """Return Cohen's kappa of two raters' categories [I], in [-1, 1]: 1 agree always, 0 as often as by chance.

    Items that one of them left out, below 0, do not count. Of kappa = (p - e) / (1 - e), p is the share of items on
    which they agree, e what it would be if both drew from their own shares.

    >>> cohen_kappa(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0]), 2).value
    0.5
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 1 or a.shape != b.shape:
        raise EvaluationError(f"ratings have shapes {a.shape} and {b.shape}: expected one per item of both raters")
    both = (a >= 0) & (b >= 0)
    cells = np.bincount(a[both] * categories + b[both], minlength=categories * categories)

    def kappa(counts: np.ndarray) -> np.ndarray:
        table = counts.reshape(-1, categories, categories) / np.maximum(counts.sum(-1), 1)[:, None, None]
        agreed = np.trace(table, axis1=1, axis2=2)
        return _above_chance(agreed, np.einsum("rc,rc->r", table.sum(2), table.sum(1)))

    return _estimate(cells, kappa, seed, rounds)


def fleiss_kappa(counts: np.ndarray, seed: int = 0, rounds: int = ROUNDS) -> Estimate:
    """Return Fleiss' kappa from how many raters chose each category [I, C]; items with fewer than two do not count.

    The agreement of an item is the share of its pairs of raters that chose alike, chance the sum of squares of the
    categories' shares. The range is [-1, 1], as of `cohen_kappa`.

    >>> fleiss_kappa(np.array([[2, 0], [0, 2]])).value
    1.0
    """
    patterns, number = _patterns(counts)
    agreed, shares = _pair_agreement(patterns), patterns / np.maximum(patterns.sum(1, keepdims=True), 1)

    def kappa(drawn: np.ndarray) -> np.ndarray:
        weights = drawn / np.maximum(drawn.sum(1, keepdims=True), 1)
        return _above_chance(weights @ agreed, ((weights @ shares) ** 2).sum(1))

    return _estimate(number, kappa, seed, rounds)


def pair_agreement(counts: np.ndarray, seed: int = 0, rounds: int = ROUNDS) -> Estimate:
    """Return the mean over items of the share of pairs of raters that chose alike, in [0, 1], from counts [I, C].

    >>> pair_agreement(np.array([[2, 0], [1, 1], [1, 0]]))
    Estimate(value=0.5, low=0.0, high=1.0, items=2)
    """
    patterns, number = _patterns(counts)
    agreed = _pair_agreement(patterns)
    return _estimate(number, lambda drawn: drawn @ agreed / np.maximum(drawn.sum(1), 1), seed, rounds)


def true_share(verdicts: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of all pictures that a label is true of, in [0, 1], from verdicts [n] in [0, 1] of drawn ones.

    `weights` [n] undo that some were likelier to be drawn. NaN without a verdict.
    """
    total = weights.sum()
    return float((weights * verdicts).sum() / total) if total > 0 else float("nan")


def activation_share(verdicts: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> float:
    """Return the share of a neuron's activation that falls on pictures that its label is true of, in [0, 1].

    Activations [n] below 0 count as 0. A label of all that the neuron fires on has 1, whatever else it is true of. NaN
    where the neuron fires on none of the pictures.
    """
    return true_share(verdicts, weights * np.maximum(activations, 0.0))


def verdict_correlation(verdicts: np.ndarray, activations: np.ndarray, weights: np.ndarray) -> float:
    """Return the correlation, over all pictures, of what people say of a label with the activation, in [-1, 1].

    Pearson's, with every mean weighted [n]. NaN where either is the same on all drawn pictures.
    """
    if weights.sum() <= 0:
        return float("nan")
    share = weights / weights.sum()
    y, z = verdicts - share @ verdicts, activations - share @ activations
    spread = np.sqrt((share @ y**2) * (share @ z**2))
    return float(share @ (y * z) / spread) if spread > 1e-12 * (1 + np.abs(activations).max()) else float("nan")


def mean_with_interval(values: np.ndarray, seed: int = 0, rounds: int = ROUNDS) -> Estimate:
    """Return the mean of values [n] with its interval over them; NaN is left out."""
    present = np.asarray(values, np.float64)
    present = present[~np.isnan(present)]
    if not len(present):
        return _UNKNOWN
    drawn = np.random.default_rng(seed).integers(len(present), size=(rounds, len(present)))
    low, high = np.quantile(present[drawn].mean(1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(present.mean()), float(low), float(high), len(present))


def _patterns(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows of counts with at least two raters, and how many items have each."""
    counts = np.asarray(counts)
    if counts.ndim != 2 or (counts < 0).any():
        raise EvaluationError(f"counts have shape {counts.shape}: expected [items, categories], none below 0")
    rated = counts[counts.sum(1) >= 2]
    if not len(rated):
        return np.zeros((1, counts.shape[1])), np.zeros(1, np.int64)
    patterns, number = np.unique(rated, axis=0, return_counts=True)
    return patterns.astype(np.float64), number


def _pair_agreement(patterns: np.ndarray) -> np.ndarray:
    raters = patterns.sum(1)
    agreed: np.ndarray = (patterns * (patterns - 1)).sum(1) / np.maximum(raters * (raters - 1), 1)
    return agreed


def _above_chance(agreed: np.ndarray, chance: np.ndarray) -> np.ndarray:
    room = 1 - chance
    defined = room > 1e-12
    return np.where(defined, (agreed - chance) / np.where(defined, room, 1.0), np.nan)


def _estimate(number: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int, rounds: int) -> Estimate:
    """Return a statistic of numbers [K] of items of each kind, and its interval over resamples of the items."""
    items = int(number.sum())
    if not items:
        return _UNKNOWN
    drawn = np.random.default_rng(seed).multinomial(items, number / items, size=rounds)
    values = statistic(drawn)
    values = values[~np.isnan(values)]
    tails = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if len(values) else (np.nan, np.nan)
    return Estimate(float(statistic(number[None].astype(np.float64))[0]), float(tails[0]), float(tails[1]), items)
