"""Wrong commits: rows of an index changed as a program would that computes or copies them wrongly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.store import catalog
from csp_index.store.column_tables import ACTIVATIONS
from csp_index.store.connect import open_store
from csp_index.store.history.migration import digests_of
from csp_index.store.tables import Store

Plant = Callable[[Path], None]  # into the index at a path; beside it lie `early.db` and `other.db`
Change = Callable[[pa.Table], pa.Table]


def full_name(db: Path, table: str) -> str:
    """Return the name of a table by its beginning and, after @, what else is in it."""
    start, _, part = table.partition("@")
    names = sorted(path.stem for path in db.glob("*.lance"))
    if start in names:
        return start
    starts = ACTIVATIONS if start == "activations" else (f"{start}_",)
    return next(name for name in names if name.startswith(starts) and part in name)


def committed(table: str, change: Change) -> Plant:
    """Return what replaces the rows of a table by changed ones, in a commit of their own."""

    def plant(db: Path) -> None:
        store = open_store(db)
        name = full_name(db, table)
        with store.write_lock():
            store.replace(name, change(store.read(name)).cast(store.dataset(name).schema))

    return plant


def doubled(rows: pa.Table) -> pa.Table:
    return pa.concat_tables([rows, rows.slice(0, 1)])


def lost(rows: pa.Table) -> pa.Table:
    return rows.slice(1)


def swapped(rows: pa.Table) -> pa.Table:
    order = np.arange(len(rows))
    order[[1, 2]] = order[[2, 1]]
    return rows.take(pa.array(order))


def shifted(column: str) -> Change:
    """Return a change that moves a column by one row: each row has what belongs to another."""

    def change(rows: pa.Table) -> pa.Table:
        order = np.roll(np.arange(len(rows)), 1)
        return put(rows, column, rows[column].take(pa.array(order)))

    return change


def put(rows: pa.Table, column: str, values: Any) -> pa.Table:
    place = rows.schema.get_field_index(column)
    field = rows.schema.field(column)
    if not isinstance(values, pa.ChunkedArray | pa.Array):
        values = pa.array(values, field.type)
    return rows.set_column(place, field, values)


def filled(column: str, value: object, row: int = 0) -> Change:
    """Return a change of one cell."""

    def change(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        values[row] = value
        return put(rows, column, values)

    return change


def scaled(column: str, factor: float, row: int | None = None) -> Change:
    """Return a change of the lists of numbers of one row, or of all."""

    def change(rows: pa.Table) -> pa.Table:
        values = rows[column].to_pylist()
        for place in range(len(values)) if row is None else [row]:
            values[place] = [value * factor for value in values[place]]
        return put(rows, column, values)

    return change


def with_digests(table: str, change: Change) -> Plant:
    """Return a wrong commit whose marks agree with it: as by a program that computes wrong values."""

    def plant(db: Path) -> None:
        committed(table, change)(db)
        store = open_store(db)
        with store.write_lock():
            _mark(store, full_name(db, table))

    return plant


def _mark(store: Store, table: str) -> None:
    what = next((info.what for info in catalog.columns(store) if info.table == table), table)
    digests = {shard.number: digest for shard, digest in digests_of(store, what, table)}
    rows = store.read("shards").to_pylist()
    for row in rows:
        if row["what"] == what:
            row["digest"] = digests[row["shard"]]
    store.replace("shards", pa.Table.from_pylist(rows, schema=store.dataset("shards").schema))


def without(column: str, value: object) -> Change:
    return lambda rows: rows.filter(pc.not_equal(rows[column], value))
