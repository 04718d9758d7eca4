"""Neurons whose activating images say little: the same activation on every image, or on more images than are shown.

Among equal activations the images of lowest id are taken, and in a folder sorted by class these are of its first class:
a label that rests on them rests on the order of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import Selection
from csp_index.store import catalog
from csp_index.store.tables import Store

_NOTED = 0.2  # the share of examples from which on ties are mentioned
_DOUBTED = 0.5  # and from which on no label is sure


@dataclass(frozen=True, slots=True)
class Ties:
    """Of M neurons: which are `constant` [M], and how many of their `examples` [M] are `tied` [M].

    A tied example has the activation of an image that was left out.
    """

    constant: np.ndarray
    tied: np.ndarray
    examples: np.ndarray

    @property
    def doubtful(self) -> np.ndarray:
        """Whose labels rest on the order of the images, [M] bool."""
        doubtful: np.ndarray = (self.tied > 0) & (self.tied >= _DOUBTED * self.examples)
        return doubtful

    def notes(self) -> Sequence[str]:
        """Return what each neuron's label says of its ties, or ""."""
        why = "of its {1} activating images were taken among more of the same activation, by the order of the images"
        pairs = zip(self.tied.tolist(), self.examples.tolist(), strict=True)
        return [f"{{0}} {why}".format(*pair) if pair[0] and pair[0] >= _NOTED * pair[1] else "" for pair in pairs]


def read_ties(store: Store, selection: Selection, examples: Examples) -> Ties:
    """Return the ties among the activating images of a selection's neurons, by the statistics of all images.

    Of a selection with a pool nothing is known: the statistics are not of its images.
    """
    count = (examples.activating >= 0).sum(1).numpy()
    nothing = np.zeros(len(count), np.int64)
    if selection.pool is not None or not len(count):
        return Ties(nothing > 0, nothing, count)
    rows = catalog.neuron_rows(store, selection.target, selection.neurons.tolist())
    low, high = rows["min"].to_numpy(), rows["max"].to_numpy()
    lists = rows["top_activations"].combine_chunks()
    top = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
    known = np.nonzero((count > 0) & (count < top.shape[1]))[0]
    lowest = top[known, count[known] - 1]
    beyond = top[known, count[known]] == lowest
    places = np.arange(top.shape[1]) < count[known, None]
    tied = nothing.copy()
    tied[known] = np.where(beyond, ((top[known] == lowest[:, None]) & places).sum(1), 0)
    constant: np.ndarray = (low == high) & (count > 0)
    return Ties(constant, tied, count)
