"""Digests of a shard's rows: they stand with its mark, and show later whether the rows are still the same.

A digest is of values, not of files, so compaction leaves it as it is, and it differs where rows were swapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa


class ShardDigest:
    """The digest of rows that come in pieces, in their order."""

    def __init__(self) -> None:
        """Start without rows."""
        self._columns: dict[str, hashlib._Hash] = {}

    def add(self, rows: pa.Table | pa.RecordBatch) -> None:
        """Add rows; each piece has the same columns."""
        for name in rows.schema.names:
            digest = self._columns.setdefault(name, hashlib.sha256())
            column = rows[name]
            for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
                _add(digest, chunk)

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


def _add(digest: hashlib._Hash, values: pa.Array) -> None:
    kind = values.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind):
        _add(digest, values.flatten())
    elif pa.types.is_primitive(kind) and values.null_count == 0:
        digest.update(np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data)
    else:
        for value in values.to_pylist():
            data = value if isinstance(value, bytes) else str(value).encode()
            digest.update(b"-" if value is None else b"+%d:" % len(data) + data)
