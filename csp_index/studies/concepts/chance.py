"""Above which cosine a neuron is nearer than chance makes the nearest of as many: pure numerics.

Most pairs of neurons are unrelated. Their cosines are taken to be normal: located at the median, and as wide as the
quartiles say. Those that are related lie far out, and hardly move either. What a word means to a layer is compared with
chance words: an encoder puts words that it does not know somewhere among those that it knows, and near to some neuron.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import Final

import numpy as np

LEVEL: Final = 0.05
"""How often the nearest of all neurons, were they unrelated, would be above the floor."""

WORDS: Final = 1024
"""Words of the vocabulary that say what words are like: from those `chance_lead` draws chance words."""

_LEAST = 20  # values; of fewer the width is not known
_LEAST_NEURONS = 8  # of fewer the median is not known
_LEAST_WORDS = 64  # of fewer nobody can say how words vary
_DRAWN = 256  # chance words
_AT_ONCE = 32
_PAIRS = 2**14  # pairs of two layers that are looked at: their quartiles are then known to 1 % of the width
_QUARTILE = NormalDist().inv_cdf(0.75)  # standard deviations from the median to a quartile


def spread(values: np.ndarray) -> float | None:
    """Return the standard deviation of unrelated values [n] among others, from their quartiles; None for too few.

    Related neurons move the quartile on their side outwards: the nearer one to the median counts.

    >>> round(spread(np.random.default_rng(0).normal(0, 0.1, 10_000)), 2), spread(np.zeros(3))
    (0.1, None)
    """
    known = values[np.isfinite(values)]
    if len(known) < _LEAST:
        return None
    lower, median, upper = np.quantile(known, (0.25, 0.5, 0.75))
    return float(min(upper - median, median - lower) / _QUARTILE)


def chance_floor(middle: float, width: float | None, candidates: int) -> float | None:
    """Return above which cosine the nearest of so many unrelated candidates is in 5 of 100 cases, at most 1.

    `middle` is their median, `width` their spread: middle + width q(1 - 0.05 / candidates), q the quantiles of the
    normal distribution. None where the width is not known, or there is no candidate.

    >>> round(chance_floor(0.0, 0.1, 1000), 2), chance_floor(0.0, None, 1000)
    (0.39, None)
    """
    if width is None or candidates < 1:
        return None
    return min(1.0, middle + width * NormalDist().inv_cdf(1 - LEVEL / candidates))


def pairs_floor(cosines: np.ndarray, candidates: int) -> float | None:
    """Return the floor of the nearest of so many neurons, from the cosines [P] of random pairs (`random_cosines`)."""
    width = spread(cosines)
    return None if width is None else chance_floor(float(np.median(cosines)), width, candidates)


def word_floor(cosines: np.ndarray, lead: float | None) -> float | None:
    """Return the floor of the neurons nearest to a word, from their cosines [M] with it, NaN where there is none.

    `lead` is by how much the nearest is above the median for chance words (`chance_lead`); None takes the spread of
    this word's own cosines.
    """
    known = cosines[np.isfinite(cosines)]
    if len(known) < _LEAST_NEURONS:
        return None
    middle = float(np.median(known))
    return chance_floor(middle, spread(known), len(known)) if lead is None else min(1.0, middle + lead)


def chance_lead(vectors: np.ndarray, words: np.ndarray) -> float | None:
    """Return by how much the nearest of neurons [M, D] is above their median for 95 of 100 chance words, at most.

    Chance words are drawn from the normal distribution that has the mean and the covariance of words [S, D] of the
    vocabulary (unit rows): they vary as words do, and mean none. Of fewer than 64 words the cosines with the words
    themselves are taken to be normal. None without words or neurons.

    >>> some = np.eye(8, dtype=np.float32)
    >>> chance_lead(some, some[:0]) is None
    True
    """
    if not len(vectors) or not len(words):
        return None
    if len(words) < _LEAST_WORDS:
        cosines = np.einsum("md,sd->ms", vectors, words)
        width = spread((cosines - np.median(cosines, axis=0)).ravel())
        return None if width is None else chance_floor(0.0, width, len(vectors))
    parts = (vectors @ part.T for part in np.split(chance_words(words), _DRAWN // _AT_ONCE))
    leads = [cosines.max(axis=0) - np.median(cosines, axis=0) for cosines in parts]
    return float(np.quantile(np.concatenate(leads), 1 - LEVEL))


def chance_words(words: np.ndarray) -> np.ndarray:
    """Return unit rows [256, D] that vary as words [S, D] do, which the seed 0 draws."""
    middle = words.mean(axis=0)
    weights = np.random.default_rng(0).standard_normal((_DRAWN, len(words)), np.float32) / np.sqrt(len(words))
    drawn = middle + weights @ (words - middle)  # its covariance is that of the words
    unit: np.ndarray = drawn / np.maximum(np.linalg.norm(drawn, axis=1, keepdims=True), 1e-12)
    return unit.astype(np.float32)


def word_cosines(vectors: np.ndarray, alive: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Return the cosines [M] of unit rows [M, D] with a word [D], NaN for neurons that never fire or have none."""
    cosines: np.ndarray = np.einsum("md,d->m", vectors, word)  # in this thread alone, unlike @
    cosines[~alive | (cosines == 0)] = np.nan
    return cosines


def random_cosines(first: np.ndarray, second: np.ndarray, *, same: bool) -> np.ndarray:
    """Return cosines [P] of random pairs of unit rows [A, D] and [B, D]; with `same` none of a row with itself.

    16,384 pairs, which the seed 0 draws; none where there are fewer than 20 to draw from.
    """
    if len(first) * (len(second) - same) // (1 + same) < _LEAST:
        return np.zeros(0, np.float32)
    rng = np.random.default_rng(0)
    one = rng.integers(len(first), size=_PAIRS)
    shift = rng.integers(1 if same else 0, len(second), size=_PAIRS)
    other = (one + shift) % len(second)
    cosines: np.ndarray = np.einsum("pd,pd->p", first[one], second[other])
    return cosines
