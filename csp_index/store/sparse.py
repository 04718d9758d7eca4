"""Layers stored sparse: activations that are not 0 as rows of a table, and rows as tiles again. NumPy and Arrow alone.

A row has 64 neurons over one shard of images. Reading fills the zeros in, so that no reader sees how a layer is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.tables import Store

_FETCHED = 64  # rows per shard that are read by number, at most; more are read by a scan that skips the others
_BYTES = 64 * 2**20  # of one read, if no activation were 0
_COLUMNS = ["shard", "neuron", "neurons", "images", "values"]


def sparse_rows(info: LayerInfo, shard: Shard, values: np.ndarray) -> pa.Table:
    """Return the table rows of one shard's activations [M, n], finite, at their stored precision."""
    flat = np.ascontiguousarray(values).reshape(-1)
    places = np.flatnonzero(flat)
    neurons, images = np.divmod(places, max(1, values.shape[1]))
    firsts = np.arange(0, info.neurons, schema.SPARSE_NEURONS, dtype=np.int32)
    ends = pa.array(np.searchsorted(neurons, [*firsts, info.neurons]).astype(np.int32))
    columns = [
        (neurons % schema.SPARSE_NEURONS).astype(np.uint8),
        images.astype(np.int32),
        flat[places],
    ]
    lists = [pa.ListArray.from_arrays(ends, pa.array(column)) for column in columns]
    numbers = pa.array(np.full(len(firsts), shard.number, np.int32))
    return pa.table([numbers, pa.array(firsts), *lists], schema=schema.sparse_schema(info.dtype))


def sparse_tiles(store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the activations of `neurons` [M] shard by shard, each [M, n] float32.

    Raises StoreError where rows are missing or not in order, or name an image or neuron that is not there.
    """
    positions = np.full(info.neurons, -1)
    positions[neurons] = np.arange(len(neurons))
    firsts = np.unique(neurons // schema.SPARSE_NEURONS) * schema.SPARSE_NEURONS
    following = iter(marks)
    mark = next(following, None)
    tile, filled = _empty(neurons, mark), 0
    for rows in _batches(store, info, marks, firsts):
        with store.reading(info.table):
            first = rows["neuron"].to_numpy(zero_copy_only=False)
        start = 0
        while start < len(first):
            count = min(len(firsts) - filled, len(first) - start)
            if mark is None or not np.array_equal(first[start : start + count], firsts[filled : filled + count]):
                raise StoreError(f"activations of {info.key} are out of order: index again")
            with store.reading(info.table):
                owner, image, values = _entries(rows.slice(start, count), info, mark.rows)
            place = positions[owner]
            selected = place >= 0
            tile[place[selected], image[selected]] = values[selected]
            start, filled = start + count, filled + count
            if filled == len(firsts):
                yield tile
                mark = next(following, None)
                tile, filled = _empty(neurons, mark), 0
    if mark is not None:
        raise StoreError(f"activations of {info.key} end before shard {mark.number}: index again")


def _empty(neurons: np.ndarray, mark: Shard | None) -> np.ndarray:
    return np.zeros((len(neurons), mark.rows if mark else 0), np.float32)


def _batches(store: Store, info: LayerInfo, marks: Sequence[Shard], firsts: np.ndarray) -> Iterator[pa.RecordBatch]:
    """Yield the rows that begin with the neurons `firsts`, shard by shard."""
    if not marks:
        return
    row_bytes = schema.SPARSE_NEURONS * max(mark.rows for mark in marks) * 9
    if len(firsts) > _FETCHED:
        where = f"shard <= {marks[-1].number}"
        if len(firsts) < info.shard_rows:
            where += f" AND neuron IN ({','.join(map(str, firsts.tolist()))})"
        yield from store.scan(info.table, _COLUMNS, where=where, batch_rows=max(16, _BYTES // row_bytes))
        return
    size = max(1, _BYTES // (row_bytes * len(firsts)))
    for start in range(0, len(marks), size):
        group = marks[start : start + size]
        shards = np.repeat([mark.number for mark in group], len(firsts))
        numbers = shards * info.shard_rows + np.tile(firsts // schema.SPARSE_NEURONS, len(group))
        with store.reading(info.table):
            rows = store.dataset(info.table).take(numbers, columns=_COLUMNS).combine_chunks()
            if not np.array_equal(rows["shard"].to_numpy(), shards):
                raise StoreError(f"activations of {info.key} are out of order: index again")
        yield from rows.to_batches()


def _entries(rows: pa.RecordBatch, info: LayerInfo, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return neuron, image of the shard and value of each activation in rows of a shard of `images`."""
    if wrong := wrong_places(rows, info, images, ordered=False):
        raise StoreError(f"{info.key}: {wrong}: the index is damaged, run `csp-index verify`")
    return (*_places(rows), rows["values"].flatten().to_numpy(zero_copy_only=False))


def _places(rows: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    lengths = rows["neurons"].value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    first = np.repeat(rows["neuron"].to_numpy(zero_copy_only=False), lengths)
    image = rows["images"].flatten().to_numpy(zero_copy_only=False)
    return first + rows["neurons"].flatten().to_numpy(zero_copy_only=False), image


def wrong_places(rows: pa.RecordBatch, info: LayerInfo, images: int, *, ordered: bool = True) -> str:
    """Return what is wrong with the neurons and images of rows of a shard of `images`, "" if nothing is.

    With `ordered`, also whether each activation is there once, in order, and not 0.
    """
    lists = [rows[name] for name in ("neurons", "images", "values")]
    lengths = [column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False) for column in lists]
    if not all(np.array_equal(one, lengths[0]) for one in lengths) or any(c.flatten().null_count for c in lists):
        return "its lists of neurons, images and activations are not equally long"
    neuron, image = _places(rows)
    offset = lists[0].flatten().to_numpy(zero_copy_only=False)
    if len(neuron) and (
        offset.max() >= schema.SPARSE_NEURONS
        or neuron.max() >= info.neurons
        or image.min() < 0
        or image.max() >= images
    ):
        return f"it names neurons or images that are not there (has {info.neurons:,} neurons, {images:,} in the shard)"
    if ordered and (
        (np.diff(neuron * np.int64(images) + image) <= 0).any()
        or not lists[2].flatten().to_numpy(zero_copy_only=False).all()
    ):
        return "its activations are not in order, or not all different from 0"
    return ""
