"""How broad a word a neuron's activations bear: pure numerics on NumPy arrays; knows nothing about the store.

A word's *response* on an image says how present it is, and a word explains a neuron by the Pearson correlation of
response and activation. The climb begins at the label, or at the broader word that explains the choosing images best. A
broader word *bears* a neuron if, over the judging images, its correlation is above 0, keeps the share `keep` of that of
the word at which the climb begins, and is not surely worse: the bootstrap interval of the difference, over the same
resampled images for both, reaches 0. A word whose response is the same on all these images is passed: nothing tells the
two apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

ROUNDS: Final = 200
"""Resamples of the images."""
KEEP: Final = 0.9
"""The share of the label's correlation that a broader word keeps at least."""
ALIKE: Final = 0.995  # correlation of two responses from which on no image tells them apart
_TAILS: Final = (2.5, 97.5)  # percentiles that bound an interval of 95 %
_BLOCK: Final = 2**23  # products of activations and responses at a time

Verdict = Literal["bears", "alike", "worse"]


def standardized(values: np.ndarray) -> np.ndarray:
    """Return rows [m, n] with mean 0 and length 1, float32: products of two are correlations; zeros where constant."""
    centered = values - values.mean(1, dtype=np.float64, keepdims=True)
    length = np.sqrt(np.einsum("mn,mn->m", centered, centered, dtype=np.float64))[:, None]
    scale = np.abs(values).max(1, initial=0, keepdims=True) * np.sqrt(values.shape[1])
    varies = length > 1e-6 * np.maximum(scale, 1e-30)
    result: np.ndarray = np.divide(centered, length, out=np.zeros_like(centered), where=varies).astype(np.float32)
    return result


def correlations(left: np.ndarray, right: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the correlation of each pair [P] of a row of `left` [m, n] and one of `right` [R, n], standardized.

    0 where one of the two is constant.
    """
    result = np.empty(len(rows))
    for pick in _blocks(len(rows), left.shape[1]):
        result[pick] = np.einsum("pn,pn->p", left[rows[pick]], right[columns[pick]], dtype=np.float64)
    return result.clip(-1, 1)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Standardized rows [m, n] with their means and deviations [m, B] over resampled images.

    `weights` [n, B] say how often each resample has an image.
    """

    values: np.ndarray
    weights: np.ndarray
    means: np.ndarray
    deviations: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray) -> Resampled:
        """Resample standardized rows."""
        size = weights.sum(0)
        means = values @ weights / size
        squares = values**2 @ weights / size
        return cls(values, weights, means, np.sqrt(np.maximum(squares - means**2, 0)))

    def correlations(self, other: Resampled, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the correlations of own rows with columns of another over each resample, [P, B]; 0 where constant."""
        size = self.weights.sum(0)
        result = np.empty((len(rows), self.weights.shape[1]), np.float32)
        for pick in _blocks(len(rows), self.values.shape[1]):
            own, of_other = rows[pick], columns[pick]
            joint = (self.values[own] * other.values[of_other]) @ self.weights / size
            joint -= self.means[own] * other.means[of_other]
            scale = self.deviations[own] * other.deviations[of_other]
            result[pick] = np.divide(joint, scale, out=np.zeros_like(joint), where=scale > 1e-12)
        return result.clip(-1, 1)


def resamples(images: int, rounds: int, seed: int) -> np.ndarray:
    """Return how often each of `rounds` resamples with replacement has each image, [n, B] float32."""
    draws = np.random.default_rng((seed, images)).integers(images, size=(rounds, images))
    counts = np.stack([np.bincount(draw, minlength=images) for draw in draws], axis=1)
    weights: np.ndarray = counts.astype(np.float32)
    return weights


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds [P] of 95 % of resampled values [P, B]."""
    low, high = np.percentile(values, _TAILS, axis=-1)
    return low, high


@dataclass(frozen=True, slots=True)
class Compared:
    """P broader words beside the word at which a climb begins, over the judging images.

    `begin` is that word's correlation, `broader` [P] are theirs; `high` [P] is the upper bound of the difference,
    broader minus begin, `least` [P] the lower bound of `broader`; `alike` [P] correlates the two responses.
    """

    begin: float
    broader: np.ndarray
    high: np.ndarray
    least: np.ndarray
    alike: np.ndarray

    def verdicts(self, keep: float) -> list[Verdict]:
        """Return what is said of each word, [P]."""
        bears = (self.least > 0) & (self.high >= 0) & (self.broader >= keep * self.begin)
        alike = self.alike > ALIKE
        return ["alike" if same else "bears" if one else "worse" for same, one in zip(alike, bears, strict=True)]


def reached(
    starts: Sequence[int], parents: Sequence[Sequence[int]], verdicts: dict[int, Verdict]
) -> tuple[dict[int, int], list[int]]:
    """Climb from words to broader ones as long as these bear the neuron.

    Returns the words that bear it, with the steps up to each, and those at which the climb ended. Words that are alike
    are passed; one without a verdict ends it, too.
    """
    steps = dict.fromkeys(starts, 0)
    waiting, ends = list(steps), list[int]()
    for word in waiting:  # the list grows while it is read: breadth first
        for parent in parents[word]:
            if parent in steps:
                continue
            if verdicts.get(parent, "worse") == "worse":
                ends.append(parent)
                continue
            steps[parent] = steps[word] + 1
            waiting.append(parent)
    found = {word: count for word, count in steps.items() if verdicts.get(word) == "bears"}
    return found, list(dict.fromkeys(ends))


def _blocks(pairs: int, images: int) -> list[slice]:
    size = max(1, _BLOCK // max(1, images))
    return [slice(start, start + size) for start in range(0, pairs, size)]
