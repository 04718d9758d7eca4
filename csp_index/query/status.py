"""What an index holds, counted: for `status`, and for the pages that show it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from csp_index.labelling.label_rule import read_rule
from csp_index.store import catalog, column_tables, schema
from csp_index.store.runs import read_runs
from csp_index.store.study_tables import LAYER_MAPS, NOTES, RATINGS
from csp_index.store.tables import Store


def describe(store: Store) -> dict[str, Any]:
    """Return counts and runs."""
    images = catalog.image_count(store)
    finished = store.read(schema.NEURONS, ["model", "layer", "images", "max"]).to_pylist()
    maps = {(row["model"], row["layer"]): row for row in store.read(LAYER_MAPS).to_pylist()}
    layers = []
    for info in catalog.layers(store):
        own = [row for row in finished if (row["model"], row["layer"]) == (info.key.model, info.key.layer)]
        layers.append(
            {
                "layer": str(info.key),
                "neurons": info.neurons,
                "pool": info.pool,
                "network": info.network,
                "dtype": info.dtype,
                "storage": "sparse" if info.is_sparse else "dense",
                "images": catalog.image_count(store, info.what),
                "dead": sum(row["max"] <= 0 for row in own),
                "map": _map(maps.get((info.key.model, info.key.layer))),
                "ready": len(own) == info.neurons and all(row["images"] == images for row in own),
            }
        )
    return {
        "index": store.uri,
        "images": images,
        "failures": store.count(schema.FAILURES),
        "encoders": [
            {
                "encoder": e.name,
                "width": e.width,
                "images": catalog.image_count(store, e.what),
                "vector_index": asdict(index) if (index := store.vector_index(e.table)) else None,
                "derived": store.count(column_tables.derived_table(e.name)),
            }
            for e in catalog.encoders(store)
        ],
        "layers": layers,
        "labels": store.count(schema.LABELS, "rank <= 0"),
        "methods": sorted(set(store.read(schema.LABELS, ["method"], "rank <= 0")["method"].to_pylist())),
        "preferred": read_rule(store).preferred,
        "notes": store.count(NOTES),
        "ratings": store.count(RATINGS),
        "answers": answer_counts(store),
        "writing": store.is_locked(),
        "runs": read_runs(store, ["run_id", "command", "state", "started", "ended", "message"]),
    }


def _map(row: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return how a layer's map was made, how many neurons it has, and how many clusters; None without one."""
    return None if row is None else {name: row[name] for name in ("by", "placed", "clusters")}


def answer_counts(store: Store) -> list[dict[str, Any]]:
    """Return, for each kind and proposer, its answers by state, its candidates, and what all that has cost.

    The counters are of all requests ever made for the answers that stand there, those that failed before included.
    """
    counts: dict[tuple[str, str], dict[str, Any]] = {}
    columns = ["kind", "proposer", "state", "requests", "prompt_tokens", "completion_tokens", "seconds"]
    empty = dict.fromkeys(("answered", "unparsed", "failed", "candidates", *columns[3:]), 0)
    for row in store.read(schema.ANSWERS, columns).to_pylist():
        names = {"kind": row["kind"], "proposer": row["proposer"]}
        counted = counts.setdefault((row["kind"], row["proposer"]), names | empty)
        counted[row["state"]] += 1
        for name in columns[3:]:
            counted[name] += row[name]
    for row in store.read(schema.CANDIDATES, columns[:2]).to_pylist():
        if (key := (row["kind"], row["proposer"])) in counts:
            counts[key]["candidates"] += 1
    return [counts[key] for key in sorted(counts)]
