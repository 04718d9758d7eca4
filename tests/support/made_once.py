"""Small indexes that many tests begin with: made once in a process, and every test gets a copy; or once for all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

import pytest
from filelock import FileLock

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


def made_for_all(name: str, make: Callable[[Path], object], folders: pytest.TempPathFactory) -> Path:
    """Return a folder that `make` filled, once for all processes of one run of the tests: nobody may write into it.

    The first process that asks fills it, and whoever asks meanwhile waits. The places of pictures that its making
    allowed are known to that process alone, see `allow_originals`.
    """
    base = folders.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # each worker has a folder of its own in it
    folder, mark = root / f"all-{name}", root / f"all-{name}.made"
    with FileLock(root / f"all-{name}.lock"):
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed to make it
            folder.mkdir()
            make(folder)
            mark.touch()
    return folder
