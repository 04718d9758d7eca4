"""An index written for another tool: the table of tools, and the one function that writes for any of them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np

from csp_index.errors import QueryError, SettingError
from csp_index.query.exports.rows import Exported, Subject
from csp_index.query.results import SqlResult
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

Target = Literal["fiftyone", "datasets", "embedding-atlas", "neuronpedia"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)


def subject_of(
    store: Store, ask: Callable[[str], SqlResult], vectors: Callable[[LayerInfo], np.ndarray], layer: str | None = None
) -> Subject:
    """Return what is written of an index: one layer, or all that are finished. NotFoundError for one not there."""
    layers = catalog.layers(store) if layer is None else [catalog.layer(store, LayerKey.parse(layer))]
    return Subject(store, tuple(info for info in layers if catalog.is_finished(store, info)), ask, vectors)


def export_index(subject: Subject, target: Target, folder: str | Path) -> Exported:
    """Write what an index holds into a new folder, whole or not at all, as `target` reads it.

    Errors: SettingError for another tool, QueryError for a folder that exists or cannot be written.
    """
    if target not in TARGETS:
        raise SettingError(f"there is no export to {target!r}: expected {', '.join(TARGETS)}")
    place = Path(folder)
    if place.exists():
        raise QueryError(f"{place} exists: name a new folder")
    name = target.replace("-", "_")
    write = getattr(import_module(f"csp_index.query.exports.for_{name}"), f"write_{name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    except OSError as exc:
        raise QueryError(f"{place} cannot be written: {exc.strerror or exc}; name another folder") from exc
    try:
        written: Exported = write(subject, draft, str(place))
        draft.chmod(0o777 & ~_umask())
        os.replace(draft, place)
    except OSError as exc:  # a full disk, or a name that is too long
        shutil.rmtree(draft, ignore_errors=True)
        raise QueryError(f"{place} cannot be written: {exc.strerror or exc}; nothing is there now") from exc
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return written


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
