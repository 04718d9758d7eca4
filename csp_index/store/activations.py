"""The activations of a few neurons, read by row number, as NumPy arrays.

The rows of a layer are ordered by shard, then by neuron; every row read is checked against that order. How a layer is
stored, dense or sparse, is hidden from all others by this module and `streams`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from csp_index.errors import StoreError
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.sparse import sparse_tiles
from csp_index.store.tables import Store

FETCHED = 64  # neurons read like this, at most; more are read by a scan that skips the others
_BYTES = 16 * 2**20  # of one read


def fetch_tiles(store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the activations of `neurons` [M] shard by shard, each [M, n] float32."""
    if info.is_sparse:
        yield from sparse_tiles(store, info, marks, neurons)
        return
    size = max(1, _BYTES // (4 * len(neurons) * max(mark.rows for mark in marks)))
    for start in range(0, len(marks), size):
        group = marks[start : start + size]
        shards = np.repeat([mark.number for mark in group], len(neurons))
        numbers = np.tile(neurons, len(group))
        with store.reading(info.table):
            rows = store.dataset(info.table).take(
                shards * info.neurons + numbers, columns=["shard", "neuron", "values"]
            )
            same = np.array_equal(rows["shard"].to_numpy(), shards)
            if not (same and np.array_equal(rows["neuron"].to_numpy(), numbers)):
                raise StoreError(f"activations of {info.key} are out of order: index again")
            column = rows["values"].combine_chunks()
            lengths = column.value_lengths().to_numpy().reshape(len(group), -1)
            values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        end = 0
        for mark, sizes in zip(group, lengths, strict=True):
            if (sizes != mark.rows).any():
                raise StoreError(f"activations of {info.key} do not fill shard {mark.number}: index again")
            begin, end = end, end + mark.rows * len(neurons)
            yield values[begin:end].reshape(len(neurons), -1)


def activations_of(store: Store, target: LayerInfo, neuron: int, images: int) -> np.ndarray:
    """Return one neuron's activations over the first `images` images, [N] float32."""
    marks = catalog.covered(store, target.what, images)
    return np.concatenate([tile[0] for tile in fetch_tiles(store, target, marks, np.array([neuron]))])
