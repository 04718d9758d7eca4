"""A pool, some of the indexed images: the statistics of neurons over them, and streams of their vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from csp_index.contrast.selection import Pool, Selection
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.statistics import NeuronStatistics, as_lists
from csp_index.tensors.library import torch


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
        inside = mask[first : first + tile.shape[1]]
        yield tile if bool(inside.all()) else tile[:, inside]
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
        inside = mask[first : first + len(tile)]
        yield tile if bool(inside.all()) else tile[inside]
        first += len(tile)
