"""Open or create an index, or refuse before anything at the location changes; open snapshots at fixed versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.locations import Location, location_of
from csp_index.store.tables import Store

_LOOKS = 5  # reads of all versions until two in a row agree: a writer may commit in between


def open_snapshot(uri: str | Path, versions: Mapping[str, int] | None = None) -> Store:
    """Open an existing index as it is now, or as it was at `versions`, read-only; see `Store.versions`.

    Versions that `optimize` removes after the setting keep_hours are lost to this store, too: StoreError.
    """
    location = location_of(uri)
    store = open_store(uri)
    if versions is None:
        versions = store.versions()
        for _ in range(_LOOKS):
            before, versions = versions, store.versions()
            if before == versions:
                break
    return Store(location, versions)


def open_store(uri: str | Path) -> Store:
    """Open an existing index."""
    location = location_of(uri)
    if location.is_index():
        return _opened(location)
    if not location.exists():
        raise StoreError(
            f"no index at {location.uri}: make one with `csp-index index {location.uri} IMAGES`, or check the path"
        )
    raise StoreError(f"{location.uri} is not a csp_index database (it has no table of runs): check the path")


def find_store(uri: str | Path) -> Store | None:
    """Open the index at a location, or return None if there is none."""
    location = location_of(uri)
    return _opened(location) if location.is_index() else None


def create_store(uri: str | Path) -> Store:
    """Open an index, or create it if the location is new or empty."""
    location = location_of(uri)
    if location.is_index():
        return _opened(location)
    location.check_empty()
    location.prepare()
    store = Store(location)
    store.create(schema.RUNS, schema.table_schema(schema.RUNS))
    return store


def check_creatable(uri: str | Path) -> None:
    """Raise StoreError, changing nothing, if an index can be neither opened nor created at a location."""
    location = location_of(uri)
    if location.is_index():
        location.check_writable()
    else:
        location.check_empty()


def is_index(uri: str | Path) -> bool:
    """Return whether there is an index at a location."""
    return location_of(uri).is_index()


def _opened(location: Location) -> Store:
    store = Store(location)
    metadata = (store.read(schema.RUNS, columns=["run_id"]), store.dataset(schema.RUNS).schema.metadata)[1] or {}
    made = metadata.get(schema.FORMAT_KEY, b"").decode()
    if made != schema.FORMAT:
        raise StoreError(
            f"{location.uri} is not a csp_index database of format {schema.FORMAT} (has {made or 'none'}): "
            "open it with the version of csp_index that made it, or index again into a new directory"
        )
    return store
