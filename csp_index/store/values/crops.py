"""Embeddings of crops: parts of indexed images, a table per encoder, keyed by image and box.

Rows are written whole and never changed; a crop is the same for every neuron, layer and run that looks there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo
from csp_index.store.tables import Store

KEY: Final = ("image_id", "left", "top", "right", "bottom")
_AT_ONCE: Final = 4096  # rows of embeddings in memory at once, beside those that are returned


def append_crops(store: Store, source: EncoderInfo, keys: np.ndarray, vectors: np.ndarray, run_id: str) -> None:
    """Store the embeddings [n, D] of crops [n, 5] (image, left, top, right, bottom); kept if the command is killed."""
    if not len(keys):
        return
    columns: dict[str, pa.Array] = {
        name: pa.array(keys[:, place], pa.int64() if name == "image_id" else pa.int32())
        for place, name in enumerate(KEY)
    }
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    columns[column_tables.EMBEDDING] = pa.FixedSizeListArray.from_arrays(flat, source.width)
    columns["run_id"] = pa.array([run_id] * len(keys))
    table = pa.table(columns, schema=column_tables.crops_schema(source.width))
    store.append(column_tables.crops_table(source.name), table)
    store.checkpoint()


def crop_rows(store: Store, source: EncoderInfo, keys: np.ndarray) -> np.ndarray:
    """Return the row of each crop [n, 5] in the encoder's table, -1 of those that are not stored, [n] int64."""
    table = column_tables.crops_table(source.name)
    rows = np.full(len(keys), -1)
    if not len(keys) or not store.has(table):
        return rows
    stored = _keys(store, table)
    both, inverse = np.unique(np.concatenate([stored, keys]), axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    place = np.full(len(both), -1)
    place[inverse[: len(stored)][::-1]] = np.arange(len(stored))[::-1]
    rows[:] = place[inverse[len(stored) :]]
    return rows


def crop_vectors(store: Store, source: EncoderInfo, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the embeddings of stored crops, in the order of `rows` [n], in blocks [m, D]; StoreError if damaged."""
    table = column_tables.crops_table(source.name)
    for start in range(0, len(rows), _AT_ONCE):
        some, inverse = np.unique(rows[start : start + _AT_ONCE], return_inverse=True)
        column = store.take(table, some, [column_tables.EMBEDDING])[column_tables.EMBEDDING].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        if values.size != len(some) * source.width or not np.isfinite(values).all():
            raise StoreError(
                f"embeddings of crops in the table {table} of {store.uri} are damaged: `csp-index verify` says which"
            )
        yield values.reshape(len(some), source.width)[inverse.reshape(-1)]


def _keys(store: Store, table: str) -> np.ndarray:
    """Return the keys [R, 5] of all stored crops, in the order of rows."""

    def read() -> np.ndarray:
        rows = store.read(table, list(KEY))
        return np.stack([rows[name].to_numpy().astype(np.int64) for name in KEY], 1)

    keys: np.ndarray = store.memo(table, "crop keys", read)
    return keys
