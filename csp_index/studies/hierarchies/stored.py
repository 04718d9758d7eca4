"""Labels in a hierarchy as they are stored and read again; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from csp_index.errors import NotFoundError
from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.catalog import of_layer, sql_text
from csp_index.store.study_tables import HIERARCHIES, HIERARCHY_LEVELS, HIERARCHY_WORDS
from csp_index.store.tables import Store
from csp_index.studies.hierarchies.records import LayerHierarchy, StoredWord

_TABLES = (HIERARCHIES, HIERARCHY_WORDS, HIERARCHY_LEVELS)


def layers_with_hierarchies(store: Store) -> list[LayerKey]:
    """Return the layers whose labels were put into a hierarchy."""
    rows = store.read(HIERARCHIES, ["model", "layer"]).to_pylist()
    return list(dict.fromkeys(LayerKey(row["model"], row["layer"]) for row in rows))


def read_hierarchy(store: Store, layer: LayerKey, settings_hash: str | None = None) -> LayerHierarchy:
    """Return the labels of a layer in their hierarchy; NotFoundError if there is none, or none of these settings."""
    head = _head(store, layer, settings_hash)
    if head is None:
        known = ", ".join(map(str, layers_with_hierarchies(store))) or "none"
        raise NotFoundError(
            f"the labels of {layer} are in no hierarchy (has: {known}): run `csp-index hierarchy DB --layer {layer} "
            "--hierarchy FILE`"
        )
    return _hierarchy_of(store, head)


def stored_hierarchy(store: Store, layer: LayerKey, settings_hash: str) -> LayerHierarchy | None:
    """Return what is stored under a settings hash, or None."""
    head = _head(store, layer, settings_hash)
    return None if head is None else _hierarchy_of(store, head)


def _head(store: Store, layer: LayerKey, settings_hash: str | None) -> Mapping[str, Any] | None:
    where = of_layer(layer)
    where += "" if settings_hash is None else f" AND settings_hash = {sql_text(settings_hash)}"
    rows = store.read(HIERARCHIES, where=where).to_pylist()
    return max(rows, key=lambda row: str(row["run_id"])) if rows else None


def _hierarchy_of(store: Store, head: Mapping[str, Any]) -> LayerHierarchy:
    same = f"run_id = {sql_text(head['run_id'])}"
    levels = store.read(HIERARCHY_LEVELS, where=same).sort_by("neuron").combine_chunks()
    words = store.read(HIERARCHY_WORDS, where=same).sort_by("word").to_pylist()
    return LayerHierarchy(
        LayerKey(head["model"], head["layer"]),
        head["source"],
        head["encoder"],
        head["vocabulary"],
        int(head["judging"]),
        int(head["choosing"]),
        float(head["keep"]),
        tuple(head["notes"] or ()),
        tuple(
            StoredWord(row["word"], row["title"], tuple(row["parents"] or ()), row["texts"], row["embedded"])
            for row in words
        ),
        levels,
        head["run_id"],
        head["settings_hash"],
    )


def write_hierarchy(store: Store, found: LayerHierarchy) -> None:
    """Store what was found in place of the layer's earlier one; under the write lock, in a run. Its head comes last."""
    key = found.layer
    for table in _TABLES:
        store.delete(table, of_layer(key))
    head = {"run_id": found.run_id, "settings_hash": found.settings_hash, "model": key.model, "layer": key.layer}
    if found.words:
        words = [
            head
            | {name: getattr(word, name) for name in ("word", "title", "texts", "embedded")}
            | {"parents": list(word.parents)}
            for word in found.words
        ]
        store.append(HIERARCHY_WORDS, pa.Table.from_pylist(words, schema=schema.table_schema(HIERARCHY_WORDS)))
    store.append(HIERARCHY_LEVELS, found.levels)
    names = ("source", "encoder", "vocabulary", "choosing", "judging", "keep")
    own = head | {name: getattr(found, name) for name in names}
    own |= {"neurons": len(found), "words": len(found.words), "notes": list(found.notes)}
    store.append(HIERARCHIES, pa.Table.from_pylist([own], schema=schema.table_schema(HIERARCHIES)))
