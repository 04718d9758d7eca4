"""LanceDB behind one small class: append, read, search, lock; `connect` opens or creates a store.

A `Store` is the Lance tables at one location: a directory, or a prefix of an object store. It handles tables, rows and
filters; `catalog` knows what the rows mean. Writers take `write_lock`, and every write checks that the lock is
still theirs. What they write is seen with the next `commit`, all of it at once; readers never wait.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from csp_index import settings
from csp_index.errors import StoreError
from csp_index.lru_cache import LRUCache
from csp_index.store import column_tables, schema
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.lance_errors import translated
from csp_index.store.history.read_hold import ReadHold
from csp_index.store.history.records import Record
from csp_index.store.history.table_versions import (
    CommittedTables,
    FixedTables,
    NewestTables,
    State,
    Tables,
    TableVersion,
)
from csp_index.store.history.transactions import Transaction
from csp_index.store.locations import Location
from csp_index.store.locks import check_free, hold, is_held

_UNREADABLE = "cannot be read (is a file damaged?)"
_SMALL_READ, _CACHED_READS = 2**18, 64  # bytes of a result that is cached, at most, and how many are

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The vector index of one encoder's embeddings: what is in it, and the rows written since it was built."""

    kind: str  # an IndexKind, or another one of Lance's
    rows: int
    unindexed: int  # rows that a search compares one by one
    bytes: int


class Store:
    """The Lance tables of one index."""

    def __init__(
        self, location: Location, versions: Mapping[str, int] | None = None, *, uncommitted: bool = False
    ) -> None:
        """Use the location as it is; `connect` checks it first. With `versions`, the store is fixed and read-only.

        With `uncommitted` it sees what a writer has not committed yet; an index without commits is always seen so.
        """
        self.uri, self.address = location.uri, location.address
        self.location = location
        self.log = CommitLog(location)
        self._tables: Tables
        self._working = NewestTables(location)  # what a writer sees
        if versions is not None:
            self._tables = FixedTables(location, versions)
        elif uncommitted or self.log.head() is None:
            self._tables = self._working
        else:
            self._tables = CommittedTables(location, self.log)
        self._transaction: Transaction | None = None  # while this process has the write lock
        self._hold: ReadHold | None = None  # keeps clean-up away from a fixed commit
        self.commit_fixed: Record | None = None  # the commit that this store is fixed at, where it is one
        self._reads = LRUCache(_CACHED_READS)  # small results by table, columns and filter
        self._memo = LRUCache()  # what `memo` made, by table and key

    def table_names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        return self._tables.names()

    def has(self, name: str) -> bool:
        """Return whether the table exists."""
        return self._tables.version(name) is not None

    def create(self, name: str, table_schema: pa.Schema) -> None:
        """Create the table, empty, unless it exists."""
        with self._writing(name):
            self._made(name, table_schema)

    def _made(self, name: str, table_schema: pa.Schema) -> Any:
        """Return the Lance dataset of a table, which is created, empty, if it does not exist. Loads no lancedb."""
        if self._tables.version(name) is None:
            self._working.create(name, table_schema, column_tables.file_format(name))  # the tables of a writer
        return self.dataset(name)

    def append(self, name: str, rows: pa.Table) -> None:
        """Append rows in one commit; the table is created by the first append."""
        from lance import write_dataset

        with self._writing(name):
            table = self._made(name, rows.schema)
            write_dataset(_in_order(rows, table.schema), table, mode="append")

    def write_fragments(self, name: str, rows: pa.Table) -> list[str]:
        """Write rows for an existing table without a commit; return the fragments for `append_fragments`.

        Several processes may do so at once, without the write lock. Fragments that are never appended only take space.
        """
        from lance.fragment import write_fragments

        self._tables.check_writable(name)
        with self._translated(name, "cannot be written"):
            table = self.dataset(name)
            options = self.location.options or None
            fragments = write_fragments(rows, table.uri, mode="append", schema=rows.schema, storage_options=options)
            return [json.dumps(fragment.to_json()) for fragment in fragments]

    def append_fragments(self, name: str, fragments: Sequence[str]) -> None:
        """Append fragments of `write_fragments`, in their order, in one commit."""
        from lance import LanceDataset, LanceOperation
        from lance.fragment import FragmentMetadata

        with self._writing(name):
            table = self.dataset(name)
            rows = LanceOperation.Append([FragmentMetadata.from_json(fragment) for fragment in fragments])
            LanceDataset.commit(table, rows, read_version=table.version)

    def upsert(self, name: str, keys: Sequence[str], rows: pa.Table) -> None:
        """Replace the rows with equal keys and add the others, in one commit. Only under the write lock."""
        with self._writing(name):
            table = self._made(name, rows.schema)
            merge = table.merge_insert(list(keys))
            merge.when_matched_update_all().when_not_matched_insert_all().execute(_in_order(rows, table.schema))

    def delete(self, name: str, where: str) -> int:
        """Delete rows and return their number; without such rows there is no commit."""
        count = self.count(name, where)
        if count:
            with self._writing(name):
                self.dataset(name).delete(where)
        return count

    def replace(self, name: str, rows: pa.Table | pa.RecordBatchReader) -> None:
        """Put rows, of any schema, in place of all rows of an existing table; earlier versions keep theirs."""
        from lance import write_dataset

        with self._writing(name):
            options: dict[str, Any] = {"data_storage_version": column_tables.file_format(name)}
            options["storage_options"] = self.location.options or None
            write_dataset(rows, self.dataset(name).uri, mode="overwrite", **options)

    def count(self, name: str, where: str | None = None) -> int:
        """Return the number of rows, 0 if the table does not exist."""
        version = self._tables.version(name)
        with self._translated(name, _UNREADABLE):
            return 0 if version is None else int(version.dataset.count_rows(where))

    def read(self, name: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Return the rows in the order they were written; an unwritten fixed table reads as empty."""
        version = self._tables.version(name)
        if version is None:
            if name not in schema.fixed_tables():
                raise self._absent(name)
            return schema.empty_table(name, tuple(columns or ()))
        key = (name, tuple(columns or ()), where)
        rows: pa.Table | None = self._reads.find(key, version.state)
        if rows is None:
            with self._translated(name, _UNREADABLE):
                rows = version.dataset.to_table(columns=list(columns) if columns else None, filter=where)
            if rows.nbytes <= _SMALL_READ:
                self._reads.put(key, rows, state=version.state)
        return rows

    def scan(
        self, name: str, columns: Sequence[str], *, where: str | None = None, batch_rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the order they were written, a few batches in memory at a time."""
        with self._translated(name, _UNREADABLE):
            scanner = self.dataset(name).scanner(
                columns=list(columns), filter=where, batch_size=batch_rows, batch_readahead=2, fragment_readahead=2
            )
            yield from scanner.to_batches()

    def take(self, name: str, rows: np.ndarray | Sequence[int], columns: Sequence[str]) -> pa.Table:
        """Return the rows of a table by row number, in the order of `rows`."""
        with self.reading(name):
            taken: pa.Table = self.dataset(name).take(rows, columns=list(columns))
            return taken

    def reading(self, name: str) -> AbstractContextManager[None]:
        """Raise what damaged rows of a table cause inside the block as StoreError."""
        return self._translated(name, _UNREADABLE)

    def dataset(self, name: str) -> Any:
        """Return the Lance dataset of a table, at its last commit or its fixed version."""
        return self._version(name).dataset

    def moment(self) -> AbstractContextManager[None]:
        """Look for newer commits once per table while one question is answered, not at each of its steps.

        What is written meanwhile through this store is seen at once.
        """
        return self._tables.moment()

    def state(self, name: str) -> State:
        """Return what identifies a table's last commit: no other one has it, even of a table dropped and made again."""
        return self._version(name).state

    def memo(self, table: str, key: Hashable, make: Callable[[], Value], *, variant: Hashable = None) -> Value:
        """Return what `make` returns, called once per key and state of a table (which need not exist).

        Only the value of the last state and `variant` is cached. Threads that ask at once wait for one of them to make
        it; an error of `make` is raised and not cached. Callers share the value, so they must not change it.
        """
        version = self._tables.version(table)
        return self._memo.get((table, key), make, state=(version and version.state, variant))

    def forget(self, *keys: Hashable) -> None:
        """Drop the values that `memo` cached under these keys, for whatever table."""
        self._memo.remove(lambda table_and_key: table_and_key[1] in keys)

    def search(
        self, name: str, queries: np.ndarray, limit: int, where: str | None = None, *, exact: bool = False
    ) -> list[np.ndarray]:
        """Return, for each query [Q, D], the image ids of its nearest rows by cosine, nearest first.

        With a vector index, only some of its partitions are searched, unless `exact`; a query that finds fewer than
        `limit` rows there searches all rows. Distances are not returned: their scale depends on the index type, so
        callers recompute the cosine.
        """
        nearest = self._search(name, queries, limit, where, exact)
        short = [query for query, ids in enumerate(nearest) if len(ids) < limit]
        if short and not exact and self.vector_index(name):
            for query, ids in zip(short, self._search(name, queries[short], limit, where, True), strict=True):
                nearest[query] = ids
        return nearest

    def _search(self, name: str, queries: np.ndarray, limit: int, where: str | None, exact: bool) -> list[np.ndarray]:
        query = self._require(name).search([row for row in np.asarray(queries, dtype=np.float32)])
        query = query.distance_type("cosine").limit(limit).select(["image_id", "_distance"])
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.nprobes(settings.SEARCH_PROBES.value())
            if (refine := settings.SEARCH_REFINE.value()) > 1:
                query = query.refine_factor(refine)
        if where:
            query = query.where(where, prefilter=True)
        with self._translated(name, "cannot be searched"):
            rows = query.to_arrow()
        ids = rows["image_id"].to_numpy().copy()
        if "query_index" not in rows.column_names:
            return [ids]
        owner = rows["query_index"].to_numpy()
        return [ids[owner == q] for q in range(len(queries))]

    def vector_index(self, name: str) -> VectorIndex | None:
        """Return the vector index of a table, or None; it takes a millisecond and reads no row."""
        dataset = self.dataset(name)
        with self._translated(name, _UNREADABLE):
            for index in dataset.describe_indices():
                if index.field_names == [column_tables.EMBEDDING]:
                    late, size = dataset.count_rows() - index.num_rows_indexed, index.total_size_bytes or 0
                    return VectorIndex(index.index_type.lower(), index.num_rows_indexed, late, size)
        return None

    @contextmanager
    def upkeep(self, name: str) -> Iterator[Any]:
        """Yield the Lance dataset of a table, to change indexes, fragments or versions; errors become StoreError."""
        with self._writing(name):
            yield self.dataset(name)

    def versions(self) -> dict[str, int]:
        """Return the version of every table: the state a reader sees."""
        return {name: self.state(name)[0] for name in self.table_names()}

    @property
    def commit_seen(self) -> Record | None:
        """The commit that this store reads; None at fixed versions, while writing, and in an index of format 2."""
        return self._tables.record if isinstance(self._tables, CommittedTables) else None

    def fixed(self, record: Record) -> Store:
        """Return the index at a commit, read-only; clean-up leaves that commit alone for as long as the store exists.

        StoreError if the commit has been cleaned up.
        """
        hold = self.log.reading(record.number)
        self.log.check(record.tables)
        store = Store(self.location, record.versions)
        store._hold, store.commit_fixed = hold, record
        return store

    def check_writable(self) -> None:
        """Raise StoreError if a writer would be refused now, for what prepares long before it writes; takes no lock."""
        if self._transaction is None:
            self._tables.check_writable(schema.RUNS)
            self.location.check_writable()
            check_free(self.location)
            self.log.check_migrated(committed=self.log.head() is not None)

    @contextmanager
    def write_lock(self, *, old_format: bool = False) -> Iterator[None]:
        """Lock the index for writing; a second writer gets an error that names the holder.

        An index of the `old_format` is refused, unless it is to be migrated. First undoes what a writer left that was
        cut off. What is written is committed at the end, as one commit, unless `commit` did so before; where the block
        raises, what was written since the last `checkpoint` is undone. The lock is free soon after its process dies.
        """
        self._tables.check_writable(schema.RUNS)
        with hold(self.location) as lock:
            reading, working = self._tables, self._working
            working.changed()  # others may have written while this one waited
            transaction = Transaction(self.location, working, self.log, lock)
            transaction.begin(old_format=old_format)
            lock.clean = True  # what a writer left that was cut off is undone
            if isinstance(reading, CommittedTables):
                reading.release()
            self._transaction, self._tables = transaction, working
            try:
                yield
                transaction.commit()
            except BaseException:
                with suppress(StoreError):  # the first error is raised; the next writer undoes what this one could not
                    transaction.rollback()
                    transaction.commit()
                raise
            finally:
                self._transaction = None
                if not isinstance(reading, CommittedTables) and self.log.head() is not None:
                    reading = CommittedTables(self.location, self.log)
                self._tables = reading

    def commit(self, run_id: str = "", command: str = "") -> None:
        """Make all that was written durable and visible to readers, as one commit. Under the write lock."""
        self._require_lock().commit(run_id, command)

    def rollback(self) -> None:
        """Undo what was written since the last commit, shown or not. Under the write lock."""
        self._require_lock().rollback()

    def checkpoint(self) -> None:
        """Keep what was written so far, even if the command is killed; readers see it when the command ends."""
        if self._transaction is not None:
            self._transaction.commit(shown=False)

    def _require_lock(self) -> Transaction:
        if self._transaction is None:
            raise StoreError(f"{self.uri} is not locked for writing: this is a fault of the program, please report it")
        return self._transaction

    def is_locked(self) -> bool:
        """Return whether a process holds the write lock."""
        return is_held(self.location)

    def _version(self, name: str) -> TableVersion:
        version = self._tables.version(name)
        if version is None:
            raise self._absent(name)
        return version

    def _require(self, name: str) -> Any:
        table = self._tables.table(name)
        if table is None:
            raise self._absent(name)
        return table

    def _absent(self, name: str) -> StoreError:
        return StoreError(f"table {name} is not in {self.uri} (has: {', '.join(self.table_names())})")

    def _translated(self, name: str, failure: str) -> AbstractContextManager[None]:
        return translated(f"table {name} of {self.uri} {failure}")

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Wrap every write: stop a writer that lost its lock, and translate errors; without a lock, take it."""
        self._tables.check_writable(name)
        if self._transaction is None:
            with self.write_lock(), self._writing(name):
                yield
            return
        self._transaction.check()
        self._transaction.touch(name)
        with self._translated(name, "cannot be written"):
            try:
                yield
            finally:
                self._transaction.touch(name)  # again: another thread may have committed since
                self._tables.changed(name)


def _in_order(rows: pa.Table, table_schema: pa.Schema) -> pa.Table:
    """Return rows with their columns in the order of a table's; Lance refuses other columns than these."""
    names, given = table_schema.names, rows.schema.names
    return rows.select(names) if given != names and set(given) == set(names) else rows
