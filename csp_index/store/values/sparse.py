"""Layers stored sparse: activations that are not 0 as rows of a table, and rows as tiles again. NumPy and Arrow alone.

A row has 64 neurons over one shard of images. Reading fills the zeros in, so that no reader sees how a layer is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.store import column_tables
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.tables import Store

_FETCHED = 64  # rows per shard that are read by number, at most; more are read by a scan that skips the others
_BYTES = 64 * 2**20  # of one read, if no activation were 0
_ENTRY_BYTES = 9  # of an activation that is not 0: neuron, image, value
_COLUMNS = ["shard", "neuron", "neurons", "images", "values"]


def sparse_rows(info: LayerInfo, shard: Shard, values: np.ndarray) -> pa.Table:
    """Return the table rows of one shard's activations [M, n], finite, at their stored precision."""
    flat = np.ascontiguousarray(values).reshape(-1)
    places = np.flatnonzero(flat)
    neurons, images = np.divmod(places, max(1, values.shape[1]))
    firsts = np.arange(0, info.neurons, column_tables.SPARSE_NEURONS, dtype=np.int32)
    ends = pa.array(np.searchsorted(neurons, [*firsts, info.neurons]).astype(np.int32))
    columns = [
        (neurons % column_tables.SPARSE_NEURONS).astype(np.uint8),
        images.astype(np.int32),
        flat[places],
    ]
    lists = [pa.ListArray.from_arrays(ends, pa.array(column)) for column in columns]
    numbers = pa.array(np.full(len(firsts), shard.number, np.int32))
    return pa.table([numbers, pa.array(firsts), *lists], schema=column_tables.sparse_schema(info.dtype))


def sparse_tiles(store: Store, info: LayerInfo, marks: Sequence[Shard], neurons: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the activations of `neurons` [M] shard by shard, each [M, n] float32.

    Raises StoreError where rows are missing or not in order, or name an image or neuron that is not there.
    """
    firsts = np.unique(neurons // column_tables.SPARSE_NEURONS) * column_tables.SPARSE_NEURONS
    places = np.full(info.neurons, -1)
    places[neurons] = np.arange(len(neurons))
    row_bytes = _ENTRY_BYTES * column_tables.SPARSE_NEURONS * max((mark.rows for mark in marks), default=1)
    if len(firsts) <= _FETCHED:
        size = max(1, _BYTES // (row_bytes * len(firsts)))
        for start in range(0, len(marks), size):
            group = marks[start : start + size]
            sizes = np.array([mark.rows for mark in group])
            rows = _fetched(store, info, group, firsts)
            tile = np.zeros((len(neurons), sizes.sum()), np.float32)
            _fill(tile, places, rows, info, sizes.repeat(len(firsts)), (sizes.cumsum() - sizes).repeat(len(firsts)))
            yield from np.split(tile, sizes.cumsum()[:-1], axis=1)
        return
    batches = _scanned(store, info, marks, firsts, max(16, _BYTES // row_bytes))
    waiting = next(batches, None)
    for mark in marks:
        tile, filled = np.zeros((len(neurons), mark.rows), np.float32), 0
        while filled < len(firsts):
            if waiting is None:
                raise StoreError(f"activations of {info.key} end before shard {mark.number}: index again")
            rows = waiting.slice(0, len(firsts) - filled)
            _check_order(info, rows, firsts[filled : filled + len(rows)])
            _fill(tile, places, rows, info, mark.rows, 0)
            filled += len(rows)
            waiting = waiting.slice(len(rows)) if len(rows) < len(waiting) else next(batches, None)
        yield tile


def _fetched(store: Store, info: LayerInfo, marks: Sequence[Shard], firsts: np.ndarray) -> pa.RecordBatch:
    """Return the rows of shards that begin with the neurons `firsts`, read by number."""
    shards = np.repeat([mark.number for mark in marks], len(firsts))
    numbers = shards * info.shard_rows + np.tile(firsts // column_tables.SPARSE_NEURONS, len(marks))
    with store.reading(info.table):
        (rows,) = store.dataset(info.table).take(numbers, columns=_COLUMNS).combine_chunks().to_batches()
    _check_order(info, rows, np.tile(firsts, len(marks)), shards)
    return rows


def _scanned(
    store: Store, info: LayerInfo, marks: Sequence[Shard], firsts: np.ndarray, batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches, none of them empty, by a scan."""
    if marks:
        where = f"shard <= {marks[-1].number}"
        if len(firsts) < info.shard_rows:
            where += f" AND neuron IN ({','.join(map(str, firsts.tolist()))})"
        yield from filter(len, store.scan(info.table, _COLUMNS, where=where, batch_rows=batch_rows))


def _check_order(info: LayerInfo, rows: pa.RecordBatch, firsts: np.ndarray, shards: np.ndarray | None = None) -> None:
    """Raise StoreError if rows are not those of these neurons, and of these shards."""
    same = np.array_equal(rows["neuron"].to_numpy(zero_copy_only=False), firsts)
    if not same or (shards is not None and not np.array_equal(rows["shard"].to_numpy(zero_copy_only=False), shards)):
        raise StoreError(f"activations of {info.key} are out of order: index again")


def _fill(
    tile: np.ndarray,
    places: np.ndarray,
    rows: pa.RecordBatch,
    info: LayerInfo,
    images: np.ndarray | int,
    starts: np.ndarray | int,
) -> None:
    """Write the activations of rows [R] into a tile [M, n], at the place in it that each neuron has, -1 for none.

    `images` and `starts` are, for each row, how many images its shard has and at which column of the tile they begin.
    """
    if wrong := wrong_places(rows, info, images, ordered=False):
        raise StoreError(f"{info.key}: {wrong}: the index is damaged, run `csp-index verify`")
    lengths, offsets = _list(rows, "neurons")
    place = places[rows["neuron"].to_numpy(zero_copy_only=False).repeat(lengths) + offsets]
    column = _list(rows, "images")[1] + np.broadcast_to(starts, len(lengths)).repeat(lengths)
    selected = place >= 0
    tile[place[selected], column[selected]] = _list(rows, "values")[1][selected]


def _list(rows: pa.RecordBatch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths [R] of a column of lists, and their elements, joined."""
    column = rows[name]
    return np.diff(column.offsets.to_numpy()), column.flatten().to_numpy(zero_copy_only=False)


def wrong_places(rows: pa.RecordBatch, info: LayerInfo, images: np.ndarray | int, *, ordered: bool = True) -> str:
    """Return what is wrong with the neurons and images of rows [R], "" if nothing is.

    `images` is how many images the shard has, of all rows or of each. With `ordered`, also whether each activation is
    there once, in order, and not 0.
    """
    lists = [rows[name] for name in ("neurons", "images", "values")]
    if any(column.null_count or column.flatten().null_count for column in lists):
        return "it has empty cells"
    (lengths, offset), (others, image), (more, value) = (_list(rows, name) for name in ("neurons", "images", "values"))
    if not (np.array_equal(lengths, others) and np.array_equal(lengths, more)):
        return "its lists of neurons, images and activations are not equally long"
    neuron = rows["neuron"].to_numpy(zero_copy_only=False).repeat(lengths) + offset
    most = np.broadcast_to(images, len(lengths)).repeat(lengths)
    if (
        (offset >= column_tables.SPARSE_NEURONS).any()
        or (neuron >= info.neurons).any()
        or ((image < 0) | (image >= most)).any()
    ):
        return f"it names neurons or images that are not there (has {info.neurons:,} neurons)"
    if ordered and ((np.diff(neuron * most.astype(np.int64) + image) <= 0).any() or not value.all()):
        return "its activations are not in order, or not all different from 0"
    return ""
