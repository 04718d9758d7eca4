"""Which version of each table a store sees: that of the last commit of the whole index (`CommittedTables`), a fixed one
(`FixedTables`), or, for the writer and for indexes of format 2, the newest (`NewestTables`).

Opens Lance tables and connections; what is done with them is the business of `tables`. Lance prints warnings meant for
its own developers, so the first connection sets LANCE_LOG=error unless the environment sets that variable.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.store.foreign import check_own, check_table_files
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.lance_errors import at_version, opening, translated
from csp_index.store.history.read_hold import ReadHold
from csp_index.store.history.records import Record
from csp_index.store.locations import Location

_INDEX_CACHE, _METADATA_CACHE = 256 * 2**20, 64 * 2**20  # bytes; Lance would take several GB

State = tuple[int, object]


@dataclass(frozen=True, slots=True)
class TableVersion:
    """A table at one commit; `state` identifies the commit, even among those of a table dropped and made again."""

    dataset: Any  # a lance.LanceDataset
    state: State  # the version, and what the commit has of its own (`Location.stamp`)


class Tables(Protocol):
    """The Lance tables in one place, each at the version that a store sees."""

    @property
    def connection(self) -> Any:
        """The lancedb connection, for vector search."""

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""

    def version(self, name: str) -> TableVersion | None:
        """Return the table for reading; None if it does not exist."""

    def table(self, name: str) -> Any | None:
        """Return the lancedb table, for vector search; None if the table does not exist."""

    def moment(self) -> AbstractContextManager[None]:
        """Look for newer commits once per table inside the block."""

    def changed(self, name: str | None = None) -> None:
        """Look again at a table that was written, by default at all tables, even within a `moment`."""

    def check_writable(self, name: str) -> None:
        """Raise StoreError if nothing may be written."""


class NewestTables:
    """The tables at their last commits. One thread at a time."""

    def __init__(self, location: Location) -> None:
        """Connect when a table is first opened."""
        self._location = location
        self._tables: dict[str, Any] = {}
        self._versions: dict[str, TableVersion] = {}  # as last seen: the next reader only checks for a newer one
        self._moment: dict[str, TableVersion | None] | None = None  # the versions seen in the current `moment`
        self._session: Any = None
        self._connection: Any = None

    @property
    def connection(self) -> Any:
        """The lancedb connection, for vector search alone: importing lancedb takes longer than most commands."""
        if self._connection is None:
            _quiet()
            import lancedb

            with translated(f"{self._location.uri} cannot be opened"):
                session = lancedb.Session(_INDEX_CACHE, _METADATA_CACHE)
                options = self._location.options
                self._connection = lancedb.connect(self._location.address, storage_options=options, session=session)
        return self._connection

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        with translated(f"tables of {self._location.uri} cannot be listed"):
            if (listed := self._location.tables()) is not None:
                return listed
        names: list[str] = []
        token: str | None = None
        while True:
            with translated(f"tables of {self._location.uri} cannot be listed"):
                page = self.connection.list_tables(page_token=token)
            names.extend(page.tables)
            token = page.page_token
            if not token:
                return sorted(names)

    def version(self, name: str) -> TableVersion | None:
        """Return the table at its last commit, or as first seen in the current `moment`."""
        if self._moment is None:
            return self._newest(name)
        if name not in self._moment:
            self._moment[name] = self._newest(name)
        return self._moment[name]

    def table(self, name: str) -> Any | None:
        """Return the lancedb table at its last commit."""
        self._check_same(name)
        table = self._tables.pop(name, None)
        with opening(name, self._location):
            if table is None:
                self._newest(name)  # checks that the table is the index's own
                table = self.connection.open_table(name)
            else:
                table.checkout_latest()
            self._tables[name] = table
            return table
        return None

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Look for newer commits of others once per table inside the block."""
        if self._moment is not None:
            yield
            return
        self._moment = {}
        try:
            yield
        finally:
            self._moment = None

    def changed(self, name: str | None = None) -> None:
        """Look again at a table that was written, by default at all tables."""
        if self._moment is not None:
            if name is None:
                self._moment.clear()
            else:
                self._moment.pop(name, None)

    def dropped(self, name: str) -> None:
        """Forget a table that was dropped."""
        self._tables.pop(name, None)
        self._versions.pop(name, None)

    def create(self, name: str, table_schema: pa.Schema, file_format: str | None) -> None:
        """Create a table, empty; one that another thread has just made is left as it is."""
        _quiet()
        from lance import write_dataset

        new = {"mode": "create", "data_storage_version": file_format, **self._place(name)}
        try:
            write_dataset(table_schema.empty_table(), **new)
        except OSError as exc:
            if "already exists" not in str(exc).lower():
                raise
        self.changed(name)

    def check_writable(self, name: str) -> None:
        """Allow every write: the file system or the object store refuses those without permission."""

    def at(self, name: str, version: int, seen: TableVersion | None = None) -> TableVersion:
        """Return a table at one version; `seen` is the same table at another. StoreError if it cannot be opened."""
        _quiet()
        from lance import dataset

        with at_version(name, self._location, str(version)):
            check_table_files(name, self._location)
            if seen is not None:
                opened = seen.dataset.checkout_version(version)
            else:
                opened = dataset(version=version, **self._place(name))
            check_own(opened, name, self._location)
            return TableVersion(opened, (version, self._location.stamp(name, version)))

    def _place(self, name: str) -> dict[str, Any]:
        """Return where a table is, for Lance, and the caches that all tables share."""
        if self._session is None:
            from lance import Session  # type: ignore[attr-defined]

            self._session = Session(_INDEX_CACHE, _METADATA_CACHE)
        uri, options = f"{self._location.address}/{name}.lance", self._location.options
        return {"uri": uri, "storage_options": options, "session": self._session}

    def _newest(self, name: str) -> TableVersion | None:
        _quiet()
        from lance import dataset

        self._check_same(name)
        seen = self._versions.pop(name, None)
        with opening(name, self._location):
            if seen is None:
                check_table_files(name, self._location)
                newest = dataset(**self._place(name))
            elif (latest := seen.dataset.latest_version) != seen.dataset.version:
                newest = seen.dataset.checkout_version(latest)
            else:
                newest = seen.dataset
            check_own(newest, name, self._location)
            number = int(newest.version)
            version = self._versions[name] = TableVersion(newest, (number, self._location.stamp(name, number)))
            return version
        return None

    def _check_same(self, name: str) -> None:
        """Open all tables again if the version last seen has changed: the index was removed and made again."""
        seen = self._versions.get(name)
        if seen is not None and seen.state[1] != self._location.stamp(name, seen.state[0]):
            self._tables.clear()
            self._versions.clear()
            self._session = self._connection = None


class CommittedTables:
    """The tables as the last commit of the whole index names them; a newer one is looked for. One thread at a time."""

    def __init__(self, location: Location, log: CommitLog) -> None:
        """Read the last commit, and check that its tables are there. StoreError if there is none, or one is not."""
        self._location, self._log = location, log
        self._newest = NewestTables(location)
        self._versions: dict[str, TableVersion] = {}
        self._tables: dict[str, tuple[int, Any]] = {}
        self._pinned = False
        self._state: object = None  # of HEAD, as last seen
        self._record: Record | None = None
        self._hold: ReadHold | None = None  # keeps clean-up away from the versions that are open

    @property
    def connection(self) -> Any:
        """The lancedb connection, for vector search."""
        return self._newest.connection

    @property
    def record(self) -> Record:
        """The last commit, or the one first seen in the current `moment`."""
        if self._record is None or (not self._pinned and self._log.state() != self._state):
            self._follow()
        return cast(Record, self._record)

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        return sorted(self.record.tables)

    def version(self, name: str) -> TableVersion | None:
        """Return the table at the version of the commit."""
        entry = self.record.tables.get(name)
        if entry is None:
            return None
        seen = self._versions.get(name)
        if seen is None or seen.state[0] != entry.version:
            seen = self._versions[name] = self._newest.at(name, entry.version, seen)
        return seen

    def table(self, name: str) -> Any | None:
        """Return the lancedb table at the version of the commit, for vector search."""
        entry = self.record.tables.get(name)
        if entry is None:
            return None
        number, table = self._tables.get(name, (-1, None))
        if number != entry.version:
            self.version(name)  # checks that the table is the index's own
            with at_version(name, self._location, str(entry.version)):
                table = self.connection.open_table(name) if table is None else table
                table.checkout(entry.version)
            self._tables[name] = entry.version, table
        return table

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Stay at one commit inside the block."""
        if self._pinned:
            yield
            return
        _ = self.record
        self._pinned = True
        try:
            yield
        finally:
            self._pinned = False

    def release(self) -> None:
        """Let go of the commit: this process is about to write, and reads the last one afterwards."""
        self._hold = self._state = None

    def changed(self, name: str | None = None) -> None:
        """Look again, even within a `moment`: this process has committed."""
        self._state = None
        if self._pinned:
            self._follow()

    def check_writable(self, name: str) -> None:
        """Allow every write: it goes through the write lock."""

    def _follow(self) -> None:
        current = self._log.current()
        if current is None:
            raise StoreError(f"{self._location.uri} has no commit: check the path")
        head, record = current
        hold = self._log.reading(record.number)
        if hold is None and (again := self._log.current()) is not None:  # removed since, or nothing can be marked
            head, record = again
            hold = self._log.reading(record.number)
        before = self._record.tables if self._record is not None else {}
        changed = {name: table for name, table in record.tables.items() if before.get(name) != table}
        self._log.check(changed)
        if any(name in before and before[name].version >= table.version for name, table in changed.items()):
            self._versions.clear()  # a table was dropped and made again: nothing that is open is good
            self._tables.clear()
            self._newest = NewestTables(self._location)
        self._state, self._record, self._hold = head.state, record, hold


class FixedTables:
    """The tables at fixed versions: later commits are not seen, nothing is written. Many threads may read at once."""

    def __init__(self, location: Location, versions: Mapping[str, int]) -> None:
        """Open every table at its version; a table that `versions` does not name does not exist."""
        self._location = location
        self._newest = NewestTables(location)
        self._versions = {name: self._newest.at(name, number) for name, number in sorted(versions.items())}
        self._tables: dict[str, Any] = {}
        self._mutex = threading.Lock()

    @property
    def connection(self) -> Any:
        """The lancedb connection, for vector search."""
        return self._newest.connection

    def names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        return sorted(self._versions)

    def version(self, name: str) -> TableVersion | None:
        """Return the table at its version."""
        return self._versions.get(name)

    def table(self, name: str) -> Any | None:
        """Return the lancedb table at its version, for vector search; it is opened once."""
        if name not in self._versions:
            return None
        with self._mutex:
            if name not in self._tables:
                number = self._versions[name].state[0]
                with at_version(name, self._location, str(number)):
                    table = self.connection.open_table(name)
                    table.checkout(number)
                self._tables[name] = table
            return self._tables[name]

    def moment(self) -> AbstractContextManager[None]:
        """Do nothing: there is one moment for all."""
        return nullcontext()

    def changed(self, name: str | None = None) -> None:
        """Do nothing: nothing changes."""

    def check_writable(self, name: str) -> None:
        """Refuse to write."""
        raise StoreError(
            f"table {name} of {self._location.uri} is open at a fixed version, only to be read: "
            "to write, leave out --version (in Python: version)"
        )


def _quiet() -> None:
    os.environ.setdefault("LANCE_LOG", "error")
