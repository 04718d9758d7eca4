"""Embeddings and activations as tensors: streamed shard by shard, or read for some images or neurons.

Reads only committed shards: a row whose shard has no mark does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from csp_index.errors import StoreError
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo, LayerInfo, Shard
from csp_index.store.tables import Store
from csp_index.store.values.arrays import FETCHED, embedding_blocks, embedding_rows, fetch_tiles
from csp_index.store.values.derived_images import read_derived
from csp_index.tensors.library import torch

_BATCH_BYTES = 4 * 2**20  # of a scanned batch; several are in memory at once


def embedding_tiles(store: Store, info: EncoderInfo, marks: Sequence[Shard]) -> Iterator[torch.Tensor]:
    """Stream the embeddings shard by shard, each [n, D]."""
    return map(torch.from_numpy, embedding_blocks(store, info, marks))


def activation_tiles(
    store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray | None = None
) -> Iterator[torch.Tensor]:
    """Stream the activations of `neurons` (sorted, default all) shard by shard, each [M, n] float32.

    Reads only the rows of those neurons.
    """
    if not marks:
        return
    numbers = np.arange(info.neurons) if neurons is None else np.asarray(neurons)
    if info.is_sparse or (len(numbers) <= FETCHED and len(numbers) < info.neurons):
        yield from map(torch.from_numpy, fetch_tiles(store, info, marks, numbers))
        return
    where = f"shard <= {marks[-1].number}"
    if len(numbers) < info.neurons:
        where += f" AND neuron IN ({','.join(map(str, numbers.tolist()))})"
    batch_rows = max(16, _BATCH_BYTES // (4 * max(mark.rows for mark in marks)))
    rows: list[np.ndarray] = []
    following = iter(marks)
    for batch in store.scan(info.table, ["neuron", "values"], where=where, batch_rows=batch_rows):
        neuron, column = batch.column("neuron").to_numpy(), batch.column("values")
        values = column.flatten().to_numpy(zero_copy_only=False)
        start = 0
        while start < len(neuron):
            have = sum(len(block) for block in rows)
            take = min(len(numbers) - have, len(neuron) - start)
            if not np.array_equal(neuron[start : start + take], numbers[have : have + take]):
                raise StoreError(f"activations of {info.key} are out of order: index again")
            low, high = column.offsets[start].as_py(), column.offsets[start + take].as_py()
            base = column.offsets[0].as_py()
            rows.append(values[low - base : high - base].reshape(take, -1))
            start += take
            if have + take == len(numbers):
                mark = next(following)
                tile = np.concatenate(rows) if len(rows) > 1 else rows[0]
                if tile.shape[1] != mark.rows:
                    raise StoreError(f"activations of {info.key} do not fill shard {mark.number}: index again")
                yield torch.from_numpy(tile.astype(np.float32))
                rows = []
    if rows or next(following, None) is not None:
        raise StoreError(f"activations of {info.key} end before shard {marks[-1].number}: index again")


def embeddings_of(store: Store, source: EncoderInfo, ids: np.ndarray) -> torch.Tensor:
    """Return the embeddings of image ids [I], in their order, as [I, D]; each distinct row is read once."""
    return torch.from_numpy(embedding_rows(store, source, ids))


def embeddings_of_derived(store: Store, source: EncoderInfo, ids: np.ndarray) -> torch.Tensor:
    """Return the embeddings of derived image ids [I], in their order, as [I, D]."""
    if not len(ids):
        return torch.zeros(0, source.width)
    column = read_derived(store, source, ids.tolist(), [column_tables.EMBEDDING])[
        column_tables.EMBEDDING
    ].combine_chunks()
    return torch.from_numpy(column.flatten().to_numpy(zero_copy_only=False).reshape(len(ids), source.width).copy())
