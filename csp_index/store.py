"""LanceDB behind one small class: create, open, append, read, search, lock. Only this file imports lancedb or lance.

A `Store` is a directory of Lance tables. It knows tables, rows and filters; what the rows mean is `catalog`'s business.
Writers take `write_lock`; readers never wait and see the last commit.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout

from csp_index import schema
from csp_index.errors import StoreError, one_line

os.environ.setdefault("LANCE_LOG", "error")  # its warnings speak to developers of Lance, not to our users

import lancedb

_LOCK, _OWNER = ".writer.lock", ".writer.json"
_UNREADABLE = "cannot be read (is a file damaged?)"


class Store:
    """A directory of Lance tables that csp_index made."""

    def __init__(self, uri: str) -> None:
        """Use the directory as it is; `open_store` and `create_store` check it first."""
        self.uri = uri
        self._connection = lancedb.connect(uri, read_consistency_interval=timedelta(0))
        self._tables: dict[str, Any] = {}

    def table_names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        names: list[str] = []
        token: str | None = None
        while True:
            with _interruptible():
                page = self._connection.list_tables(page_token=token)
            names.extend(page.tables)
            token = page.page_token
            if not token:
                return sorted(names)

    def has(self, name: str) -> bool:
        """Tell whether the table exists."""
        return self._open(name) is not None

    def _open(self, name: str) -> Any | None:
        if name not in self._tables:
            try:
                with _interruptible():
                    self._tables[name] = self._connection.open_table(name)
            except (FileNotFoundError, ValueError) as exc:
                if "not found" in str(exc).lower():
                    return None
                raise StoreError(f"table {name} of {self.uri} cannot be opened: {one_line(exc)}") from exc
        return self._tables[name]

    def create(self, name: str, table_schema: pa.Schema) -> None:
        """Create the table, empty, unless it exists."""
        if self._open(name) is None:
            with self._told(name, "cannot be written"):
                self._tables[name] = self._connection.create_table(name, schema=table_schema)

    def append(self, name: str, rows: pa.Table) -> None:
        """Append rows in one commit; the table is created by the first append."""
        with self._told(name, "cannot be written"):
            self.create(name, rows.schema)
            self._require(name).add(rows)

    def upsert(self, name: str, keys: Sequence[str], rows: pa.Table) -> None:
        """Replace the rows with equal keys and add the others, in one commit. Only under the write lock."""
        with self._told(name, "cannot be written"):
            self.create(name, rows.schema)
            merge = self._require(name).merge_insert(list(keys))
            merge.when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, name: str, where: str) -> int:
        """Delete rows; return how many there were. No commit is made where there are none."""
        count = self.count(name, where)
        if count:
            with self._told(name, "cannot be written"):
                self._require(name).delete(where)
        return count

    def drop(self, name: str) -> None:
        """Remove a table, if it exists."""
        if self._open(name) is not None:
            with self._told(name, "cannot be written"):
                self._connection.drop_table(name)
                del self._tables[name]

    def count(self, name: str, where: str | None = None) -> int:
        """Return the number of rows, 0 where the table does not exist."""
        table = self._open(name)
        with self._told(name, _UNREADABLE):
            return 0 if table is None else int(table.count_rows(where))

    def read(self, name: str, columns: Sequence[str] | None = None, where: str | None = None) -> pa.Table:
        """Return the rows in the order they were written; an unwritten fixed table reads as empty."""
        if self._open(name) is None:
            if name not in schema.fixed_tables():
                raise StoreError(f"table {name} is not in {self.uri} (has: {', '.join(self.table_names())})")
            empty = schema.table_schema(name).empty_table()
            return empty.select(list(columns)) if columns else empty
        with self._told(name, _UNREADABLE):
            return self.dataset(name).to_table(columns=list(columns) if columns else None, filter=where)

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
        table = self._require(name)
        with _interruptible():
            return table.to_lance()

    def search(self, name: str, queries: np.ndarray, limit: int, where: str | None = None) -> list[np.ndarray]:
        """Return, for each query [Q, D], the image ids of its nearest rows by cosine, nearest first.

        Distances are left out on purpose: their scale depends on the index type, so callers recompute the cosine.
        """
        query = self._require(name).search([row for row in np.asarray(queries, dtype=np.float32)])
        query = query.distance_type("cosine").limit(limit).select(["image_id", "_distance"])
        if where:
            query = query.where(where, prefilter=True)
        with self._told(name, "cannot be searched"):
            found = query.to_arrow()
        ids = found["image_id"].to_numpy().copy()
        if "query_index" not in found.column_names:
            return [ids]
        owner = found["query_index"].to_numpy()
        return [ids[owner == q] for q in range(len(queries))]

    def versions(self) -> dict[str, int]:
        """Return the version of every table: the state a reader sees."""
        return {name: int(self._require(name).version) for name in self.table_names()}

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """Hold the index for writing; a second writer is told who holds it. The kernel frees it if the holder dies."""
        root = Path(self.uri)
        try:
            lock = FileLock(root / _LOCK)
            lock.acquire(timeout=1)  # a look at whether it is held takes it for a moment
        except Timeout:
            raise StoreError(f"{self.uri} is being written by {_owner(root)}: wait until it ends, or stop it") from None
        except OSError as exc:
            raise StoreError(f"no permission to write {self.uri}: {one_line(exc)}") from exc
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
        try:
            try:
                (root / _OWNER).write_text(json.dumps(owner))
            except OSError as exc:
                raise StoreError(f"{self.uri} cannot be written: {one_line(exc)}") from exc
            yield
        finally:
            (root / _OWNER).unlink(missing_ok=True)
            lock.release()

    def is_locked(self) -> bool:
        """Tell whether some process holds the index for writing."""
        path = Path(self.uri) / _LOCK
        if not path.exists() or not os.access(path, os.W_OK):
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True

    def _require(self, name: str) -> Any:
        table = self._open(name)
        if table is None:
            raise StoreError(f"table {name} is not in {self.uri} (has: {', '.join(self.table_names())})")
        return table

    @contextmanager
    def _told(self, name: str, failure: str) -> Iterator[None]:
        try:
            with _interruptible():
                yield
        except (OSError, RuntimeError, ValueError) as exc:
            raise StoreError(f"table {name} of {self.uri} {failure}: {one_line(exc)}") from exc


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Ctrl-C as what it is: one that comes while Lance calls back into Python arrives as an error of Lance."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as exc:
        if "KeyboardInterrupt" in str(exc):
            raise KeyboardInterrupt from exc
        raise


def open_store(uri: str | Path) -> Store:
    """Open an existing index."""
    root = _local(uri)
    if not root.exists():
        raise StoreError(f"no index at {root}: make one with `csp-index index {root} IMAGES`, or check the path")
    if not _is_index(root):
        raise StoreError(f"{root} is not a csp_index database (it has no table of runs): check the path")
    store = Store(str(root))
    found = (store.read(schema.RUNS, columns=["run_id"]), store.dataset(schema.RUNS).schema.metadata)[1] or {}
    made = found.get(schema.FORMAT_KEY, b"").decode()
    if made != schema.FORMAT:
        raise StoreError(
            f"{root} is not a csp_index database of format {schema.FORMAT} (has {made or 'none'}): "
            "open it with the version of csp_index that made it, or index again into a new directory"
        )
    return store


def create_store(uri: str | Path) -> Store:
    """Open an index, or create it where the directory is new or empty."""
    root = _local(uri)
    if _is_index(root):
        return open_store(root)
    check_creatable(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise StoreError(f"no permission to create {root}: {one_line(exc)}") from exc
    store = Store(str(root))
    store.create(schema.RUNS, schema.table_schema(schema.RUNS))
    return store


def check_creatable(uri: str | Path) -> None:
    """Refuse, without changing anything, a place where an index can neither be opened nor created."""
    root = _local(uri)
    if _is_index(root):
        if not os.access(root, os.W_OK):
            raise StoreError(f"no permission to write {root}: expected a directory you own")
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise StoreError(f"{root} is not a csp_index database and not empty: choose a new or empty directory")
    nearest = next(parent for parent in (root, *root.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise StoreError(f"no permission to create {root}: {nearest} is not a directory you can write")


def is_index(uri: str | Path) -> bool:
    """Tell whether there is an index at the place."""
    return _is_index(_local(uri))


def _is_index(root: Path) -> bool:
    return os.path.isdir(root / f"{schema.RUNS}.lance" / "_versions")  # False, too, where nothing may be looked at


def _local(uri: str | Path) -> Path:
    if "://" in str(uri):
        raise StoreError(
            f"{uri} is not a local directory: this version keeps its index in a directory, for example ./index"
        )
    return Path(uri).expanduser()


def _owner(root: Path) -> str:
    try:
        owner: Mapping[str, object] = json.loads((root / _OWNER).read_text())
    except (OSError, ValueError):
        return "another process"
    return f"process {owner.get('pid')} on {owner.get('host')} since {owner.get('since')}"
