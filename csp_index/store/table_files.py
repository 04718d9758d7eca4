"""The files that a version of a Lance table rests on: their names, sizes and digests, and syncing them to the disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from typing import Any

from csp_index.errors import StoreError, one_line
from csp_index.store.bucket import BucketLocation
from csp_index.store.layout import manifest_names
from csp_index.store.locations import LocalLocation, Location

_BLOCK = 2**20

Files = Mapping[str, list[object]]  # size in bytes and sha256, null in an object store, by name


def files_of(dataset: Any, location: Location, name: str) -> list[str]:
    """Return the names of a version's data, deletion and index files, relative to the table's folder."""
    names = []
    for fragment in dataset.get_fragments():
        names += [f"data/{file.path}" for file in fragment.data_files()]
        if deleted := fragment.deletion_file():
            names.append(deleted)
    for index in dataset.describe_indices():
        for segment in index.segments:
            folder = f"_indices/{segment.uuid}"
            names += [f"{folder}/{file}" for file in location.listed(f"{name}.lance/{folder}")]
    return names


def sealed(dataset: Any, location: Location, name: str, known: Files) -> dict[str, list[object]]:
    """Return size and digest of a version's files; those that are not `known` are read, and synced to the disk.

    In an object store, which keeps checksums of its own, files are not read again, and their digest is null.
    """
    files: dict[str, list[object]] = {}
    written: list[str] = []
    for file in files_of(dataset, location, name):
        if file in known:
            files[file] = known[file]
        elif isinstance(location, BucketLocation):
            files[file] = [None, None]
        else:
            path = f"{location.address}/{name}.lance/{file}"
            files[file] = digest_of(path)
            written.append(path)
    if isinstance(location, LocalLocation):
        root = f"{location.address}/{name}.lance"
        manifest = next(path for path in manifest_names(int(dataset.version)) if os.path.exists(f"{root}/{path}"))
        folders = {os.path.dirname(path) for path in written} | {f"{root}/_versions", root}
        location.sync([*written, f"{root}/{manifest}", *sorted(folders), location.address])
    return files


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
