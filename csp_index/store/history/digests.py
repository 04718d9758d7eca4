"""Digests of a shard's rows: they stand with its mark, and show later whether the rows are still the same.

A digest is of values, not of files, so compaction leaves it as it is, and it differs where rows were swapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ShardDigest:
    """The digest of rows that come in pieces, in their order."""

    def __init__(self) -> None:
        """Start without rows."""
        self._columns: dict[str, _ColumnDigest] = {}

    def add(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows; each piece has the same columns."""
        for name in rows.schema.names:
            digest = self._columns.setdefault(name, _ColumnDigest())
            column = rows[name]
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                digest.add(chunk)

    def hexdigest(self) -> str:
        """Return the digest of all columns, whatever the pieces were, in hexadecimal digits."""
        parts = (f"{name}:{digest.hexdigest()}" for name, digest in sorted(self._columns.items()))
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def shard_digest(pieces: Iterable[pa.Table | pa.RecordBatch]) -> str:
    """Return the digest of a shard's rows.

    >>> rows = pa.table({"image_id": [0, 1], "uri": ["a.png", None]})
    >>> shard_digest([rows]) == shard_digest([rows.slice(0, 1), rows.slice(1)])
    True
    >>> shard_digest([rows]) == shard_digest([rows.slice(1), rows.slice(0, 1)])
    False
    """
    digest = ShardDigest()
    for rows in pieces:
        digest.add(rows)
    return digest.hexdigest()


class _ColumnDigest:
    """The digest of one column: of its values, and of where nulls and the ends of lists are if that is not plain."""

    def __init__(self) -> None:
        self._values = hashlib.sha256()
        self._items: _ColumnDigest | None = None  # of lists
        self._places = hashlib.sha256()  # of nulls among numbers; of lists, their lengths
        self._rows = self._nulls = 0
        self._length: int | None = None  # of the first list
        self._even = True  # whether all lists have that length

    def add(self, values: pa.Array) -> None:
        kind = values.type
        if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
            self._add_lists(values)
        elif pa.types.is_primitive(kind):
            self._add_numbers(values)
        else:
            nulls = values.null_count == len(values)
            self._values.update(b"-" * len(values) if nulls else b"".join(map(_with_length, values.to_pylist())))
        self._rows += len(values)

    def _add_lists(self, lists: pa.Array) -> None:
        self._items = self._items or _ColumnDigest()
        self._items.add(lists.flatten())
        lengths = pc.list_value_length(lists).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        self._places.update(lengths.data)
        if self._length is None and len(lengths):
            self._length = int(lengths[0])
        self._even = self._even and bool((lengths == self._length).all()) and self._length != -1

    def _add_numbers(self, numbers: pa.Array) -> None:
        if numbers.null_count:
            nulls = np.flatnonzero(numbers.is_null().to_numpy(zero_copy_only=False)) + self._rows
            self._places.update(nulls.astype(np.int64).data)
            self._nulls += numbers.null_count
            numbers = numbers.drop_null()
        self._values.update(np.ascontiguousarray(numbers.to_numpy(zero_copy_only=False)).view(np.uint8).data)

    def hexdigest(self) -> str:
        if self._items is not None:
            items = self._items.hexdigest()
            return items if self._even else self._with_places(items)
        if self._nulls == 0:
            return self._values.hexdigest()
        if self._nulls == self._rows:
            return hashlib.sha256(b"-" * self._rows).hexdigest()
        return self._with_places(self._values.hexdigest())

    def _with_places(self, values: str) -> str:
        return hashlib.sha256(f"{values} {self._places.hexdigest()}".encode()).hexdigest()


def _with_length(value: object) -> bytes:
    if value is None:
        return b"-"
    data = value if isinstance(value, bytes) else str(value).encode()
    return b"+%d:" % len(data) + data
