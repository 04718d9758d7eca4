"""What the small files beside the tables are called, and how they are read, in a directory as in an object store."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from csp_index.store import schema

HEAD = "commits/HEAD"  # every index of the present format has it
OLD_MARK = f"{schema.RUNS}.lance/_versions"  # every index of format 2 has it
BEGUN = "commits/BEGUN"  # written before the first table, and removed after HEAD
MIGRATING = "commits/MIGRATING"  # the same for an index of format 2, which has tables already
_LEFT = frozenset({".writer.lock", ".writer.json", ".answers.jsonl", "commits"})  # what a cut-off first command leaves


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A small file or object as it was read: its bytes, what identifies this state of it, the time of writing."""

    data: bytes
    version: Any
    modified: datetime


def manifest_names(version: int) -> tuple[str, str]:
    """Return what the manifest of a table's version may be called, in the two ways that Lance names them."""
    return f"_versions/{2**64 - 1 - version:020d}.manifest", f"_versions/{version}.manifest"


def first_alone(names: Iterable[str]) -> bool:
    """Return whether files of `commits` have no record but the first: that of a command cut off before its HEAD."""
    return all(name[:-5] == f"{1:08d}" for name in names if re.fullmatch(r"\d+\.json", name))


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
