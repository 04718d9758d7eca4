"""An index opened, created or refused, before anything in the place is changed; also one held at a fixed state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.locations import Location, location_of
from csp_index.store.tables import Store

_LOOKS = 5  # at the versions of all tables, until two in a row agree: a writer may commit in between


def open_snapshot(uri: str | Path, versions: Mapping[str, int] | None = None) -> Store:
    """Open an existing index as it is now, or as it was at `versions`, read-only; see `Store.versions`.

    What `optimize` removes after its grace period (the setting keep_hours) is gone for this store, too: StoreError.
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
    """Open the index at the place, or return None where there is none."""
    location = location_of(uri)
    return _opened(location) if location.is_index() else None


def create_store(uri: str | Path) -> Store:
    """Open an index, or create it where the place is new or empty."""
    location = location_of(uri)
    if location.is_index():
        return _opened(location)
    location.check_empty()
    location.prepare()
    store = Store(location)
    store.create(schema.RUNS, schema.table_schema(schema.RUNS))
    return store


def check_creatable(uri: str | Path) -> None:
    """Refuse, without changing anything, a place where an index can neither be opened nor created."""
    location = location_of(uri)
    if location.is_index():
        location.check_writable()
    else:
        location.check_empty()


def is_index(uri: str | Path) -> bool:
    """Tell whether there is an index at the place."""
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
