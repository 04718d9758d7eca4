"""What a writer does to the tables of an index, from one commit to the next: goes on from it, commits, or undoes."""

from __future__ import annotations

import hashlib
import logging

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.lance_errors import translated
from csp_index.store.history.records import Record, TableRecord
from csp_index.store.history.table_files import Files, sealed
from csp_index.store.history.table_versions import NewestTables
from csp_index.store.layout import MIGRATING, manifest_names
from csp_index.store.locations import Location
from csp_index.store.locks import Lock

_log = logging.getLogger(__name__)


class Transaction:
    """The writes of the holder of the write lock."""

    def __init__(self, location: Location, tables: NewestTables, log: CommitLog, lock: Lock) -> None:
        """Prepare; nothing is read."""
        self._location, self._tables, self._log, self._lock = location, tables, log, lock
        self._record: Record | None = None  # the latest, shown or not
        self._touched: set[str] = set()  # tables written since
        self._pending = False  # whether the latest commit is not shown to readers yet

    def begin(self, *, old_format: bool = False) -> None:
        """Go on from the latest commit: undo what a writer left behind it that was cut off.

        With `old_format` an index of format 2 is taken as it is, to be committed for the first time. StoreError if a
        table is missing or older than the commit says.
        """
        self._record = self._log.latest(cut_off=self._lock.cut_off)
        if not old_format:
            self._log.check_migrated(committed=self._record is not None)
        if self._record is None:
            if old_format:
                self._location.write(MIGRATING, b"")
                self._touched.update(self._tables.names())
                return
            for name in self._tables.names():
                self._drop(name)
            return
        self._pending = not self._record.shown
        for name in sorted(set(self._tables.names()) | self._record.tables.keys()):
            self._settle(name, self._record.tables.get(name))

    def _settle(self, name: str, committed: TableRecord | None) -> None:
        """Bring a table to the state of the latest commit."""
        newest = self._tables.version(name)
        version = None if newest is None else newest.state[0]
        if committed is None:
            if not self._lock.cut_off and not schema.is_own(name):
                return  # a user's table, which no csp_index would read
            self._tell_undone(name, version, committed=False)
            self._drop(name)
            return
        self._log.check({name: committed})
        if version is None or version < committed.version:
            raise StoreError(
                f"{self._location.uri} is damaged: table {name} has version {version}, the last commit rests on "
                f"{committed.version}; restore it from a copy, or run `csp-index verify {self._location.uri} --repair`"
            )
        if version > committed.version:
            self._tell_undone(name, version, committed=True)
            self._restore(name, committed)
            self._touched.add(name)

    def _tell_undone(self, name: str, version: int | None, *, committed: bool) -> None:
        """Say that another program changed a table: a command that was cut off would not have given back the lock."""
        if not self._lock.cut_off:
            rest = f"undone; its version {version} is there until `csp-index optimize` cleans up"
            _log.warning(
                f"table {name} of {self._location.uri} was {'changed' if committed else 'made'} by another program "
                f"since the last commit: {rest if committed else 'removed'}"
            )

    def touch(self, name: str) -> None:
        """Note that a table is being written."""
        self._touched.add(name)

    def check(self) -> None:
        """Raise StoreError if the lock was lost."""
        self._lock.check()

    def commit(self, run_id: str = "", command: str = "", *, shown: bool = True) -> None:
        """Commit what was written: get it onto the disk, then write the record. Nothing new is no commit."""
        if not self._touched and not (shown and self._pending):
            return
        self._lock.check()
        before = {} if self._record is None else self._record.tables
        tables = dict(before)
        touched, self._touched = self._touched, set()  # what another thread writes meanwhile is in the next commit
        written: list[str] = []
        try:
            for name in sorted(touched):
                entry = self._entry(name, before.get(name), written)
                if entry is None:
                    tables.pop(name, None)
                else:
                    tables[name] = entry
            if written:
                self._location.sync(written)
            if tables != before or (shown and self._pending):
                self._record = self._log.write(tables, run_id, command, shown=shown)
                self._pending = not shown
        except BaseException:
            self._touched |= touched
            raise

    def rollback(self) -> None:
        """Undo what was written since the last commit; where that fails, the next writer does it."""
        before = {} if self._record is None else self._record.tables
        self._lock.clean = False
        self._lock.check()
        for name in sorted(self._touched):
            if name in before:
                newest = self._tables.version(name)
                if newest is None or newest.state[0] != before[name].version:
                    self._restore(name, before[name])
            else:
                self._drop(name)
                self._touched.discard(name)
        self._lock.clean = True
        self.commit(shown=not self._pending)

    def _entry(self, name: str, before: TableRecord | None, written: list[str]) -> TableRecord | None:
        """Return what the record says of a table: its newest version. Adds the files to sync to `written`."""
        newest = self._tables.version(name)
        if newest is None:
            return None
        version = newest.state[0]
        if before is not None and version == before.version:
            return before
        known: Files = {} if before is None else self._log.files(before.files)
        with translated(f"table {name} of {self._location.uri} cannot be committed"):
            files, new = sealed(newest.dataset, self._location, name, known)
            rows = int(newest.dataset.count_rows())
        for manifest in manifest_names(version):
            content = self._location.read(f"{name}.lance/{manifest}")
            if content is not None:
                listed, list_name = self._log.keep_files(files)
                written += [*new, f"{name}.lance/{manifest}", list_name]
                return TableRecord(version, rows, hashlib.sha256(content.data).hexdigest(), listed)
        raise StoreError(f"table {name} of {self._location.uri} lost version {version} while it was written")

    def _restore(self, name: str, committed: TableRecord) -> None:
        with translated(f"table {name} of {self._location.uri} cannot be restored to its last commit"):
            self._tables.at(name, committed.version).dataset.restore()
        self._tables.changed(name)

    def _drop(self, name: str) -> None:
        with translated(f"table {name} of {self._location.uri} cannot be removed"):
            self._tables.connection.drop_table(name, ignore_missing=True)
        self._tables.dropped(name)
        self._tables.changed(name)
