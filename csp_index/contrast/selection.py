"""A selection: neurons, the encoder to use, and optionally a subset of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from csp_index.records import NeuronKey
from csp_index.store import catalog, streams
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.statistics import NeuronStatistics, as_lists
from csp_index.store.tables import Store


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


def draw_pool(store: Store, target: LayerInfo, neurons: np.ndarray, mask: torch.Tensor) -> Pool:
    """Compute the statistics of `neurons` (sorted) over the images in `mask` [N], shard by shard."""
    statistics = NeuronStatistics(len(neurons))
    for tile in pool_tiles(store, target, neurons, mask):
        statistics.update(tile)
    ids = mask.nonzero()[:, 0]
    rows = statistics.to_arrow(target.key)
    places = torch.from_numpy(rows["top_images"].combine_chunks().flatten().to_numpy(zero_copy_only=False).copy())
    columns = {
        "neuron": pa.array(neurons.astype(np.int32)),
        "top_images": as_lists(ids[places].view(len(neurons), -1)),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
    return Pool(mask, rows)


def pool_tiles(store: Store, target: LayerInfo, neurons: np.ndarray, mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """Stream the neurons' activations [M, n] on the images in `mask` [N], shard by shard."""
    first = 0
    marks = catalog.covered(store, target.what, len(mask))
    for tile in streams.activation_tiles(store, target, marks, neurons):
        yield tile[:, mask[first : first + tile.shape[1]]]
        first += tile.shape[1]


def pool_pairs(store: Store, selection: Selection, mask: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Stream the embeddings [n, D] of the images of `mask` [N] with the neurons' activations [M, n] on them."""
    waiting = torch.zeros(0, selection.source.width)
    embeddings = pool_embeddings(store, selection.source, mask)
    for tile in pool_tiles(store, selection.target, selection.neurons, mask):
        while len(waiting) < tile.shape[1]:
            waiting = torch.cat([waiting, next(embeddings)])
        yield waiting[: tile.shape[1]], tile
        waiting = waiting[tile.shape[1] :]


def pool_embeddings(store: Store, source: EncoderInfo, mask: torch.Tensor) -> Iterator[torch.Tensor]:
    """Stream the embeddings [n, D] of the images in `mask` [N], shard by shard."""
    first = 0
    for tile in streams.embedding_tiles(store, source, catalog.covered(store, source.what, len(mask))):
        yield tile[mask[first : first + len(tile)]]
        first += len(tile)
