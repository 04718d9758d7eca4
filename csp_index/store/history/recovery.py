"""A damaged log of commits, brought back to a state that can be opened. Knows nothing about what tables hold.

The caller holds the lock of the location (`locks.hold`), not the write lock of a store, which would not open.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress

from csp_index.errors import StoreError
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.records import Record
from csp_index.store.history.table_files import sealed
from csp_index.store.history.table_versions import NewestTables
from csp_index.store.layout import manifest_names
from csp_index.store.locations import LocalLocation, Location


def whole_commits(log: CommitLog) -> Iterator[Record]:
    """Yield the commits that readers may see and whose tables are all there, newest first."""
    for number in reversed(log.numbers()):
        with suppress(StoreError):
            record = log.record(number)
            if record.shown:
                log.check(record.tables)
                yield record


def go_back(log: CommitLog) -> Record | None:
    """Make the newest whole commit the present one, forget what came after it, and return it; None if there is none."""
    record = next(whole_commits(log), None)
    if record is not None:
        log.point_to(record)
        for number in log.numbers():
            if number > record.number:
                log.forget(number)
    return record


def leave_out(location: Location, log: CommitLog, tables: Collection[str]) -> None:
    """Commit the present state without some tables, whose folders are removed: nobody can open them."""
    current = log.current()
    if current is None:
        raise StoreError(f"{location.uri} has no commit: check the path")
    rest = {name: table for name, table in current[1].tables.items() if name not in tables}
    for name in tables:
        remove_table(location, name)
    log.write(rest, "", "verify --repair", shown=True)


def remove_table(location: Location, name: str) -> None:
    """Remove a table's folder with all its versions, even where Lance cannot open it."""
    if isinstance(location, LocalLocation):
        shutil.rmtree(location.root / f"{name}.lance", ignore_errors=True)
    else:
        NewestTables(location).connection.drop_table(name, ignore_missing=True)


def forget_newer(location: Location, name: str, version: int, newest: int) -> int:
    """Remove the manifests above a version that cannot be opened, newest first; return how many."""
    removed = 0
    for number in range(newest, version, -1):
        try:
            if NewestTables(location).version(name) is not None:
                break
        except StoreError:
            for manifest in manifest_names(number):
                location.remove(f"{name}.lance/{manifest}")
            removed += 1
    return removed


def list_again(location: Location, log: CommitLog, name: str) -> bool:
    """Write the list of a table's files again; return False, changing nothing, if the files are not those it named."""
    current = log.current()
    if current is None or name not in current[1].tables:
        return False
    entry = current[1].tables[name]
    files, _ = sealed(NewestTables(location).at(name, entry.version).dataset, location, name, {})
    return log.replace_list(entry.files, files)
