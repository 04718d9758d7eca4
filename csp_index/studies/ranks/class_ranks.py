"""How neurons tell classes of images: AUROC, rates of firing, means, extreme images.

Every figure of a neuron comes from one sort of its activations: the images of each class keep their places in that
order, and the rest are sums and look-ups over places.
"""

from __future__ import annotations

import numpy as np

from csp_index.studies.ranks.members import ClassFigures, Members
from csp_index.studies.ranks.order import falling_order, falling_ranks, unlisted
from csp_index.studies.ranks.sparse import fill_sparse

_SPARSE = 0.3  # largest share of activations other than 0 of which the zeros are left out


def class_figures(activations: np.ndarray, members: Members, firing: np.ndarray, kept: int) -> ClassFigures:
    """Return the figures of neurons with activations [M, n] (finite float32), which fire above `firing` [M].

    `kept` is K. Of equal activations the image with the lower place counts as stronger in lists.
    """
    neurons, classes = len(activations), len(members.sizes)
    figures = ClassFigures(
        *(np.empty((neurons, classes)) for _ in range(5)),
        *(np.full((neurons, classes, kept), -1, np.int64) for _ in range(3)),
    )
    for neuron, (values, above) in enumerate(zip(activations, firing.tolist(), strict=True)):
        places = np.flatnonzero(values) if members.single is not None and above >= 0 else None
        if places is not None and len(places) <= _SPARSE * len(values):
            fill_sparse(figures, neuron, values, places, members, above)
        else:
            _fill(figures, neuron, values, members, above)
    return figures


def _fill(figures: ClassFigures, neuron: int, values: np.ndarray, members: Members, above: float) -> None:
    """Compute the figures of one neuron with activations [n], which fires above a threshold."""
    count, sizes, starts = members.count, members.sizes, members.starts
    every = np.arange(count)
    order = falling_order(values, every)
    falling = values[order]
    places = _places(order, members)
    fired = count - int(np.searchsorted(falling[::-1], np.float32(above), side="right"))
    outside = np.where(sizes < count, count - sizes, np.nan)

    ranks = np.add.reduceat(falling_ranks(falling, every, count)[places], starts)
    figures.auroc[neuron] = (ranks - sizes * (sizes + 1) / 2) / (sizes * outside)
    keys = places + members.owners * count  # rising, for the places of a class rise
    fires = np.searchsorted(keys, np.arange(len(sizes)) * count + fired) - starts
    figures.rate_in[neuron], figures.rate_out[neuron] = fires / sizes, (fired - fires) / outside
    exact = falling.astype(np.float64)
    sums = np.add.reduceat(exact[places], starts)
    figures.mean_in[neuron], figures.mean_out[neuron] = sums / sizes, (exact.sum() - sums) / outside

    for place in range(min(figures.strongest.shape[2], int(sizes.max()))):
        there = sizes > place
        figures.strongest[neuron, there, place] = order[places[starts[there] + place]]
        figures.weakest[neuron, there, place] = order[places[members.offsets[1:][there] - 1 - place]]
    gaps = places - members.within + members.owners * (count + 1)
    for place in range(figures.outside.shape[2]):
        number = unlisted(gaps, starts, count + 1, place)
        there = number < fired
        figures.outside[neuron, there, place] = order[number[there]]


def _places(order: np.ndarray, members: Members) -> np.ndarray:
    """Return where the images of each class stand in an order of all [n]: [P], grouped by class, rising within each."""
    if members.single is not None:
        return np.argsort(members.single[order], kind="stable")[: len(members.images)]
    place_of = np.empty(members.count, np.int64)
    place_of[order] = np.arange(members.count)
    first = members.owners * members.count
    places: np.ndarray = np.sort(place_of[members.images] + first) - first
    return places
