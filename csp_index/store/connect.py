"""An index opened, created or refused, before anything in the place is changed; also one held at a fixed state."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.locations import Place, place_of
from csp_index.store.tables import Store

_LOOKS = 5  # at the versions of all tables, until two in a row agree: a writer may commit in between


def open_snapshot(uri: str | Path, versions: Mapping[str, int] | None = None) -> Store:
    """Open an existing index as it is now, or as it was at `versions`, read-only; see `Store.versions`.

    What `optimize` removes after its grace period (the setting keep_hours) is gone for this store, too: StoreError.
    """
    place = place_of(uri)
    store = open_store(uri)
    if versions is None:
        versions = store.versions()
        for _ in range(_LOOKS):
            before, versions = versions, store.versions()
            if before == versions:
                break
    return Store(place, versions)


def open_store(uri: str | Path) -> Store:
    """Open an existing index."""
    place = place_of(uri)
    if place.is_index():
        return _opened(place)
    if not place.exists():
        raise StoreError(
            f"no index at {place.uri}: make one with `csp-index index {place.uri} IMAGES`, or check the path"
        )
    raise StoreError(f"{place.uri} is not a csp_index database (it has no table of runs): check the path")


def find_store(uri: str | Path) -> Store | None:
    """Open the index at the place, or return None where there is none."""
    place = place_of(uri)
    return _opened(place) if place.is_index() else None


def create_store(uri: str | Path) -> Store:
    """Open an index, or create it where the place is new or empty."""
    place = place_of(uri)
    if place.is_index():
        return _opened(place)
    place.check_empty()
    place.prepare()
    store = Store(place)
    store.create(schema.RUNS, schema.table_schema(schema.RUNS))
    return store


def check_creatable(uri: str | Path) -> None:
    """Refuse, without changing anything, a place where an index can neither be opened nor created."""
    place = place_of(uri)
    if place.is_index():
        place.check_writable()
    else:
        place.check_empty()


def is_index(uri: str | Path) -> bool:
    """Tell whether there is an index at the place."""
    return place_of(uri).is_index()


def _opened(place: Place) -> Store:
    store = Store(place)
    found = (store.read(schema.RUNS, columns=["run_id"]), store.dataset(schema.RUNS).schema.metadata)[1] or {}
    made = found.get(schema.FORMAT_KEY, b"").decode()
    if made != schema.FORMAT:
        raise StoreError(
            f"{place.uri} is not a csp_index database of format {schema.FORMAT} (has {made or 'none'}): "
            "open it with the version of csp_index that made it, or index again into a new directory"
        )
    return store
