"""The figures of a neuron that is 0 on most images, without a look at these: as `class_ranks`, for fewer numbers.

The zeros are one tie between the positive and the negative activations; of them only their number counts, and, where
the images of a class are listed, the ids of those that are not among the others.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csp_index.studies.ranks.members import ClassFigures, Members
from csp_index.studies.ranks.order import falling_order, falling_ranks, unlisted


@dataclass(frozen=True, slots=True)
class _Others:
    """The E images that are not 0: their order, the highest first, and, grouped by class, where they stand in it."""

    order: np.ndarray  # [E] places of images
    group: np.ndarray  # [G] places in `order`, by class, then rising
    owners: np.ndarray  # [G] the class of each
    counts: np.ndarray  # [C] how many each class has
    starts: np.ndarray  # [C]
    positive: np.ndarray  # [C] how many of them are positive

    def image(self, number: np.ndarray) -> np.ndarray:
        """Return the images [C] that stand at a number in each class, which must exist."""
        images: np.ndarray = self.order[self.group[self.starts + number]]
        return images


def fill_sparse(
    figures: ClassFigures, neuron: int, values: np.ndarray, places: np.ndarray, members: Members, above: float
) -> None:
    """Compute the figures of a neuron with activations [n], which are not 0 at `places` (rising) alone.

    It fires above a threshold of 0 or more; no image is in several classes.
    """
    count, sizes = members.count, members.sizes
    few = values[places]
    order = np.concatenate([falling_order(few[part], places[part]) for part in (few > 0, few < 0)])
    positives, zeros = int((few > 0).sum()), count - len(places)
    at = np.arange(len(order))
    at[positives:] += zeros
    others = _grouped(order, positives, members)
    falling = values[order].astype(np.float64)
    fired = positives - int(np.searchsorted(values[order[:positives]][::-1], np.float32(above), side="right"))
    silent, outside = sizes - others.counts, np.where(sizes < count, count - sizes, np.nan)

    def sums(numbers: np.ndarray) -> np.ndarray:
        return np.bincount(others.owners, weights=numbers[others.group], minlength=len(sizes))

    ranks = sums(falling_ranks(falling, at, count)) + silent * (count - positives - (zeros - 1) / 2)
    figures.auroc[neuron] = (ranks - sizes * (sizes + 1) / 2) / (sizes * outside)
    fires = np.bincount(others.owners[others.group < fired], minlength=len(sizes))
    figures.rate_in[neuron], figures.rate_out[neuron] = fires / sizes, (fired - fires) / outside
    own = sums(falling)
    figures.mean_in[neuron], figures.mean_out[neuron] = own / sizes, (falling.sum() - own) / outside
    _fill_lists(figures, neuron, places, others, silent, members)
    within = np.arange(len(others.group)) - others.starts[others.owners]
    gaps = at[others.group] - within + others.owners * (count + 1)
    for place in range(figures.outside.shape[2]):
        number = unlisted(gaps, others.starts, count + 1, place)
        there = number < fired
        figures.outside[neuron, there, place] = order[number[there]]


def _grouped(order: np.ndarray, positives: int, members: Members) -> _Others:
    classes = len(members.sizes)
    owners = _single(members)[order]
    group = np.argsort(owners, kind="stable")
    group = group[: int((owners < classes).sum())]
    own = owners[group].astype(np.int64)
    counts = np.bincount(own, minlength=classes)
    positive = np.bincount(own[group < positives], minlength=classes)
    return _Others(order, group, own, counts, np.cumsum(counts) - counts, positive)


def _single(members: Members) -> np.ndarray:
    if members.single is None:
        raise ValueError("images are in several classes: expected one each")  # a fault of the caller
    return members.single


def _fill_lists(
    figures: ClassFigures, neuron: int, places: np.ndarray, others: _Others, silent: np.ndarray, members: Members
) -> None:
    """List the strongest and the weakest images of each class: positive ones, those of 0 by place, negative ones."""
    owners = _single(members)[places]
    by_id = np.argsort(owners, kind="stable")[: len(others.group)]
    span = int(members.sizes.max()) + 1
    within = np.arange(len(by_id)) - others.starts[others.owners]
    gaps = members.numbers[places[by_id]] - within + others.owners * span  # owners are the same, by class
    classes = np.arange(len(members.sizes))

    def listed(number: np.ndarray) -> np.ndarray:
        """Return the images [C] at a number of each class, from the strongest; -1 where there is none."""
        images = np.full(len(classes), -1)
        zero = (number >= others.positive) & (number < others.positive + silent)
        some = (number >= 0) & (number < members.sizes) & ~zero
        explicit = np.where(number < others.positive, number, number - silent)
        images[some] = others.order[others.group[(others.starts + explicit)[some]]]
        at = unlisted(gaps, others.starts, span, np.where(zero, number - others.positive, 0))
        images[zero] = members.images[(members.starts + at)[zero]]
        return images

    for place in range(figures.strongest.shape[2]):
        figures.strongest[neuron, :, place] = listed(np.full(len(classes), place))
        figures.weakest[neuron, :, place] = listed(members.sizes - 1 - place)
