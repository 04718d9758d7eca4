"""Errors of Lance and of the file system as StoreError; an interrupt that arrives as one of them stays an interrupt."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from csp_index.errors import StoreError
from csp_index.files.object_stores import reason
from csp_index.store.locations import Location


@contextmanager
def translated(failure: str) -> Iterator[None]:
    """Raise errors of Lance and of the file system as StoreError; `failure` says what could not be done."""
    try:
        with _interruptible():
            yield
    except (OSError, RuntimeError, ValueError) as exc:
        raise StoreError(f"{failure}: {reason(exc)}") from exc


def at_version(name: str, location: Location, version: str) -> AbstractContextManager[None]:
    """Raise errors of opening a table at a version as StoreError."""
    return translated(f"table {name} of {location.uri} cannot be opened at version {version}: open the index again")


@contextmanager
def opening(name: str, location: Location) -> Iterator[None]:
    """End the block without an error where the table does not exist."""
    try:
        with _interruptible():
            yield
    except (OSError, RuntimeError, ValueError) as exc:
        if not (isinstance(exc, OSError | ValueError) and "not found" in str(exc).lower()):
            raise StoreError(f"table {name} of {location.uri} cannot be opened: {reason(exc)}") from exc


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise Ctrl-C as KeyboardInterrupt: one that comes while Lance calls back into Python arrives as its error."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as exc:
        if "KeyboardInterrupt" in str(exc):
            raise KeyboardInterrupt from exc
        raise
