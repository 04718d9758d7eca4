"""A small index of arrays with planted neurons: one fires for a whole family of species, one for a single species."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from csp_index import Index, open_index
from csp_index.labelling.texts.candidate_names import TextArrays

LAYER = "net/pooled"
IMAGES = 600
FAMILIES = {"dog": ("poodle", "beagle", "husky"), "cat": ("siamese", "persian", "manx")}
SPECIES = tuple(one for family in FAMILIES.values() for one in family)
LABELS = {0: "poodle", 1: "beagle", 2: "poodle", 3: "siamese", 4: "tractor"}
"""Labels: 0 fires for all dogs, 1 for beagles, 2 at random, 3 for every animal, 4 for what no hierarchy names."""


def write_table(path: Path, rows: list[tuple[str, str]] | None = None) -> Path:
    """Write a hierarchy: species below families below animals."""
    known = [(one, family) for family, own in FAMILIES.items() for one in own] + [(name, "animal") for name in FAMILIES]
    lines = [f"{child},{parent}" for child, parent in (known if rows is None else rows)]
    path.write_text("\n".join(["child,parent", *lines]) + "\n", encoding="utf-8")
    return path


def embeddings(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return what each image shows [N] (a species, or -1) and its unit embedding [N, 8]."""
    rng = np.random.default_rng(seed)
    shown = rng.integers(-6, len(SPECIES), IMAGES).clip(-1)
    vectors = np.eye(8)[np.where(shown < 0, 7, shown)] + 0.25 * rng.standard_normal((IMAGES, 8))
    return shown, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def words(*further: str) -> TextArrays:
    """Return embeddings of the species, and of further words: of a family, the mean of its species."""
    rows = {name: np.eye(8)[place] for place, name in enumerate(SPECIES)}
    for word in further:
        own = FAMILIES.get(word, SPECIES if word == "animal" else ())
        rows[word] = np.sum([rows[one] for one in own], axis=0) if own else np.eye(8)[6]
    vectors = np.stack([row / np.linalg.norm(row) for row in rows.values()]).astype(np.float32)
    return TextArrays(tuple(rows), vectors, f"arrays@{'-'.join(rows)}")


def make_families(folder: Path) -> Index:
    """Import the neurons with labels made elsewhere."""
    folder.mkdir(parents=True, exist_ok=True)
    shown, vectors = embeddings()
    rng = np.random.default_rng(1)
    dogs = np.isin(shown, [0, 1, 2])
    fires = np.stack([dogs, shown == 1, rng.random(IMAGES) < 0.2, shown >= 0, shown == -1], axis=1)
    activations = fires * rng.uniform(0.6, 1, fires.shape) + 0.05 * rng.random(fires.shape)
    np.save(folder / "A.npy", activations.astype(np.float32))
    np.save(folder / "E.npy", vectors)
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", LAYER, embeddings=folder / "E.npy", shard_size=250)
    (folder / "labels.json").write_text(json.dumps({str(neuron): text for neuron, text in LABELS.items()}))
    index.import_labels(LAYER, folder / "labels.json", "mine")
    return index
