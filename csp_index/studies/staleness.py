"""What a reader should know of a stored result that the index has outgrown: of fewer images, of other values.

Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from csp_index.errors import CspIndexError
from csp_index.records import LayerKey
from csp_index.store import catalog, schema
from csp_index.store.catalog import Column
from csp_index.store.runs import settings_hash
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store
from csp_index.studies.classes.image_classes import classes_described
from csp_index.studies.column_digests import column_digest

COLUMNS: Final = "columns"
"""The setting of a run that lists what its columns of metadata were, each as `classes_described` returns it."""
DIGESTS: Final = "digests"
"""The setting of a run that has the digest of each encoder and layer that it read, by its name in the shard marks."""


def digests(store: Store, *columns: Column) -> dict[str, str]:
    """Return the setting DIGESTS for encoders and layers."""
    return {info.what: column_digest(store, info) for info in columns}


def outgrown(store: Store, layer: LayerKey, made_on: int, run_id: str, command: str) -> str:
    """Return in which way the index differs from what a run of `command` saw of a layer, "" if in none.

    The run saw `made_on` images; which values, its settings say: COLUMNS (or those of one column), and DIGESTS.
    """
    images = catalog.image_count(store, catalog.layer(store, layer).what)
    said = [] if made_on == images else [f"made on {made_on:,} of {images:,} images"]
    settings = _settings(store, run_id)
    by = [_name(one) for one in _columns(settings) if _changed(store, one)]
    if by:
        said.append(f"made when the values of {', '.join(by)} may have been others")
    if made_on == images and _read_others(store, settings):
        said.append("made of other activations or embeddings than the index has now")
    return f"{' and '.join(said)}: run `csp-index {command}` again" if said else ""


def _settings(store: Store, run_id: str) -> dict[str, Any]:
    rows = store.read(schema.RUNS, ["settings"], f"run_id = {catalog.sql_text(run_id)}")
    return read_object(rows["settings"][0].as_py(), schema.RUNS, "settings") if rows.num_rows else {}


def _columns(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a run's columns were; an index of a stranger may have anything there."""
    listed = settings.get(COLUMNS, [settings])
    return [one for one in listed if isinstance(one, dict) and "by" in one] if isinstance(listed, list) else []


def _name(said: Mapping[str, Any]) -> str:
    return repr(str(said["by"]))


def _changed(store: Store, said: Mapping[str, Any]) -> bool:
    """Return whether the classes of images by a column may be others than a run described."""
    try:
        now = classes_described(store, str(said["by"]))
    except CspIndexError:
        return True  # the layer whose outputs they were is gone
    return settings_hash(now) != settings_hash({name: said[name] for name in now if name in said})


def _read_others(store: Store, settings: Mapping[str, Any]) -> bool:
    """Return whether an encoder or a layer has other values than a run read."""
    said = settings.get(DIGESTS)
    if not isinstance(said, dict):
        return False
    columns: list[Column] = [*catalog.layers(store), *catalog.encoders(store)]
    known = {info.what: info for info in columns}
    return any(what not in known or column_digest(store, known[what]) != digest for what, digest in said.items())
