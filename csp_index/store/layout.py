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
    return f"_versions/{2**64 - 1 - version:020d}.manifest", f"_versions/{version}.manifest"


def first_alone(names: Iterable[str]) -> bool:
    """Return whether files of `commits` have no record but the first: that of a command cut off before its HEAD."""
    return set(record_numbers(names)) <= {1}


def has_manifest(table: str) -> bool:
    """Return whether a table's folder has a manifest: without one it is what a cut-off command left."""
    try:
        with os.scandir(f"{table}/_versions") as entries:
            return any(entry.name.endswith(".manifest") for entry in entries)
    except OSError:
        return False


def is_left_over(path: Path) -> bool:
    """Return whether a file or folder is what a first command leaves that is cut off before its first commit."""
    return path.name in _LEFT or (path.suffix == ".lance" and path.is_dir() and not has_manifest(str(path)))
