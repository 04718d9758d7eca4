"""What an indexing pass is tested with, and everything it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fakes

from csp_index import NetworkSource, open_index
from csp_index.indexing.commit import IndexSummary
from csp_index.store import schema

ENCODER = "python:fakes:encoder"
WORDS = ["striped", "red", "moon", "blue", "dotted", "ring"]


NETWORK = NetworkSource("python:fakes:network", ("conv", "concepts"), name="net")


def add(db: Path, source: Path | None, **options: Any) -> IndexSummary:
    """Index `source` by the fakes, in shards of 10."""
    options = {"encoders": [ENCODER], "networks": [NETWORK], "shard_size": 10} | options
    return open_index(db).add_images(source, **options)


def contents(db: Path) -> dict[str, list[dict[str, object]]]:
    """Every table's rows in a fixed order, without what tells one run from another."""
    store = open_index(db).store
    found = {}
    for name in store.table_names():
        if name in (schema.RUNS,):
            continue
        rows = store.read(name).to_pylist()
        for row in rows:
            row.pop("run_id", None), row.pop("when", None)
        found[name] = rows if name.startswith(("embeddings", "activations", "images")) else sorted(rows, key=str)
    return found


def label_squares(folder: Path) -> None:
    """Index 41 squares in `folder`/db; the layer `concepts` is labelled by two methods, `conv` is not."""
    index = open_index(folder / "db")
    network = NetworkSource("python:fakes:network", ("concepts", "conv"), name="net")
    source = fakes.write_images(folder / "images", 41)
    index.add_images(source, encoders=[ENCODER], networks=[network], shard_size=20)
    index.label("net/concepts", vocabulary=WORDS, method="mean-centred")
    index.label("net/concepts", "csp", vocabulary=WORDS, examples=8)
