"""What the files of an index are called, those of its commits and those of a table, in a directory or a bucket."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from csp_index.store import schema

COMMITS = "commits"
FILE_LISTS, TAGS = f"{COMMITS}/files", f"{COMMITS}/tags"
HEAD = f"{COMMITS}/HEAD"  # every index of the present format has it
OLD_TABLE = f"{schema.RUNS}.lance"  # every index of format 2 has it
BEGUN = f"{COMMITS}/BEGUN"  # written before the first table, and removed after HEAD
MIGRATING = f"{COMMITS}/MIGRATING"  # the same for an index of format 2, which has tables already
_LEFT = frozenset({".writer.lock", ".writer.json", ".answers.jsonl", COMMITS})  # what a cut-off first command leaves

DATA, DELETIONS, INDICES, VERSIONS = "data", "_deletions", "_indices", "_versions"  # folders of a table
LISTED = (DATA, DELETIONS, INDICES)  # those whose files the lists of a commit name

_RECORD = re.compile(r"\d+\.json")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small file or object as it was read: its bytes, what identifies this state of it, the time of writing."""

    data: bytes
    version: Any
    modified: datetime


def record_name(number: int) -> str:
    """Return the name of the record of a commit."""
    return f"{COMMITS}/{number:08d}.json"


def list_name(digest: str) -> str:
    """Return the name of a list of the files of a table's version."""
    return f"{FILE_LISTS}/{digest}.json"


def record_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the records among the files of `commits`, in the order of the names.

    >>> record_numbers(["00000001.json", "00000002.json", "BEGUN", "HEAD", "tags"])
    [1, 2]
    """
    return [int(name.removesuffix(".json")) for name in names if _RECORD.fullmatch(name)]


def manifest_names(version: int) -> tuple[str, str]:
    """Return what the manifest of a table's version may be called, in the two ways that Lance names them."""
    return f"{VERSIONS}/{2**64 - 1 - version:020d}.manifest", f"{VERSIONS}/{version}.manifest"


def version_of(manifest: str) -> int:
    """Return the version of a table whose manifest has a name, one of `_versions`; 0 if it is no manifest.

    >>> [version_of(name.removeprefix("_versions/")) for name in manifest_names(7)], version_of("7.txt")
    ([7, 7], 0)
    """
    stem = manifest.removesuffix(".manifest")
    if stem == manifest or not stem.isdecimal():
        return 0
    return 2**64 - 1 - int(stem) if len(stem) == 20 else int(stem)


def is_listed(file: str) -> bool:
    """Return whether a name below a table's folder is one that the lists of a commit may have.

    >>> [is_listed(name) for name in ("data/a.lance", "_versions/1.manifest", "data/../../runs.lance/data/a.lance")]
    [True, False, False]
    """
    return file.partition("/")[0] in LISTED and "/" in file and ".." not in file.split("/")


def holds_rows(file: str) -> bool:
    """Return whether a file below a table's folder says which rows there are: of data, or of what is deleted.

    >>> holds_rows("data/a.lance"), holds_rows("_indices/3f/page.idx"), holds_rows("data")
    (True, False, False)
    """
    return file.startswith((f"{DATA}/", f"{DELETIONS}/"))


def first_alone(names: Iterable[str]) -> bool:
    """Return whether files of `commits` have no record but the first: that of a command cut off before its HEAD."""
    return set(record_numbers(names)) <= {1}


def has_manifest(table: str) -> bool:
    """Return whether a table's folder has a manifest: without one it is what a cut-off command left."""
    try:
        with os.scandir(f"{table}/{VERSIONS}") as entries:
            return any(entry.name.endswith(".manifest") for entry in entries)
    except OSError:
        return False


def is_left_over(path: Path) -> bool:
    """Return whether a file or folder is what a first command leaves that is cut off before its first commit."""
    return path.name in _LEFT or (path.suffix == ".lance" and path.is_dir() and not has_manifest(str(path)))
