"""A selection: neurons, the encoder to use, and optionally a subset of the images; loads no torch."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from csp_index.records import NeuronKey
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

if TYPE_CHECKING:  # a stored answer names a selection, and needs no tensors
    import torch


@dataclass(frozen=True, slots=True)
class Pool:
    """Some of the indexed images, and the neurons' statistics over those alone.

    `mask` [N] bool covers image ids 0 .. N - 1. `rows` has the columns of the `neurons` table, one row per neuron;
    `top_images` are image ids of the index, `images` is the number of images in the pool.
    """

    mask: torch.Tensor
    rows: pa.Table

    @property
    def images(self) -> int:
        """The number of images in the pool."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected neurons of a layer, the encoder to use, and the pool of images (None: all images)."""

    source: EncoderInfo
    target: LayerInfo
    neurons: np.ndarray  # sorted, distinct
    pool: Pool | None = None

    def key(self, neuron: int) -> NeuronKey:
        """Return the address of one of the neurons."""
        return NeuronKey(self.target.key.model, self.target.key.layer, neuron)

    def without(self, neurons: Container[int]) -> Selection:
        """Return the selection of the other neurons."""
        others = [neuron for neuron in self.neurons.tolist() if neuron not in neurons]
        return replace(self, neurons=np.array(others, dtype=np.int64))

    def statistics(self, store: Store) -> pa.Table:
        """Return the statistics of the neurons, over the pool if there is one."""
        if self.pool is None:
            return catalog.neuron_rows(store, self.target, self.neurons.tolist())
        cached = self.pool.rows["neuron"].to_numpy()
        return self.pool.rows.take(pa.array(np.searchsorted(cached, self.neurons)))

    def images(self, store: Store) -> int:
        """Return N: statistics and the pool's mask cover the images 0 .. N - 1."""
        if self.pool is not None:
            return len(self.pool.mask)
        return int(catalog.neuron_rows(store, self.target, self.neurons[:1].tolist())["images"][0].as_py())
