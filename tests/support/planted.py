"""A small index for tests of the service: 40 coloured squares, a network's layer, and one whose neurons are planted."""

from __future__ import annotations

import csv
from pathlib import Path

import fakes
import numpy as np
import pytest

from csp_index import NetworkSource, open_index
from csp_index.records import NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.live.engine import Engine
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, column_tables
from csp_index.store.values.derived_images import FIRST, DerivedImage, append_derived

ENCODER = "python:fakes:encoder"
WORDS = ["striped", "red", "moon", "blue", "dotted", "Red ring"]
PLANTED, CONCEPTS = "planted/words", "net/concepts"
Served = tuple[Snapshot, Engine]
DERIVED = FIRST  # the id of its one derived image
_made: dict[str, Served] = {}  # over all test modules


def make_planted(folder: Path) -> Path:
    """Index and label; return the index.

    `planted/words`: neuron i fires on the images nearest to WORDS[i], the last never; labelled by csp and semanticlens.
    `net/concepts`: ten neurons of the fake network, 0 to 3 labelled by csp. Image 0 has metadata.
    """
    fakes.write_images(folder / "images", 40)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "colour", "count"), ("a/img00001.png", "grey", 3)])
    index = open_index(folder / "planted.db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(
        folder / "images", encoders=[ENCODER], networks=[network], metadata=folder / "metadata.csv", shard_size=25
    )
    column = index.store.read(column_tables.embeddings_table(ENCODER))["embedding"].to_pylist()
    embeddings = np.array(column, np.float32)
    directions = fakes.encoder().embed_texts(WORDS).numpy()
    activations = np.maximum((embeddings - embeddings.mean(0)) @ directions.T, 0)
    np.save(folder / "planted.npy", np.pad(activations, ((0, 0), (0, 1))).astype(np.float32))
    index.import_arrays(folder / "planted.npy", PLANTED)
    for method in ("csp", "semanticlens"):
        index.label(PLANTED, method, vocabulary=WORDS, templates="none")
    index.label([f"{CONCEPTS}/{neuron}" for neuron in range(4)], "csp", vocabulary=WORDS, templates="none")
    _add_derived(folder, embeddings[0])
    return folder / "planted.db"


def _add_derived(folder: Path, embedding: np.ndarray) -> None:
    picture = (folder / "images" / "a" / "img00001.png").read_bytes()
    recipe = {"prompt": "a red star", "model": "diffusers:/somewhere/painter", "seed": 3}
    store = open_index(folder / "planted.db").store
    with store.write_lock():
        made = DerivedImage(
            "synthetic", 0, NeuronKey("planted", "words", 0), 0, "hash", 0.25, embedding, picture, recipe
        )
        append_derived(store, catalog.encoder(store), [made])


def make_arrays(folder: Path) -> Path:
    """Return an index of arrays: `m/l`, eight neurons without labels over 60 images, no encoder and no pictures."""
    paths = fakes.write_arrays(folder)
    index = open_index(folder / "arrays.db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return folder / "arrays.db"


def opened(db: Path) -> Served:
    """Return the snapshot of an index and an engine over it."""
    snapshot = Snapshot(db)
    return snapshot, Engine(snapshot, ServiceSettings())


def serve_planted(folders: pytest.TempPathFactory) -> Served:
    """Return the planted index, opened; made once for all test modules."""
    if "planted" not in _made:
        _made["planted"] = opened(make_planted(folders.mktemp("planted")))
    return _made["planted"]


def serve_arrays(folders: pytest.TempPathFactory) -> Served:
    """Return the index of arrays, opened; made once for all test modules."""
    if "arrays" not in _made:
        _made["arrays"] = opened(make_arrays(folders.mktemp("arrays")))
    return _made["arrays"]
