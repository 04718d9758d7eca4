"""Which pictures a label is rated on: drawn so that few verdicts say much, with the weights that undo the draw.

What people are asked for is the correlation of a neuron's activation a(x) with a verdict y(x) on its label (1 true, 0
not), so the mean of z(x) y(x), z the standardized activation. For unknown y its estimate from few pictures varies least
where a picture is drawn with a chance proportional to |z(x)|: importance sampling, as crowd studies do it (arXiv
2506.07985). A fifth of the chance is the same for every picture, which bounds the weights.

Pictures are drawn without repetition, by systematic sampling of a random order with inclusion probabilities pi(x)
(Madow 1949). The weight of a picture, (K / N) / pi(x), is 1 where all are as likely: weighted means over the K drawn
pictures are means over all N (Horvitz and Thompson 1952). Pure NumPy.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

Draw = Literal["importance", "uniform"]
UNIFORM_SHARE: Final = 0.2  # of the chance that does not depend on the activation


@dataclass(frozen=True, slots=True)
class RatedPictures:
    """The K pictures on which a label is rated, in a random order: ids, weights and activations, [K] each."""

    images: np.ndarray
    weights: np.ndarray
    activations: np.ndarray

    @property
    def nbytes(self) -> int:
        """How much memory they take."""
        return self.images.nbytes + self.weights.nbytes + self.activations.nbytes + 100


def draw_pictures(activations: np.ndarray, count: int, draw: Draw, key: str) -> RatedPictures:
    """Return the pictures to rate a label on, from its neuron's activations [N]: the same at every call with a key."""
    size = len(activations)
    count = min(count, size)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(f"{draw} {count} {key}".encode()).digest()[:8], "big"))
    chances = np.full(size, 1 / max(1, size)) if draw == "uniform" else picture_chances(activations)
    inclusion = inclusion_probabilities(chances, count)
    images = rng.permutation(systematic_draw(inclusion, rng))
    return RatedPictures(images, count / size / inclusion[images], activations[images].astype(np.float32))


def picture_chances(activations: np.ndarray, uniform_share: float = UNIFORM_SHARE) -> np.ndarray:
    """Return the chance of each picture [N], which sum to 1, from a neuron's activations [N].

    The same for all pictures if the neuron has one and the same activation on all.

    >>> picture_chances(np.array([0.0, 0.0, 0.0, 1.0])).round(2).tolist()
    [0.18, 0.18, 0.18, 0.45]
    """
    values = activations.astype(np.float64)
    distance = np.abs(values - values.mean())
    total = distance.sum()
    share = distance / total if total > 1e-12 * (1 + np.abs(values).max()) else np.full(len(values), 1 / len(values))
    return (1 - uniform_share) * share + uniform_share / len(values)


def inclusion_probabilities(chances: np.ndarray, count: int) -> np.ndarray:
    """Return the probability with which each of N pictures is among `count` (at most N), [N], which sum to it.

    They are proportional to the chances [N] as far as no probability exceeds 1.
    """
    certain = np.zeros(len(chances), dtype=bool)
    while True:
        rest = chances[~certain].sum()
        left = count - int(certain.sum())
        inclusion = np.where(certain, 1.0, left * chances / rest if rest > 0 else 0.0)
        beyond = (inclusion >= 1) & ~certain
        if not beyond.any():
            return inclusion
        certain |= beyond


def systematic_draw(inclusion: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the places of the pictures drawn, as many as the probabilities [N] sum to, each at most once."""
    certain = inclusion >= 1
    others = rng.permutation(np.flatnonzero(~certain))
    ends = np.cumsum(inclusion[others])
    left = round(float(ends[-1])) if len(others) else 0
    points = np.minimum(rng.random() + np.arange(left), np.nextafter(ends[-1], 0)) if left else np.zeros(0)
    drawn = others[np.searchsorted(ends, points, side="right")]
    return np.sort(np.concatenate([np.flatnonzero(certain), drawn]))
