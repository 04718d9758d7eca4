"""Facets, the different things among a neuron's activating images: groups of similar directions, and a text for each.

Pure numerics on NumPy arrays; knows nothing about the store or models. Larger products use einsum instead of `@`: BLAS
would start threads of its own for each, and with eight requests at once these slow each other down.
"""

from __future__ import annotations

from typing import Final

import numpy as np

MOST: Final = 4
"""The most facets that a neuron has."""

_CLEAR = 0.2  # lowest silhouette of groups that count as apart; unrelated directions in many dimensions stay below
_SMALL = 0.15  # smallest share of the images in a group, which has at least two images
_ROUNDS = 10


def directions(activating: np.ndarray, contrastive: np.ndarray, similarities: np.ndarray, gamma: float) -> np.ndarray:
    """Return unit rows [K, D]: what each activating image has beyond its contrastive one (CSP's r_i, before weights).

    Both are embeddings [K, D]; `similarities` [K] are their cosines, 0 where an image has no partner.
    """
    return _unit(activating - gamma * similarities[:, None] * contrastive)


def facets_of(rows: np.ndarray) -> list[np.ndarray]:
    """Group unit rows [K, D], strongest image first, into one to four facets: places of the rows, largest group first.

    Groups come from spherical k-means. Their number is the one with the highest mean silhouette of the cosine distance,
    or one where no groups stand apart clearly. Without rows there are no facets.
    """
    count = len(rows)
    if count == 0:
        return []
    products = np.einsum("id,jd->ij", rows, rows)
    least = max(2.0, _SMALL * count)
    best, group = _CLEAR, np.zeros(count, dtype=np.int64)
    for groups in range(2, min(MOST, count // 2) + 1):
        numbers = _grouped(products, groups)
        sizes = np.bincount(numbers, minlength=groups)
        if sizes.min() >= least and (apart := _silhouette(products, numbers, sizes)) > best:
            best, group = apart, numbers
    facets = [np.flatnonzero(group == number) for number in range(int(group.max()) + 1)]
    return sorted(facets, key=lambda facet: (-len(facet), int(facet[0])))


def name_facets(
    rows: np.ndarray, weights: np.ndarray, facets: list[np.ndarray], texts: np.ndarray
) -> list[tuple[int, np.ndarray]]:
    """Return facets with the place of the text [C, D] (unit rows) nearest to their weighted mean, largest first.

    Facets with the same text become one.
    """
    if not facets:
        return []
    means = np.stack([(weights[facet, None] * rows[facet]).sum(0) for facet in facets])
    nearest = np.einsum("fd,cd->fc", _unit(means), texts).argmax(axis=1)
    named: dict[int, list[np.ndarray]] = {}
    for place, facet in zip(nearest.tolist(), facets, strict=True):
        named.setdefault(place, []).append(facet)
    joined = [(place, np.sort(np.concatenate(parts))) for place, parts in named.items()]
    return sorted(joined, key=lambda one: (-len(one[1]), one[1][0]))


def _grouped(products: np.ndarray, groups: int) -> np.ndarray:
    """Return the group of each row [K] by spherical k-means on the rows' products [K, K], started from distant rows."""
    starts = [int(products.sum(1).argmin())]
    while len(starts) < groups:
        starts.append(int(products[:, starts].max(1).argmin()))
    group: np.ndarray = products[:, starts].argmax(1)
    for _ in range(_ROUNDS):
        member = np.zeros((len(group), groups), dtype=products.dtype)
        member[np.arange(len(group)), group] = 1
        sums = products @ member
        lengths = np.sqrt(np.maximum((sums * member).sum(0), 1e-12))
        moved = (sums / lengths).argmax(1)
        if (moved == group).all():
            break
        group = moved
    return group


def _silhouette(products: np.ndarray, group: np.ndarray, sizes: np.ndarray) -> float:
    """Return the mean silhouette, -1 to 1, of grouped rows by cosine distance; higher is further apart."""
    rows = np.arange(len(group))
    member = np.zeros((len(group), len(sizes)), dtype=products.dtype)
    member[rows, group] = 1
    distances = (1 - products) @ member
    own = distances[rows, group] / np.maximum(sizes[group] - 1, 1)
    others = distances / sizes
    others[rows, group] = np.inf
    nearest = others.min(1)
    return float(((nearest - own) / np.maximum(np.maximum(nearest, own), 1e-12)).mean())


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
