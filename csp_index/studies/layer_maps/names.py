"""What clusters of neurons are called: the labels that tell them best from the rest of the layer.

Works on numbers of clusters and texts alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final

import numpy as np

MOST: Final = 3
"""Labels in a name, at most."""
_ENOUGH: Final = 0.5  # of the cluster's neurons: a name whose labels they have needs no further one
_BESIDE: Final = 1 / 3  # of what the first label tells: a label that tells less is left out of the name


@dataclass(frozen=True, slots=True)
class ClusterName:
    """The most telling labels of a cluster, best first; the share of its neurons that have one of them."""

    labels: tuple[str, ...]
    share: float


def name_clusters(clusters: np.ndarray, central: np.ndarray, texts: Sequence[str | None]) -> list[ClusterName]:
    """Return the names of the clusters 0 .. C - 1; one whose neurons have no label has none.

    `clusters` [P] has -1 for neurons in none, `central` [P] the cosine with the mean of the cluster, `texts` [P] the
    labels. A label with the share p of the cluster's neurons and q of all P tells p log(p / q); of labels that tell as
    much the one whose neurons are nearer to the mean comes first.
    """
    everywhere: dict[str, int] = defaultdict(int)
    inside: list[dict[str, list[float]]] = [defaultdict(list) for _ in range(int(clusters.max(initial=-1)) + 1)]
    for cluster, cosine, text in zip(clusters.tolist(), central.tolist(), texts, strict=True):
        if text is not None:
            everywhere[text] += 1
            if cluster >= 0:
                inside[cluster][text].append(cosine)
    sizes = np.bincount(clusters[clusters >= 0].astype(np.int64), minlength=len(inside))
    return [_name(own, int(size), everywhere, len(texts)) for own, size in zip(inside, sizes, strict=True)]


def _name(own: dict[str, list[float]], size: int, everywhere: dict[str, int], total: int) -> ClusterName:
    told = {text: len(near) / size * log(len(near) * total / (size * everywhere[text])) for text, near in own.items()}
    order = sorted(own, key=lambda text: (-round(told[text], 9), -sum(own[text]) / len(own[text]), text))
    labels: list[str] = []
    share = 0.0
    for text in order[:MOST]:
        if labels and (share >= _ENOUGH or told[text] < _BESIDE * told[labels[0]]):
            break
        labels.append(text)
        share += len(own[text]) / size
    return ClusterName(tuple(labels), min(1.0, share))
