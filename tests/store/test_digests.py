"""Digests of shards: the same for any pieces, another one for any other rows, and those that indexes have already."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest

from csp_index.store.history.digests import shard_digest

INTS = pa.array([1, 2, None, 4, 5], pa.int32())
TWINS = {  # two columns of the same values that differ in nulls or in where lists end
    "null moved": (pa.array([1, None, 2], pa.int32()), pa.array([None, 1, 2], pa.int32())),
    "null or number": (pa.array([0, None], pa.int32()), pa.array([0, 0], pa.int32())),
    "list end moved": (pa.array([[1, 2], [3]]), pa.array([[1], [2, 3]])),
    "list end moved within": (pa.array([[[1, 2], [3]]]), pa.array([[[1], [2, 3]]])),
    "null or empty list": (pa.array([None, [1]], pa.list_(pa.int64())), pa.array([[], [1]], pa.list_(pa.int64()))),
}
COLUMNS = [
    INTS,
    pa.array([[1, 2], None, [3], [], [4, 5, None]], pa.list_(pa.int32())),
    pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]], pa.list_(pa.float32(), 2)),
    pa.array([None, "a", "", "b", None]),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: str(column.type))
def test_a_digest_is_the_same_for_any_pieces(column: pa.Array) -> None:
    rows = pa.table({"column": column})
    for cuts in ([2], [1, 3], [0, 2, 2, 5], [1, 2, 3, 4]):
        pieces = [rows.slice(start, end - start) for start, end in zip([0, *cuts], [*cuts, 5], strict=True)]
        assert shard_digest(pieces) == shard_digest([rows])


@pytest.mark.parametrize(("one", "other"), TWINS.values(), ids=TWINS)
def test_a_digest_covers_nulls_and_the_ends_of_lists(one: pa.Array, other: pa.Array) -> None:
    assert shard_digest([pa.table({"column": one})]) != shard_digest([pa.table({"column": other})])


def test_digests_of_indexes_that_exist_are_still_right() -> None:
    """Columns without nulls or of nothing else, and lists of one length, as csp_index writes them."""
    values = np.arange(12, dtype=np.float32)
    own = {
        "embedding": (pa.FixedSizeListArray.from_arrays(pa.array(values), 4), values.tobytes()),
        "uri": (pa.array(["a", None, "bc"]), b"+1:a-+2:bc"),
        "values": (pa.array(values.reshape(3, 4).tolist(), pa.list_(pa.float32())), values.tobytes()),
        "width": (pa.array([None] * 3, pa.int32()), b"---"),
    }
    parts = [f"{name}:{hashlib.sha256(data).hexdigest()}" for name, (_, data) in own.items()]
    rows = pa.table({name: column for name, (column, _) in own.items()})
    assert shard_digest([rows]) == hashlib.sha256(" ".join(parts).encode()).hexdigest()
