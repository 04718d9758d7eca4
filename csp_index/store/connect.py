"""An index opened, created or refused, before anything in the place is changed; also one held at a fixed state."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.locations import Place, place_of
from csp_index.store.tables import Store

_LOOKS = 5  # at the versions of all tables, until two in a row agree: a writer may commit in between


class FixedStore(Store):
    """The tables at fixed versions: later commits are not seen, nothing is written. Many threads may read at once.

    What `optimize` removes after its grace (the setting keep_hours) is gone for this store, too: StoreError.
    """

    def __init__(self, place: Place, versions: Mapping[str, int]) -> None:
        """Open every table at its version; a table that `versions` does not name does not exist."""
        super().__init__(place)
        self._mutex = threading.Lock()
        self._fixed = {name: self._at(name, version) for name, version in sorted(versions.items())}
        self._moment = {}  # one that never ends

    def _at(self, name: str, version: int) -> Any:
        newest = self._newest(name)
        if newest is None:
            raise StoreError(f"table {name} is not in {self.uri}: expected version {version}; open the index again")
        if newest.version == version:
            return newest
        with self._told(name, f"cannot be opened at version {version} (it has {newest.version}): open the index again"):
            dataset = newest.checkout_version(version)
        self._stamps[name] = self._place.stamp(name, version)
        return dataset

    def _current(self, name: str) -> Any | None:
        return self._fixed.get(name)

    def _open(self, name: str) -> Any | None:
        """Return a table at its version, for searching; it is opened once."""
        if name not in self._fixed:
            return None
        with self._mutex:
            if name not in self._tables:
                version = self._fixed[name].version
                with self._told(name, f"cannot be opened at version {version}: open the index again"):
                    table = self._connection.open_table(name)
                    table.checkout(version)
                self._tables[name] = table
            return self._tables[name]

    def table_names(self) -> list[str]:
        """Return the names of all tables, sorted."""
        return sorted(self._fixed)

    def write_fragments(self, name: str, rows: Any) -> NoReturn:
        """Refuse to write."""
        self._writing(name)

    def write_lock(self) -> NoReturn:
        """Refuse to hold the index for writing."""
        self._writing("runs")

    def _writing(self, name: str) -> NoReturn:
        raise StoreError(
            f"table {name} of {self.uri} is open at a fixed version, only to be read: write through another process"
        )


def open_snapshot(uri: str | Path, versions: Mapping[str, int] | None = None) -> FixedStore:
    """Open an existing index as it is now, or as it was at `versions`, to be read only; see `Store.versions`."""
    place = place_of(uri)
    store = open_store(uri)
    if versions is None:
        versions = store.versions()
        for _ in range(_LOOKS):
            before, versions = versions, store.versions()
            if before == versions:
                break
    return FixedStore(place, versions)


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
