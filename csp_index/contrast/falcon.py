"""Contrastive images as in FALCON: silent images near the mean activating one in the layer's own feature space.

Images on which every neuron of a group stays below its threshold are ranked by similarity to the mean of the
activating set; the neuron gets the ten best that reach a floor. Here the group is the labelled neuron alone (FALCON
allows groups of one), and the feature space is the layer's activation vectors without that neuron. FALCON:
arXiv 2307.10504. Reads the activations of the whole layer, whichever neurons are selected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from csp_index.concurrency import go_on
from csp_index.contrast.selection import Selection
from csp_index.ordering import rank_keys, split_keys
from csp_index.store import catalog
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.tensors.library import torch

KEPT = 10  # images a neuron
FLOOR = 0.3  # smallest cosine with the mean of the activating set, in feature space
_MEANS_BYTES = 256 * 2**20  # of the means of a block of neurons; each block is one pass over the activations
_TILE_BYTES = 64 * 2**20  # of the cosines of some neurons with a tile
_NONE = -(2**63)


@dataclass(frozen=True, slots=True)
class Ten:
    """The ten images of M neurons, most similar first: ids [M, 10] (-1 absent) and their activations [M, 10]."""

    ids: torch.Tensor
    activations: torch.Tensor

    def activations_of(self, selected: torch.Tensor) -> torch.Tensor:
        """Return the activations of images [M, ...] that are among each neuron's ten; NaN for -1."""
        flat = selected.flatten(1)
        result = torch.full(flat.shape, torch.nan)
        for place in range(self.ids.shape[1]):
            here = (flat == self.ids[:, place, None]) & (flat >= 0)
            result = torch.where(here, self.activations[:, place, None], result)
        return result.view(selected.shape)


def similar_silent(
    store: Store,
    selection: Selection,
    activating: torch.Tensor,
    thresholds: torch.Tensor,
    images: int,
    check: Callable[[], None] = go_on,
) -> Ten:
    """Return the ten silent images nearest to the mean of the activating set [M, K] of each selected neuron.

    `check` is called between the passes over the activations, and raises to end the work.

    An image is silent if its activation is below the neuron's threshold [M]. Ties go to the lower image id. A dead
    neuron has none.
    """
    size = max(1, _MEANS_BYTES // (8 * selection.target.neurons))
    results = []
    for start in range(0, len(activating), size):
        pick = slice(start, start + size)
        check()
        neurons = torch.from_numpy(selection.neurons[pick].copy())
        means = _means(store, selection, neurons, activating[pick], images)
        check()
        results.append(_nearest(store, selection, neurons, means, thresholds[pick], images))
    return Ten(torch.cat([ten.ids for ten in results]), torch.cat([ten.activations for ten in results]))


def _tiles(store: Store, selection: Selection, images: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Stream (first image, activations [L, n] of the whole layer)."""
    first = 0
    for tile in streams.activation_tiles(
        store, selection.target, catalog.covered(store, selection.target.what, images)
    ):
        yield first, tile
        first += tile.shape[1]


def _means(
    store: Store, selection: Selection, neurons: torch.Tensor, activating: torch.Tensor, images: int
) -> torch.Tensor:
    """Return unit mean activation vectors [M, L] of the activating sets, 0 at each neuron's own index; float64."""
    totals = torch.zeros(len(neurons), selection.target.neurons, dtype=torch.float64)
    owner, rank = (activating >= 0).nonzero(as_tuple=True)
    ids, order = activating[owner, rank].sort()
    owner = owner[order]
    for first, tile in _tiles(store, selection, images):
        low, high = torch.searchsorted(ids, torch.tensor([first, first + tile.shape[1]])).tolist()
        for start in range(low, high, 4096):
            some = slice(start, min(start + 4096, high))
            totals.index_add_(0, owner[some], tile[:, ids[some] - first].T.double())
    totals[torch.arange(len(neurons)), neurons] = 0.0
    return torch.nn.functional.normalize(totals, dim=1)


def _nearest(
    store: Store,
    selection: Selection,
    neurons: torch.Tensor,
    means: torch.Tensor,
    thresholds: torch.Tensor,
    images: int,
) -> Ten:
    """Return the ten images of each neuron, given the unit means [M, L]."""
    best = torch.full((len(neurons), KEPT), _NONE)
    values = torch.full((len(neurons), KEPT), torch.nan)
    for first, tile in _tiles(store, selection, images):
        ids = torch.arange(first, first + tile.shape[1])
        exact = tile.double()
        squares = exact.square().sum(0)
        size = max(1, _TILE_BYTES // (8 * tile.shape[1]))
        for start in range(0, len(neurons), size):
            some = slice(start, start + size)
            own = tile[neurons[some]]
            # The neuron's own activation does not count in the length either; negative rounding errors become zero.
            lengths = (squares - own.double().square()).clamp(min=0).sqrt()
            cosines = (means[some] @ exact / lengths).float()  # NaN if only the neuron itself fires
            barred = ~(cosines >= FLOOR) | (own >= thresholds[some, None])
            if selection.pool is not None:
                barred |= ~selection.pool.mask[ids]
            keys = rank_keys(cosines, ids).masked_fill(barred, _NONE)
            joined = torch.cat([best[some], keys], 1).topk(KEPT, dim=1)
            values[some] = torch.cat([values[some], own], 1).gather(1, joined.indices)
            best[some] = joined.values
    absent = best == _NONE
    return Ten(split_keys(best)[1].masked_fill(absent, -1), values.masked_fill(absent, torch.nan))
