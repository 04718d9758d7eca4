"""What an index holds, counted: for `status`, and for the pages that show it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from csp_index import catalog, schema
from csp_index.store import Store


def describe(store: Store) -> dict[str, Any]:
    """Return counts and runs; a run still `running` while nobody holds the index was interrupted."""
    locked = store.is_locked()
    images = catalog.image_count(store)
    runs = store.read(schema.RUNS, ["run_id", "command", "state", "started", "ended", "message"]).to_pylist()
    for run in runs:
        if run["state"] == "running" and not locked:
            run["state"] = "interrupted"
    runs.sort(key=lambda run: run["run_id"])
    finished = store.read(schema.NEURONS, ["model", "layer", "images", "max"]).to_pylist()
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
                "images": catalog.image_count(store, info.what),
                "dead": sum(row["max"] <= 0 for row in own),
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
                "vector_index": asdict(found) if (found := store.vector_index(e.table)) else None,
            }
            for e in catalog.encoders(store)
        ],
        "layers": layers,
        "labels": store.count(schema.LABELS, "rank <= 0"),
        "writing": locked,
        "runs": runs,
    }
