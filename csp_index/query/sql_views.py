"""What SQL sees of the store: views over its tables, and the statements behind exports."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from csp_index.store import catalog, schema
from csp_index.store.tables import Store

_OF_NEURONS = (
    schema.NEURONS,
    schema.LABELS,
    schema.EXAMPLES,
    schema.ANSWERS,
    schema.CANDIDATES,
    schema.EVALUATIONS,
)
_ADDRESSED = "SELECT model || '/' || layer || '/' || neuron AS address, * FROM {}"

_BINS = 40


def sql_views(store: Store) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what SQL sees, by name, and how: every fixed table, embeddings, and `texts` over all encoders.

    Rows whose shard was never marked do not exist, and neurons come with their address.
    """
    names = set(store.table_names())
    views: dict[str, Any] = {}
    definitions = dict.fromkeys((*_OF_NEURONS, "derived"), _ADDRESSED)
    for name in schema.fixed_tables():
        views[name] = store.dataset(name) if name in names else schema.table_schema(name).empty_table()
    definitions[schema.IMAGES] = _committed(store, schema.IMAGES)
    held = catalog.encoders(store)
    for info in held:
        if info.table in names:
            name = "embeddings" if len(held) == 1 else info.table
            views[name] = store.dataset(info.table)
            definitions[name] = _committed(store, info.what)
    views["derived"] = _derived(store, [info.name for info in held])
    views["texts"] = _texts(store, [info.name for info in held])
    return views, definitions


def _committed(store: Store, what: str) -> str:
    return f"SELECT * FROM {{}} WHERE shard < {len(catalog.shards(store, what))}"


def _derived(store: Store, encoders: list[str]) -> Any:
    """Return the derived images; of several encoders in one table without embeddings and pictures."""
    found = [(name, table) for name in encoders if store.has(table := schema.derived_table(name))]
    if len(encoders) == 1 and found:
        return store.dataset(found[0][1])
    columns = [name for name in schema.derived_schema(1).names if name not in (schema.EMBEDDING, "picture")]
    parts = []
    for name, table in found:
        rows = store.read(table, columns)
        parts.append(rows.append_column("encoder", pa.array([name] * rows.num_rows)))
    if parts:
        return pa.concat_tables(parts)
    return schema.derived_schema(1).empty_table().select(columns)


def _texts(store: Store, encoders: list[str]) -> pa.Table:
    parts = []
    for name in encoders:
        table = schema.texts_table(name)
        if store.has(table):
            rows = store.read(table, ["vocabulary", "template_set", "position", "text"], "text != ''")
            parts.append(rows.append_column("encoder", pa.array([name] * rows.num_rows)))
    if parts:
        return pa.concat_tables(parts)
    empty = schema.texts_schema(1).empty_table().select(["vocabulary", "template_set", "position", "text"])
    return empty.append_column("encoder", pa.array([], pa.string()))


def newest_labels(layer: str | None, method: str | None, top: int) -> str:
    """Return the statement that picks, for every neuron and method, the label of the newest run."""
    chosen = [f"model || '/' || layer = {catalog.sql_text(layer)}"] if layer else []
    chosen += [f"method = {catalog.sql_text(method)}"] if method else []
    return f"""
        WITH chosen AS (
            SELECT *, max(run_id) OVER (PARTITION BY model, layer, neuron, method) AS newest FROM labels
            WHERE {" AND ".join(chosen) or "true"}
        )
        SELECT address AS neuron, method, state, rank, text, score, score_low, score_high, confidence, uncertain, note,
            run_id
        FROM chosen
        WHERE run_id = newest AND rank < {top}
        ORDER BY chosen.model, chosen.layer, chosen.neuron, method, rank
    """
