"""The images that facets rest on: of all images that fire a neuron the strongest, and the others evenly by rank.

The strongest images alone show what a neuron answers to most. A second meaning that fires it somewhat less has next to
none of them: in one world of `scripts/method_search` 76 of 124 meanings that were missed had less than 12 % of the 100
strongest images, but all had 5 % or more of those that fire. A sample of the other images says what firing is worth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.contrast.selection import Selection
from csp_index.ordering import seeded_sample
from csp_index.store import catalog
from csp_index.store.tables import Store
from csp_index.store.values.arrays import embedding_rows, fetch_tiles
from csp_index.tensors.library import torch

IMAGES: Final = 200  # of a neuron, at most
LEADERS: Final = 30  # of these the strongest; the others are spread over all ranks below
LEAST: Final = 0.5  # of the mean activation of the strongest, from which on an image fires a neuron
SAMPLE: Final = 4096  # images of the index among which silent ones are counted

_READ = 64  # neurons that are read together, as sparse layers have them in rows of 64
_BYTES = 2**27  # of activations in memory together


@dataclass(frozen=True, slots=True)
class SilentImages:
    """A sample of the images: their unit embeddings [S, D], which are silent for a neuron [M, S], and how many are.

    `counts` [M] are of the silent images of the whole index.
    """

    vectors: np.ndarray
    silent: np.ndarray
    counts: np.ndarray

    def of_neurons(self, part: slice) -> SilentImages:
        """Return the silent images of some neurons."""
        return SilentImages(self.vectors, self.silent[part], self.counts[part])


@dataclass(frozen=True, slots=True)
class FiringImages:
    """Images that fire neurons: ids and activations [M, K], the strongest first (-1 and 0 absent), how many do [M]."""

    ids: np.ndarray
    activations: np.ndarray
    counts: np.ndarray
    silent: SilentImages

    def of_neurons(self, part: slice) -> FiringImages:
        """Return the images of some neurons."""
        return FiringImages(self.ids[part], self.activations[part], self.counts[part], self.silent.of_neurons(part))


def firing_images(store: Store, selection: Selection, thresholds: np.ndarray) -> FiringImages:
    """Return the images that fire the selected neurons [M]; an image below a neuron's threshold [M] is silent."""
    images = selection.images(store)
    sample = np.sort(seeded_sample(torch.arange(images), SAMPLE, 0).numpy())
    count = len(selection.neurons)
    ids, activations = np.full((count, IMAGES), -1), np.zeros((count, IMAGES), np.float32)
    firing, silent = np.zeros(count, np.int64), np.zeros((count, len(sample)), bool)
    silent_counts = np.zeros(count, np.int64)
    at = 0
    for values in _activations(store, selection, images):
        part = slice(at, at + len(values))
        below = values < thresholds[part, None]
        silent[part], silent_counts[part] = below[:, sample], below.sum(1)
        for row, own in enumerate(values, at):
            fired = fired_by_rank(own)
            chosen = fired[spread(len(fired))]
            ids[row, : len(chosen)], activations[row, : len(chosen)] = chosen, own[chosen]
            firing[row] = len(fired)
        at += len(values)
    vectors = embedding_rows(store, selection.source, sample)
    return FiringImages(ids, activations, firing, SilentImages(vectors, silent, silent_counts))


def fired_by_rank(values: np.ndarray) -> np.ndarray:
    """Return the places of the activations [N] that are LEAST of the strongest or more, highest first, ties in order.

    >>> fired_by_rank(np.array([0.0, 3.0, 1.0, 2.0, 3.0])).tolist()
    [1, 4, 3]
    """
    few = min(LEADERS, len(values))
    strongest = np.maximum(np.partition(values, -few)[-few:], 0)
    strongest = strongest[strongest > 0]
    if not len(strongest):
        return np.zeros(0, np.int64)
    fired = np.flatnonzero(values >= LEAST * strongest.mean())
    return np.asarray(fired[np.argsort(-values[fired], kind="stable")])


def spread(count: int) -> np.ndarray:
    """Return which of `count` ranks are looked at: all if they are few, else the first, and the others evenly.

    >>> places = spread(1000)
    >>> len(places), places[29:32].tolist(), int(places[-1])
    (200, [29, 32, 38], 997)
    """
    if count <= IMAGES:
        return np.arange(count)
    rest, few = count - LEADERS, IMAGES - LEADERS
    return np.concatenate([np.arange(LEADERS), LEADERS + ((np.arange(few) + 0.5) * rest / few).astype(np.int64)])


def _activations(store: Store, selection: Selection, images: int) -> Iterator[np.ndarray]:
    """Yield the activations [m, N] of the selected neurons, some at a time."""
    marks = catalog.covered(store, selection.target.what, images)
    at_once = max(1, min(_READ, _BYTES // (4 * images)))
    rows = selection.neurons
    ends = np.flatnonzero(np.diff(rows // _READ)) + 1
    for together in np.split(rows, ends):
        for start in range(0, len(together), at_once):
            tiles = list(fetch_tiles(store, selection.target, marks, together[start : start + at_once]))
            yield np.concatenate(tiles, axis=1)
