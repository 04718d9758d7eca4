"""LanceDB behind one small class: append, read, search, lock; `opening` makes one of a place.

Only this file and `upkeep` import lancedb or lance.

A `Store` is a place full of Lance tables: a directory, or a prefix of an object store. It knows tables, rows and
filters; what the rows mean is `catalog`'s business. Writers take `write_lock`, and every write checks that it still
holds; readers never wait and see the last commit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from csp_index import settings
from csp_index.errors import StoreError
from csp_index.lru_cache import LRUCache
from csp_index.store import schema
from csp_index.store.locations import Place, reason
from csp_index.store.locks import Check, hold, is_held

os.environ.setdefault("LANCE_LOG", "error")  # its warnings speak to developers of Lance, not to our users

_UNREADABLE = "cannot be read (is a file damaged?)"
_INDEX_CACHE, _METADATA_CACHE = 256 * 2**20, 64 * 2**20  # bytes; Lance would take several GB
_SMALL_READ, _CACHED_READS = 2**18, 64  # bytes of a result that is cached, at most, and how many are

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """The vector index of one encoder's embeddings: what is in it, and the rows written since it was built."""

    kind: str  # an IndexKind, or another one of Lance's
    rows: int
    unindexed: int  # rows a search goes through one by one
    bytes: int


class Store:
    """A place full of Lance tables that csp_index made."""

    def __init__(self, place: Place) -> None:
        """Use the place as it is; `opening` checks it first."""
        self.uri, self.address = place.uri, place.address
        self._place = place
        self._tables: dict[str, Any] = {}
        self._datasets: dict[str, Any] = {}  # as last seen: the next reader only asks whether there is a newer version
        self._stamps: dict[str, object] = {}  # of the commits those datasets show
        self._reads = LRUCache(_CACHED_READS)  # small results by table, columns and filter, for the table's last state
        self._memo = LRUCache()  # what `memo` made, by table and key
        self._check: Check | None = None  # of the write lock, while it is held
        self._moment: dict[str, Any] | None = None  # tables as seen by a question that is being answered
        self._start()

    def _start(self) -> None:
        """Connect, knowing nothing of the tables."""
        for known in (self._tables, self._datasets, self._stamps):
            known.clear()
        self._reads.remove()
        self._memo.remove()
        self._session: Any = None
        self._connected: Any = None

    @property
    def _connection(self) -> Any:
        """For writing and searching; who only reads does without, for lancedb takes a second to load."""
        if self._connected is None:
            import lancedb

            with _translated(f"{self.uri} cannot be opened"):
                session = lancedb.Session(_INDEX_CACHE, _METADATA_CACHE)
                options = self._place.options
                self._connected = lancedb.connect(self.address, storage_options=options, session=session)
        return self._connected

    def table_names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        with _translated(f"tables of {self.uri} cannot be listed"):
            if (listed := self._place.tables()) is not None:
                return listed
        names: list[str] = []
        token: str | None = None
        while True:
            with _translated(f"tables of {self.uri} cannot be listed"):
                page = self._connection.list_tables(page_token=token)
            names.extend(page.tables)
            token = page.page_token
            if not token:
                return sorted(names)

    def has(self, name: str) -> bool:
        """Tell whether the table exists."""
        return self._current(name) is not None

    def _open(self, name: str) -> Any | None:
        """Return a table at its last commit, for writing and searching; what only reads uses `dataset`."""
        self._check_same(name)
        table = self._tables.pop(name, None)
        try:
            with _interruptible():
                if table is None:
                    table = self._connection.open_table(name)
                else:
                    table.checkout_latest()
        except (OSError, RuntimeError, ValueError) as exc:
            if isinstance(exc, OSError | ValueError) and "not found" in str(exc).lower():
                return None
            raise StoreError(f"table {name} of {self.uri} cannot be opened: {reason(exc)}") from exc
        self._tables[name] = table
        return table

    def create(self, name: str, table_schema: pa.Schema) -> None:
        """Create the table, empty, unless it exists."""
        with self._writing(name):
            self._made(name, table_schema)

    def _made(self, name: str, table_schema: pa.Schema) -> Any:
        table = self._open(name)
        if table is None:
            chosen = schema.file_format(name)
            options = None if chosen is None else {"new_table_data_storage_version": chosen}
            table = self._connection.create_table(name, schema=table_schema, exist_ok=True, storage_options=options)
            self._tables[name] = table
        return table

    def append(self, name: str, rows: pa.Table) -> None:
        """Append rows in one commit; the table is created by the first append."""
        with self._writing(name):
            self._made(name, rows.schema).add(rows)

    def write_fragments(self, name: str, rows: pa.Table) -> list[str]:
        """Write rows beside a table that exists, where no reader sees them; return what `append_fragments` needs.

        Several processes may do so at once, without the write lock. What is never appended is only space.
        """
        from lance.fragment import write_fragments

        with self._told(name, "cannot be written"):
            table = self.dataset(name)
            options = self._place.options or None
            found = write_fragments(rows, table.uri, mode="append", schema=rows.schema, storage_options=options)
            return [json.dumps(fragment.to_json()) for fragment in found]

    def append_fragments(self, name: str, fragments: Sequence[str]) -> None:
        """Append rows that `write_fragments` wrote, in the order given, in one commit."""
        from lance import LanceDataset, LanceOperation
        from lance.fragment import FragmentMetadata

        with self._writing(name):
            table = self.dataset(name)
            rows = LanceOperation.Append([FragmentMetadata.from_json(fragment) for fragment in fragments])
            LanceDataset.commit(table, rows, read_version=table.version)

    def upsert(self, name: str, keys: Sequence[str], rows: pa.Table) -> None:
        """Replace the rows with equal keys and add the others, in one commit. Only under the write lock."""
        with self._writing(name):
            merge = self._made(name, rows.schema).merge_insert(list(keys))
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, name: str, where: str) -> int:
        """Delete rows; return how many there were. No commit is made where there are none."""
        count = self.count(name, where)
        if count:
            with self._writing(name):
                self._require(name).delete(where)
        return count

    def drop(self, name: str) -> None:
        """Remove a table, if it exists."""
        if self._open(name) is not None:
            with self._writing(name):
                self._connection.drop_table(name)
                del self._tables[name]
                self._datasets.pop(name, None)
                self._reads.remove(lambda key: key[0] == name)

    def count(self, name: str, where: str | None = None) -> int:
        """Return the number of rows, 0 where the table does not exist."""
        dataset = self._current(name)
        with self._told(name, _UNREADABLE):
            return 0 if dataset is None else int(dataset.count_rows(where))

    def read(self, name: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Return the rows in the order they were written; an unwritten fixed table reads as empty."""
        dataset = self._current(name)
        if dataset is None:
            if name not in schema.fixed_tables():
                raise self._absent(name)
            empty = schema.table_schema(name).empty_table()
            return empty.select(list(columns)) if columns else empty
        key, version = (name, tuple(columns or ()), where), dataset.version
        rows: pa.Table | None = self._reads.find(key, version)
        if rows is None:
            with self._told(name, _UNREADABLE):
                rows = dataset.to_table(columns=list(columns) if columns else None, filter=where)
            if rows.nbytes <= _SMALL_READ:
                self._reads.put(key, rows, state=version)
        return rows

    def scan(
        self, name: str, columns: Sequence[str], *, where: str | None = None, batch_rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the order they were written, a few batches in memory at a time."""
        with self._told(name, _UNREADABLE):
            scanner = self.dataset(name).scanner(
                columns=list(columns), filter=where, batch_size=batch_rows, batch_readahead=2, fragment_readahead=2
            )
            yield from scanner.to_batches()

    def dataset(self, name: str) -> Any:
        """Return the Lance dataset of a table at its last commit."""
        found = self._current(name)
        if found is None:
            raise self._absent(name)
        return found

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Look for newer commits once a table while one question is answered, not at each of its steps.

        What is written meanwhile through this store is seen at once.
        """
        if self._moment is not None:
            yield
            return
        self._moment = {}
        try:
            yield
        finally:
            self._moment = None

    def _forget(self, name: str) -> None:
        if self._moment is not None:
            self._moment.pop(name, None)

    def _current(self, name: str) -> Any | None:
        seen = self._moment
        if seen is None:
            return self._newest(name)
        if name not in seen:
            seen[name] = self._newest(name)
        return seen[name]

    def _newest(self, name: str) -> Any | None:
        from lance import Session, dataset  # type: ignore[attr-defined]

        self._check_same(name)
        held = self._datasets.pop(name, None)
        try:
            with _interruptible():
                if held is None:
                    self._session = self._session or Session(_INDEX_CACHE, _METADATA_CACHE)
                    place, options = f"{self.address}/{name}.lance", self._place.options
                    held = dataset(place, storage_options=options, session=self._session)
                elif (newest := held.latest_version) != held.version:
                    held = held.checkout_version(newest)
        except (OSError, RuntimeError, ValueError) as exc:
            if isinstance(exc, OSError | ValueError) and "not found" in str(exc).lower():
                return None
            raise StoreError(f"table {name} of {self.uri} cannot be opened: {reason(exc)}") from exc
        self._datasets[name] = held
        self._stamps[name] = self._place.stamp(name, held.version)
        return held

    def _check_same(self, name: str) -> None:
        """Forget everything if the commit last seen is another by now: somebody made the table anew."""
        held = self._datasets.get(name)
        if held is not None and self._stamps[name] != self._place.stamp(name, held.version):
            self._start()

    def state(self, name: str) -> tuple[int, object]:
        """Return what names a table's last commit: no other one has it, be it of a table made anew."""
        return int(self.dataset(name).version), self._stamps[name]

    def memo(self, table: str, key: Hashable, make: Callable[[], Value], *, variant: Hashable = None) -> Value:
        """Return what `make` returns, called once per key and state of a table (which need not exist).

        Only the value of the last state and `variant` is cached. Threads that ask at once wait for one of them to make
        it; an error of `make` is raised and not cached. Callers share the value, so they must not change it.
        """
        dataset = self._current(table)
        state = None if dataset is None else (int(dataset.version), self._stamps[table])
        return self._memo.get((table, key), make, state=(state, variant))

    def forget(self, *keys: Hashable) -> None:
        """Drop the values that `memo` cached under these keys, for whatever table."""
        self._memo.remove(lambda table_and_key: table_and_key[1] in keys)

    def search(
        self, name: str, queries: np.ndarray, limit: int, where: str | None = None, *, exact: bool = False
    ) -> list[np.ndarray]:
        """Return, for each query [Q, D], the image ids of its nearest rows by cosine, nearest first.

        Where the table has a vector index, the nearest are those of the partitions looked into, unless `exact`. A query
        that finds fewer than `limit` there goes through all rows.
        Distances are left out on purpose: their scale depends on the index type, so callers recompute the cosine.
        """
        found = self._search(name, queries, limit, where, exact)
        short = [query for query, ids in enumerate(found) if len(ids) < limit]
        if short and not exact and self.vector_index(name):
            for query, ids in zip(short, self._search(name, queries[short], limit, where, True), strict=True):
                found[query] = ids
        return found

    def _search(self, name: str, queries: np.ndarray, limit: int, where: str | None, exact: bool) -> list[np.ndarray]:
        query = self._require(name).search([row for row in np.asarray(queries, dtype=np.float32)])
        query = query.distance_type("cosine").limit(limit).select(["image_id", "_distance"])
        if exact:
            query = query.bypass_vector_index()
        else:
            query = query.nprobes(settings.number("search_probes"))
            if (refine := settings.number("search_refine")) > 1:
                query = query.refine_factor(refine)
        if where:
            query = query.where(where, prefilter=True)
        with self._told(name, "cannot be searched"):
            found = query.to_arrow()
        ids = found["image_id"].to_numpy().copy()
        if "query_index" not in found.column_names:
            return [ids]
        owner = found["query_index"].to_numpy()
        return [ids[owner == q] for q in range(len(queries))]

    def vector_index(self, name: str) -> VectorIndex | None:
        """Return the vector index of a table, or None; it takes a millisecond and reads no row."""
        dataset = self.dataset(name)
        with self._told(name, _UNREADABLE):
            for found in dataset.describe_indices():
                if found.field_names == [schema.EMBEDDING]:
                    late, size = dataset.count_rows() - found.num_rows_indexed, found.total_size_bytes or 0
                    return VectorIndex(found.index_type.lower(), found.num_rows_indexed, late, size)
        return None

    @contextmanager
    def upkeep(self, name: str) -> Iterator[Any]:
        """Give the Lance dataset of a table, to change what is beside the rows; what fails in there is told."""
        with self._writing(name):
            yield self.dataset(name)

    def versions(self) -> dict[str, int]:
        """Return the version of every table: the state a reader sees."""
        return {name: int(self.dataset(name).version) for name in self.table_names()}

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the index for writing; a second writer is told who holds it. It is free soon after the holder dies."""
        with hold(self._place) as check:
            self._check = check
            if self._moment is not None:
                self._moment.clear()  # others may have written while this one waited
            try:
                yield
            finally:
                self._check = None

    def is_locked(self) -> bool:
        """Tell whether some process holds the index for writing."""
        return is_held(self._place)

    def _require(self, name: str) -> Any:
        table = self._open(name)
        if table is None:
            raise self._absent(name)
        return table

    def _absent(self, name: str) -> StoreError:
        return StoreError(f"table {name} is not in {self.uri} (has: {', '.join(self.table_names())})")

    @contextmanager
    def _told(self, name: str, failure: str) -> Iterator[None]:
        with _translated(f"table {name} of {self.uri} {failure}"):
            yield

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        """Go around every write: stop a writer that lost its lock, and tell what goes wrong."""
        if self._check is not None:
            self._check()
        with self._told(name, "cannot be written"):
            try:
                yield
            finally:
                self._forget(name)


@contextmanager
def _translated(failure: str) -> Iterator[None]:
    try:
        with _interruptible():
            yield
    except (OSError, RuntimeError, ValueError) as exc:
        raise StoreError(f"{failure}: {reason(exc)}") from exc


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Ctrl-C as what it is: one that comes while Lance calls back into Python arrives as an error of Lance."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as exc:
        if "KeyboardInterrupt" in str(exc):
            raise KeyboardInterrupt from exc
        raise
