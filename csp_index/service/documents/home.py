"""The home page: what the index holds, as a document that JSON can hold. Does not load torch."""

from __future__ import annotations

import random
from typing import Any, Final, cast

import numpy as np

import csp_index
from csp_index.errors import NotFoundError
from csp_index.printable import without_folders
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.shapes import HomeDocument, RunRow
from csp_index.service.documents.studies.audit import audit_rows
from csp_index.service.snapshot import Snapshot
from csp_index.store import schema

_RUNS: Final = 10
_RUN: Final = tuple(RunRow.__annotations__)


def home_document(snapshot: Snapshot) -> HomeDocument:
    """Return what the index holds: images, encoders, networks, layers, labels, and the last runs, newest first."""
    layers = snapshot.layer_rows()
    runs = sorted(snapshot.runs.values(), key=lambda run: str(run["run_id"]), reverse=True)
    return {
        "name": snapshot.name,
        "version": csp_index.__version__,
        "snapshot": snapshot.version,
        "images": snapshot.images,
        "failures": snapshot.store.count(schema.FAILURES),
        "labels": snapshot.store.count(schema.LABELS, "rank <= 0"),
        "encoders": [
            {"encoder": without_folders(info.name), "width": info.width, "images": snapshot.image_count(info.what)}
            for info in snapshot.encoders
        ],
        "networks": list(dict.fromkeys(row["model"] for row in layers)),
        "layers": layers,
        "audits": audit_rows(snapshot),
        "runs": [without_folders(run_row(run)) for run in runs[:_RUNS]],
    }


def random_neuron(snapshot: Snapshot, rng: random.Random) -> NeuronKey:
    """Return the address of a random neuron that fires; each neuron of the index is equally likely."""
    firing = [(row, row["neurons"] - row["dead"]) for row in snapshot.layer_rows()]
    firing = [(row, count) for row, count in firing if count > 0]
    if not firing:
        raise NotFoundError("the index has no neuron that fires: index a network with `csp-index index --network`")
    row = rng.choices([row for row, _ in firing], [count for _, count in firing])[0]
    key = LayerKey(row["model"], row["name"])
    alive = np.flatnonzero(~snapshot.layer(key).dead)
    return NeuronKey(key.model, key.layer, int(alive[rng.randrange(len(alive))]))


def run_row(run: dict[str, Any]) -> RunRow:
    """Return the columns of a run that pages show, times as text."""
    row = {name: run[name].isoformat() if hasattr(run[name], "isoformat") else run[name] for name in _RUN}
    return cast(RunRow, row)
