"""How much of what a neuron tells of a class goes along with something else: pure numerics on NumPy arrays.

With the correlations over the images r_ac of activation and class, r_ab of activation and *factor* (a value of a
metadata column, the likeness to a text), r_bc of factor and class, least squares on both give the standardized weights

    w_b = (r_ab - r_ac r_bc) / (1 - r_bc^2),    w_c = (r_ac - r_ab r_bc) / (1 - r_bc^2),    r_ac = w_c + w_b r_bc.

So w_b r_bc / r_ac is the part of the neuron's tie to the class that the factor carries (the bias of an omitted
variable): 1 for a neuron that sees the factor alone, 0 for one that sees the class alone, and 0 where the factor is as
frequent in the class as elsewhere. It is known as well as there are images that break the rule: the standard error of
w_b is sqrt((1 - R^2) / ((1 - r_bc^2) (n - 3))).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SURE = 3.0  # standard errors by which a part is lowered: many pairs of a neuron and a factor are looked at
ALIKE = 0.995  # correlation of factor and class from which on no image tells them apart


@dataclass(frozen=True, slots=True)
class Correlations:
    """Pearson correlations over N images of M activations with F factors, and of factors; 0 where one is constant."""

    images: int
    tied: np.ndarray  # [M, F]
    joint: np.ndarray  # [F, F]


class MomentSums:
    """Collects sums over images, shard by shard, for `Correlations` of M activations with F factors."""

    def __init__(self, neurons: int, factors: int) -> None:
        self._images = 0
        self._sums = np.zeros(neurons), np.zeros(factors)
        self._squares = np.zeros(neurons)
        self._mixed = np.zeros((neurons, factors))
        self._products = np.zeros((factors, factors))

    def add(self, activations: np.ndarray, factors: np.ndarray) -> None:
        """Add some images: activations [M, n] and factors [F, n], float32."""
        self._images += activations.shape[1]
        self._sums[0][:] += activations.sum(1, dtype=np.float64)
        self._sums[1][:] += factors.sum(1, dtype=np.float64)
        self._squares += np.einsum("mn,mn->m", activations, activations, dtype=np.float64)
        self._mixed += activations @ factors.T
        self._products += factors @ factors.T

    def correlations(self) -> Correlations:
        """Return the correlations over all images added."""
        count = max(self._images, 1)
        mean_a, mean_f = (part / count for part in self._sums)
        variance_a = np.maximum(self._squares / count - mean_a**2, 0)
        covariance_f = self._products / count - np.outer(mean_f, mean_f)
        deviation_a, deviation_f = np.sqrt(variance_a), np.sqrt(np.maximum(np.diag(covariance_f), 0))
        mixed = self._mixed / count - np.outer(mean_a, mean_f)
        tied = _divided(mixed, np.outer(deviation_a, deviation_f))
        return Correlations(self._images, tied, _divided(covariance_f, np.outer(deviation_f, deviation_f)))


class PairedSums:
    """Collects sums over images, shard by shard, for the correlations of M activations with a factor each."""

    def __init__(self, neurons: int) -> None:
        self._images = 0
        self._sums = np.zeros((5, neurons))  # of both, of their squares, of their products

    def add(self, activations: np.ndarray, factors: np.ndarray) -> None:
        """Add some images: activations [M, n] and the factor of each, [M, n]."""
        self._images += activations.shape[1]
        left, right = activations.astype(np.float64), factors.astype(np.float64)
        for place, values in enumerate((left, right, left * left, right * right, left * right)):
            self._sums[place] += values.sum(1)

    def correlations(self) -> np.ndarray:
        """Return the correlations [M] over all images added."""
        left, right, left_squares, right_squares, products = self._sums / max(self._images, 1)
        variances = np.maximum(left_squares - left**2, 0), np.maximum(right_squares - right**2, 0)
        return _divided(products - left * right, np.sqrt(variances[0]) * np.sqrt(variances[1]))


def _divided(covariance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return correlations in [-1, 1]; 0 where a deviation is within rounding of 0."""
    varies = scale > 1e-9
    divided: np.ndarray = np.divide(covariance, scale, out=np.zeros_like(covariance), where=varies)
    return divided.clip(-1, 1)


@dataclass(frozen=True, slots=True)
class Carried:
    """The part of ties to a class that factors carry, arrays of one shape.

    `part` is the estimate; `sure` the same, each of its two correlations lowered by `SURE` standard errors, in [0, 1]:
    0 where the factor carries nothing, or too few images tell it from the class. `own` is w_c, the neuron's own weight
    of the class, `weight` is w_b. All are NaN where factor and class cannot be told apart.
    """

    part: np.ndarray
    sure: np.ndarray
    weight: np.ndarray
    own: np.ndarray


def carried(own: np.ndarray, tied: np.ndarray, joint: np.ndarray, images: int) -> Carried:
    """Return what factors carry, for r_ac, r_ab and r_bc of one shape (or shapes that broadcast), over n images."""
    own, tied, joint = np.broadcast_arrays(*(np.asarray(value, dtype=np.float64) for value in (own, tied, joint)))
    apart = np.abs(joint) < ALIKE
    rest = np.where(apart, 1 - joint**2, 1.0)
    weight, alone = (tied - own * joint) / rest, (own - tied * joint) / rest
    explained = np.clip(weight * tied + alone * own, 0, 1)
    freedom = max(images - 3, 1)
    weight_error = np.sqrt((1 - explained) / (rest * freedom))
    joint_error = (1 - joint**2) / np.sqrt(freedom)
    size = np.where(np.abs(own) > 1e-9, own, np.inf)
    least = np.maximum(np.abs(weight) - SURE * weight_error, 0) * np.maximum(np.abs(joint) - SURE * joint_error, 0)
    sign = np.sign(weight * joint) * np.sign(own)
    values = weight * joint / size, np.clip(sign * least / np.abs(size), 0, 1), weight, alone
    return Carried(*(np.where(apart, value, np.nan) for value in values))


def relative_effects(effects: np.ndarray) -> np.ndarray:
    """Return effects [M, C] on classes as shares of the strongest neuron's, in [0, 1]; 0 for those that lower a class.

    So the scale is the same for layers of any width.
    """
    raising = np.maximum(np.nan_to_num(effects), 0)
    strongest = raising.max(0, initial=0)
    relative: np.ndarray = np.divide(raising, strongest, out=np.zeros_like(raising), where=strongest > 0)
    return relative


def auroc(inside: np.ndarray, outside: np.ndarray) -> float:
    """Return the chance that a value inside is above one outside, ties one half; NaN if either is empty."""
    if not len(inside) or not len(outside):
        return float("nan")
    ordered = np.sort(outside)
    above = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return float(above.mean() / (2 * len(outside)))


def unneeded_look(activating: np.ndarray, partners: np.ndarray, images: np.ndarray) -> float:
    """Return how far images that activate a neuron share a look that it does not need, in [0, 1].

    All are likenesses to the text that names the look: of the activating images, of their silent partners, of a sample
    of all images. It is the part by which the activating images stand out from all images (2 AUROC - 1), less the part
    by which they stand out from similar images that leave the neuron silent. 0 without partners.
    """
    shared, needed = 2 * auroc(activating, images) - 1, 2 * auroc(activating, partners) - 1
    return 0.0 if np.isnan(shared + needed) else float(np.clip(shared - max(needed, 0), 0, 1))
