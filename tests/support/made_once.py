"""Small indexes that many tests begin with: each is made once in a process, and every test gets a copy."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

from csp_index import Index
from csp_index.store import originals, schema

_ROOT = tempfile.TemporaryDirectory(prefix="made-once-", ignore_cleanup_errors=True)
_MADE: dict[Hashable, Path] = {}


def allow_originals(index: Index) -> Index:
    """Let a copy of an index open the pictures beside its template, and return it."""
    uris = index.store.read(schema.IMAGES, ["uri"])["uri"].to_pylist()
    originals.allow(index.uri, {str(Path(uri).parent) for uri in uris})
    return index


def made_once(key: Hashable, make: Callable[[Path], object], folder: Path) -> Path:
    """Fill a folder with what `make` writes into one; the next folder with the same key gets copies of its files."""
    if key not in _MADE:
        template = Path(_ROOT.name) / str(len(_MADE))
        template.mkdir()
        make(template)
        _MADE[key] = template
    return Path(shutil.copytree(_MADE[key], folder, dirs_exist_ok=True))
