"""The files that a version of a Lance table rests on: their names, sizes and digests, and syncing them to the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from csp_index.errors import StoreError, one_line
from csp_index.store.bucket import BucketLocation
from csp_index.store.layout import DATA, INDICES
from csp_index.store.locations import Location

_BLOCK = 2**20

Files = Mapping[str, list[object]]  # size in bytes and sha256, null in an object store, by name


def files_of(dataset: Any, location: Location, name: str) -> list[str]:
    """Return the names of a version's data, deletion and index files, relative to the table's folder."""
    names = []
    for fragment in dataset.get_fragments():
        names += [f"{DATA}/{file.path}" for file in fragment.data_files()]
        if deleted := fragment.deletion_file():
            names.append(deleted)
    for index in dataset.describe_indices():
        for segment in index.segments:
            folder = f"{INDICES}/{segment.uuid}"
            names += [f"{folder}/{file}" for file in location.listed(f"{name}.lance/{folder}")]
    return names


def sealed(dataset: Any, location: Location, name: str, known: Files) -> tuple[dict[str, list[object]], list[str]]:
    """Return size and digest of a version's files, and the names below the index of those that are to be synced.

    Files that are not `known` are read. In an object store, which keeps checksums of its own, they are not read again,
    and their digest is null.
    """
    files: dict[str, list[object]] = {}
    written: list[str] = []
    for file in files_of(dataset, location, name):
        if file in known:
            files[file] = known[file]
        elif isinstance(location, BucketLocation):
            files[file] = [None, None]
        else:
            files[file] = digest_of(f"{location.address}/{name}.lance/{file}")
            written.append(f"{name}.lance/{file}")
    return files, written


def digest_of(path: str) -> list[object]:
    """Return a file's size and sha256; StoreError if it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {one_line(exc)}") from exc
    return [size, digest.hexdigest()]
