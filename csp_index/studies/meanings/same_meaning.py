"""Which parts of a neuron's images are one meaning after all: what a neuron needs, and what varies beside it.

Images of one meaning also fall apart: by the color of what they show, or by what their silent neighbors lack (half of
"red star" is taken from one image, the other half from the next). And images that fire a neuron by chance show what
many silent images show as well. Two parts are two meanings if the text of each

1. is another one, and says something of its own part,
2. is worth something: among the images that show it as well as the part does, enough fire the neuron,
3. tells its own images from those of the other part, and
4. explains little of the other part, against the silent images that look like it,

on images that did not choose it. The fourth fails where both parts show what the neuron needs: "red triangle" and "blue
triangle" both explain triangles, and "red star" explains half of what is red and no star.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

APART: Final = 0.65
"""AUROC from which on a text tells the images of two clusters apart; noise in embeddings lowers it."""

EXPLAINED: Final = 0.6
"""Part of a cluster's own score up to which the text of another cluster says nothing of it."""

WORTH: Final = 0.15
"""Share of firing images, among those that show a text as well as its cluster does, below which it is no meaning.

Both were set on seed 2 of the drawn worlds of `scripts/method_search`. Of 736 pairs of parts of two meanings 98 %
explain 0.54 of each other at most, of 538 pairs of one meaning 98 % explain 0.68 or more. The worth of parts that fire
by chance is 0.03 in the median; the lower worth of two meanings is 0.21 or more in 98 %.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Cluster:
    """A cluster of a neuron's images: their ranks [n], its best text by every other image, the other images' vectors.

    `vectors` [h, D] are of the images that did not choose the text, `direction` [D] is the text's, `mean` [D] the mean
    residual of all its images at unit length. `worth` is the share of firing images among those that show the text.
    """

    ranks: np.ndarray
    text: int
    direction: np.ndarray
    vectors: np.ndarray
    mean: np.ndarray
    worth: float


@dataclass(frozen=True, slots=True)
class Meanings:
    """The clusters that are meanings, and how `clear` they are: 1 less the most that one's text explains of another."""

    clusters: list[Cluster]
    clear: float


Named = Callable[[list[np.ndarray]], list[Cluster]]
"""Returns the clusters of images with these ranks."""

Scored = Callable[[Cluster, list[int]], np.ndarray]
"""Returns the scores of texts [T] on the images of a cluster that did not choose its own; 0 says nothing."""


def auroc(own: np.ndarray, others: np.ndarray) -> float:
    """Return the chance that a value of `own` [n] is above one of `others` [m]; ties count one half.

    >>> auroc(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    0.875
    """
    if not len(own) or not len(others):
        return 0.5
    return float((own[:, None] > others).mean() + (own[:, None] == others).mean() / 2)


def tells_apart(one: Cluster, other: Cluster) -> float:
    """Return the lower of the two AUROCs by which the clusters' texts tell their own images from the other's."""
    own = auroc(one.vectors @ one.direction, other.vectors @ one.direction)
    return min(own, auroc(other.vectors @ other.direction, one.vectors @ other.direction))


def meanings(groups: list[np.ndarray], named: Named, scored: Scored) -> Meanings:
    """Return the meanings among clusters with these ranks; 0 is how clear a single one is.

    Clusters without worth are left out one by one, the least first; of the others the two that are most alike are
    joined until all differ. What is joined gets its text anew, so a cluster that is mixed of two meanings ends with the
    one it has more of.
    """
    clusters = named(groups)
    while len(clusters) > 1 and min(one.worth for one in clusters) < WORTH:
        clusters.remove(min(clusters, key=lambda one: one.worth))
    while len(clusters) > 1:
        texts = [cluster.text for cluster in clusters]
        scores = np.stack([scored(cluster, texts) for cluster in clusters])  # [cluster, text]
        alike = _alike(clusters, scores)
        left, right = np.unravel_index(int(alike.argmax()), alike.shape)
        if alike[left, right] <= EXPLAINED:
            return Meanings(clusters, 1 - float(alike[left, right]))
        both = np.sort(np.concatenate([clusters[left].ranks, clusters[right].ranks]))
        rest = [cluster for place, cluster in enumerate(clusters) if place not in (left, right)]
        clusters = [*rest, *named([both])]
    return Meanings(clusters, 0.0)


def _alike(clusters: list[Cluster], scores: np.ndarray) -> np.ndarray:
    """Return how alike the meanings of clusters are, [G, G], -inf on and below the diagonal.

    Above the diagonal: the larger part of a cluster's own score that the other's text has on it. It is 1 at least for
    two whose texts do not tell them apart. For two that share a text, or where a text says nothing of its own cluster,
    it is 2 plus the cosine of their mean residuals.
    """
    count = len(clusters)
    own = np.diag(scores)
    parts = scores / np.where(own > 0, own, np.nan)[:, None]
    alike = np.full((count, count), -np.inf)
    for left in range(count):
        for right in range(left + 1, count):
            one, other = clusters[left], clusters[right]
            if min(own[left], own[right]) <= 0 or one.text == other.text:
                alike[left, right] = 2 + float(one.mean @ other.mean)
                continue
            part = max(parts[left, right], parts[right, left])
            alike[left, right] = max(1.0, part) if tells_apart(one, other) < APART else min(1.0, part)
    return alike
