"""Embeddings, streamed or of some images, and the activations of a few neurons, as NumPy arrays.

`streams` has them as tensors. Only committed shards are read: a row whose shard has no mark does not exist. The rows of
a layer are ordered by shard, then by neuron; every row read is checked against that order. How a layer is
stored, dense or sparse, is hidden from all others by this module and `streams`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from csp_index.errors import StoreError
from csp_index.lru_cache import LRUCache
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo, Shard
from csp_index.store.tables import Store
from csp_index.store.values.sparse import sparse_tiles

FETCHED = 64  # neurons read like this, at most; more are read by a scan that skips the others
_BYTES = 16 * 2**20  # of one read
_RECENT_BYTES = 8 * 2**20  # of activations of single neurons that stay in memory


def fetch_tiles(store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the activations of `neurons` [M] shard by shard, each [M, n] float32.

    Those of one neuron stay in memory for the next steps of a question, which look at the same ones.
    """
    if info.is_sparse:
        yield from sparse_tiles(store, info, marks, neurons)
        return
    if len(neurons) > 1:
        yield from _tiles(store, info, marks, neurons)
        return
    recent = store.memo(info.table, "recent activations", lambda: LRUCache(_RECENT_BYTES))
    key = info.table, int(neurons[0])
    known: dict[int, np.ndarray] = recent.find(key) or {}
    missing = [mark for mark in marks if mark.number not in known]
    if missing:
        read = zip(missing, _tiles(store, info, missing, neurons), strict=True)
        known = known | {mark.number: tile for mark, tile in read}
        recent.put(key, known, sum(tile.nbytes for tile in known.values()))
    for mark in marks:
        yield known[mark.number].copy()


def _tiles(store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray) -> Iterator[np.ndarray]:
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


def embedding_blocks(store: Store, info: EncoderInfo, marks: Sequence[Shard]) -> Iterator[np.ndarray]:
    """Stream the embeddings shard by shard, each [n, D]."""
    where = f"shard <= {marks[-1].number}" if marks else "false"
    batches = store.scan(info.table, ["image_id", "embedding"], where=where)
    waiting: list[np.ndarray] = []
    rows_waiting, following = 0, iter(marks)
    mark = next(following, None)
    expected = 0
    for batch in batches:
        ids = batch.column("image_id").to_numpy()
        if len(ids) and (ids[0] != expected or ids[-1] != expected + len(ids) - 1):
            raise StoreError(f"embeddings of {info.name} are out of order at image {expected}: index again")
        expected += len(ids)
        column = batch.column("embedding")
        with store.reading(info.table):
            waiting.append(column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), info.width))
        rows_waiting += len(column)
        while mark is not None and rows_waiting >= mark.rows:
            joined = np.concatenate(waiting) if len(waiting) > 1 else waiting[0]
            yield np.array(joined[: mark.rows])
            waiting, rows_waiting = [joined[mark.rows :]], rows_waiting - mark.rows
            mark = next(following, None)
    if mark is not None:
        raise StoreError(f"embeddings of {info.name} end before shard {mark.number}: index again")


def embedding_rows(store: Store, source: EncoderInfo, ids: np.ndarray) -> np.ndarray:
    """Return the embeddings of image ids [I], in their order, as [I, D]; each distinct row is read once."""
    ids = np.asarray(ids, dtype=np.int64)
    distinct, inverse = np.unique(ids, return_inverse=True)
    rows = np.empty((len(distinct), source.width), np.float32)
    size = max(1, _BYTES // (4 * source.width))
    for start in range(0, len(distinct), size):
        some = distinct[start : start + size]
        table = store.take(source.table, some, ["image_id", "embedding"])
        if not np.array_equal(table["image_id"].to_numpy(), some):
            raise StoreError(f"embeddings of {source.name} are out of order: index again")
        with store.reading(source.table):
            column = table["embedding"].combine_chunks()
            rows[start : start + size] = column.flatten().to_numpy(zero_copy_only=False).reshape(len(some), -1)
    return rows if np.array_equal(distinct, ids) else rows[inverse.reshape(-1)]
