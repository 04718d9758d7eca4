"""What an index from a stranger may not contain: tables that lie elsewhere, and names and numbers no csp_index wrote.

A manifest of Lance may name other places for its data, to which reading sends requests signed with the reader's keys;
a folder or file of the index may be a link, or a pipe, on which Lance waits forever. Opening a table reads its manifest
alone, so the rest can be checked before it is read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from csp_index.errors import StoreError
from csp_index.files.regular_files import kind_of
from csp_index.store.layout import COMMITS, FILE_LISTS, TAGS
from csp_index.store.locations import LocalLocation, Location

MOST_DIMENSIONS: Final = 2**20  # of an encoder
MOST_NEURONS: Final = 2**26  # of a layer
_MODELS = b"embedding_functions"
_NAME = re.compile(r"\w+", re.ASCII)


def check_own(dataset: Any, name: str, location: Location) -> None:
    """Refuse a table whose data lie outside the index, or that names models for LanceDB to load when it is written.

    Raises StoreError; no request is sent.
    """
    elsewhere = [str(base.path) for base in dataset.base_paths().values()]
    if elsewhere:
        raise StoreError(
            f"table {name} of {location.uri} names data outside the index ({elsewhere[0]}), which is never read: "
            "copy the whole index from its owner"
        )
    if any(key.startswith(_MODELS) for key in dataset.schema.metadata or ()):
        raise StoreError(
            f"table {name} of {location.uri} names embedding functions of LanceDB, which would load models: no "
            "csp_index writes them"
        )


def check_table_files(name: str, location: Location) -> None:
    """Refuse a table of a directory that holds links, pipes or devices. Raises StoreError."""
    for file, kind in odd_files(name, location):
        refused = "which is never followed" if kind == "a link" else "expected a regular file"
        raise StoreError(
            f"{file} of table {name} in {location.uri} is {kind}, {refused}: copy the whole index from its owner"
        )


def odd_files(name: str, location: Location) -> Iterator[tuple[str, str]]:
    """Yield what is neither a folder nor a regular file in a table of a directory, and what it is.

    The folders are listed, 1,000 files in a millisecond or two; the files themselves are not touched.
    """
    if not isinstance(location, LocalLocation):
        return
    folders = [f"{name}.lance"]
    if os.path.islink(location.root / folders[0]):
        yield folders.pop(), "a link"
    while folders:
        folder = folders.pop()
        with suppress(FileNotFoundError), os.scandir(location.root / folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}/{entry.name}")
                elif not entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):  # removed since it was listed
                        yield f"{folder}/{entry.name}", kind_of(entry.stat(follow_symlinks=False))


def check_name(name: str, location: Location) -> str:
    """Return the name of a table in a commit. Raises StoreError for one that would lead to another place."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"{location.uri} names the table {name!r} in a commit, expected letters, digits and _: the index is "
            "damaged, or was made by something else than csp_index"
        )
    return name


def check_commits(location: Location) -> None:
    """Refuse a directory whose folders of commits are links. Raises StoreError."""
    if isinstance(location, LocalLocation):
        for folder in (COMMITS, FILE_LISTS, TAGS):
            if os.path.islink(f"{location.address}/{folder}"):
                raise StoreError(
                    f"{folder} in {location.uri} is a link, which is never followed: copy the index from its owner"
                )


def check_table(named: str, expected: str, owner: str) -> str:
    """Return the name of the table of an encoder or a layer. Raises StoreError for another than the schema's."""
    if named != expected:
        raise StoreError(
            f"{owner} names the table {named!r}, expected {expected!r}: the index is damaged, or was made by something "
            "else than csp_index"
        )
    return named


def check_size(value: object, most: int, owner: str, column: str) -> int:
    """Return a stored number of dimensions or neurons. Raises StoreError for one that cannot be."""
    if not isinstance(value, int) or not 1 <= value <= most:
        raise StoreError(f"{owner} has {column} = {value}, expected 1 to {most:,}: the index is damaged")
    return value


def is_plain(path: Path) -> bool:
    """Return whether nothing or a regular file is at a path: no link, pipe or device."""
    return not os.path.lexists(path) or (path.is_file() and not path.is_symlink())
