"""Open or create an index, or refuse before anything at the location changes; open snapshots at fixed versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.locations import Location, location_of
from csp_index.store.locks import check_free, forget, hold, is_held
from csp_index.store.tables import Store


def open_snapshot(uri: str | Path, versions: Mapping[str, int] | None = None) -> Store:
    """Open an existing index as it is now, or as it was at `versions`, read-only; see `Store.versions`.

    Clean-up leaves these versions alone for as long as the store exists.
    """
    store = open_store(uri)
    record = store.commit_seen
    if versions is not None and record is not None and record.versions != versions:
        record = next((one for one in reversed(store.log.records()) if one.versions == versions), None)
    if record is not None:
        return store.fixed(record)
    return Store(location_of(uri), store.versions() if versions is None else versions)


def open_version(uri: str | Path, name: str | int) -> Store:
    """Open an existing index as a commit left it, by its number or tag, read-only. NotFoundError if there is none."""
    store = open_store(uri)
    record = store.log.find(str(name))
    store.log.check(record.tables)
    return store.fixed(record)


def open_store(uri: str | Path) -> Store:
    """Open an existing index at its last commit."""
    location = location_of(uri)
    if location.is_begun():
        if is_held(location):
            raise StoreError(f"{location.uri} is no index yet: another process is making it, wait until it has images")
        raise StoreError(
            f"{location.uri} is no index yet: the command that made it was cut off before its first commit; "
            "run it again, it starts afresh"
        )
    if location.is_index():
        return _opened(location)
    if not location.exists():
        raise StoreError(
            f"no index at {location.uri}: make one with `csp-index index {location.uri} IMAGES`, or check the path"
        )
    raise StoreError(f"{location.uri} is not a csp_index database (it has no commits): check the path")


def open_uncommitted(uri: str | Path) -> Store:
    """Open an index as its writer sees it, with what is not committed yet: for threads and processes of the writer."""
    return Store(location_of(uri), uncommitted=True)


def open_to_migrate(uri: str | Path) -> Store:
    """Open an existing index, also one of the present format whose commits are lost, to give it its first commit."""
    location = location_of(uri)
    if location.is_index() and not location.is_begun():
        store = Store(location)
        if store.log.head() is None and format_of(store) == schema.FORMAT:
            return store
    return open_store(uri)


def format_of(store: Store) -> str:
    """Return the format that the tables of an index without commits are written in; "" if they do not say."""
    metadata = store.dataset(schema.RUNS).schema.metadata or {}
    return str(metadata.get(schema.FORMAT_KEY, b"").decode())


def find_store(uri: str | Path) -> Store | None:
    """Open the index at a location, or return None if there is none."""
    location = location_of(uri)
    return _opened(location) if _is_made(location) else None


def create_store(uri: str | Path) -> Store:
    """Open an index, or create it if the location is new or empty."""
    location = location_of(uri)
    if _is_made(location):
        return _opened(location)
    if not location.is_begun():
        try:
            location.check_empty()
        except StoreError:
            if not location.is_index():  # else another process began to make it a moment ago
                raise
        location.prepare()
    store = Store(location)
    with store.write_lock():
        store.create(schema.RUNS, schema.table_schema(schema.RUNS))
        store.commit(command="create")
    return store


@contextmanager
def claimed(uri: str | Path) -> Iterator[Store | None]:
    """Hold a place without an index while models for one load, so that a second command is refused before it does.

    Yields the index that is there already, which is not held. Afterwards the place is as it was. Errors: those of
    `check_creatable`; LockedError, which names it, where another process makes an index.
    """
    location = location_of(uri)
    check_creatable(uri)
    if _is_made(location):
        yield _opened(location)
        return
    undo = location.prepare()
    with hold(location):
        try:
            yield None
        finally:
            if undo is not None:
                with suppress(StoreError):  # what is left counts as nothing
                    undo(partial(forget, location))


def check_creatable(uri: str | Path) -> None:
    """Raise StoreError if an index can be neither opened nor created at a location, or another process writes to it.

    Changes nothing there.
    """
    location = location_of(uri)
    if _is_made(location):
        _opened(location).check_writable()
    elif location.is_index():  # begun
        location.check_writable()
        check_free(location)
    else:
        location.check_empty()


def is_index(uri: str | Path) -> bool:
    """Return whether there is an index at a location."""
    return _is_made(location_of(uri))


def _is_made(location: Location) -> bool:
    """Return whether there is an index whose first command was not cut off before its first commit."""
    return location.is_index() and not location.is_begun()


def _opened(location: Location) -> Store:
    store = Store(location)
    if store.commit_seen is not None:
        return store
    store.read(schema.RUNS, columns=["run_id"])  # StoreError if it cannot be read
    made = format_of(store)
    if made == schema.FORMAT:
        raise StoreError(
            f"{location.uri} has tables but no record of which of their versions belong together, expected the folder "
            f"commits: copy it from a backup, or take the tables as they are by `csp-index migrate {location.uri}`"
        )
    if made != schema.OLD_FORMAT:
        raise StoreError(
            f"{location.uri} is not a csp_index database of format {schema.FORMAT} (has {made or 'none'}): "
            "open it with the version of csp_index that made it, or index again into a new directory"
        )
    return store
