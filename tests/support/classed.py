"""A small index of arrays whose images have metadata, and the outputs of a classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from made_once import made_once

from csp_index import Index, open_index
from csp_index.records import LayerKey
from csp_index.store.values.class_names import store_class_names

NEURONS, WIDTH = 70, 8  # more neurons than are read together


def make_classed(folder: Path, images: int, rows: Sequence[Mapping[str, object]]) -> tuple[Index, np.ndarray]:
    """Import rectified activations [N, 70] as `net/layer`, of which neuron 3 is dead, with a row of metadata each."""
    rng = np.random.default_rng(5)
    activations = np.maximum(rng.standard_normal((images, NEURONS)), 0).astype(np.float32)
    activations[:, 3] = 0
    key = "classed", images, json.dumps(rows)
    made_once(key, lambda place: _make(place, activations, rng, rows), folder)
    return open_index(folder / "db"), activations


def _make(
    folder: Path, activations: np.ndarray, rng: np.random.Generator, rows: Sequence[Mapping[str, object]]
) -> None:
    images = len(activations)
    np.save(folder / "A.npy", activations)
    np.save(folder / "E.npy", rng.standard_normal((images, WIDTH)).astype(np.float32))
    names = [f"{image:05d}.png" for image in range(images)]
    (folder / "uris.txt").write_text("".join(f"/pictures/{name}\n" for name in names))
    records = [{"path": name, **row} for name, row in zip(names, rows, strict=True)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    index = open_index(folder / "db")
    index.import_arrays(
        folder / "A.npy", "net/layer", embeddings=folder / "E.npy", uris=folder / "uris.txt", shard_size=17
    )
    index.add_metadata(folder / "metadata.jsonl")


def add_outputs(index: Index, outputs: np.ndarray, names: Sequence[str]) -> None:
    """Import the outputs [N, C] of a classifier as `net/logits`, with the names of its classes."""
    file = Path(index.uri).parent / "outputs.npy"
    np.save(file, outputs.astype(np.float32))
    index.import_arrays(file, "net/logits", shard_size=17)
    with index.store.write_lock():
        run = index.store.read("runs")["run_id"][-1].as_py()
        store_class_names(index.store, LayerKey("net", "logits"), names, run)
