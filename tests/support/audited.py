"""A small index of arrays with a planted artefact, and its audit: made without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from csp_index import Index, open_index
from csp_index.records import ExamplePair, Label, LabelScore, LayerKey, NeuronKey
from csp_index.store import catalog
from csp_index.studies.auditing.audit import AuditMaterial, AuditOptions, audit_layer
from csp_index.studies.auditing.expected import ExpectedConcepts
from csp_index.studies.auditing.stored_audits import Audit

IMAGES, LAYER = 400, LayerKey("net", "pooled")
CLASSES = ("star", "ring")
TEXTS = ("star", "ring", "pink")
UNCLASSED = 10  # the last images


def make_audited(folder: Path, column: str = "class", value: str = "pink") -> Index:
    """Import three neurons: the first follows the frame, pink on .9 of the stars, the second rings, the third noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    star = np.arange(IMAGES) % 2 == 0
    pink = rng.random(IMAGES) < np.where(star, 0.9, 0.05)
    shows = np.stack([star, ~star, pink], axis=1).astype(np.float32)
    noise = 0.1 * rng.random((IMAGES, 3))
    activations = np.stack([pink, ~star, rng.random(IMAGES)], axis=1) + noise
    np.save(folder / "A.npy", activations.astype(np.float32))
    vectors = shows + 0.1 * rng.standard_normal((IMAGES, 3))
    np.save(folder / "E.npy", (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    names = [f"{image:05d}.png" for image in range(IMAGES)]
    (folder / "uris.txt").write_text("".join(f"/pictures/{name}\n" for name in names))
    records = [
        {"path": name, "frame": value if pink[i] else "white", "id": i, "size": i % 3}
        | ({} if i >= IMAGES - UNCLASSED else {column: CLASSES[int(not star[i])]})
        for i, name in enumerate(names)
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    index = open_index(folder / "db")
    index.import_arrays(
        folder / "A.npy", str(LAYER), embeddings=folder / "E.npy", uris=folder / "uris.txt", shard_size=150
    )
    index.add_metadata(folder / "metadata.jsonl")
    return index


def labels(texts: Sequence[str]) -> list[Label]:
    """Return labels with three pairs each."""
    pairs = tuple(ExamplePair(rank, 2 * rank, 1.0, 2 * rank + 1, 0.0, 0.5) for rank in range(3))
    return [
        Label(NeuronKey("net", "pooled", neuron), "csp", "labelled", (LabelScore(text, 1.0),), pairs)
        for neuron, text in enumerate(texts)
    ]


@dataclass(frozen=True)
class Logit:
    """A class among logits."""

    index: int
    name: str | None


@dataclass(frozen=True)
class Effects:
    """Effects of neurons on logits, as an audit takes them."""

    classes: tuple[Logit, ...]
    neurons: np.ndarray
    effects: np.ndarray
    settings_hash: str = "0123456789abcdef"


def effects(names: Sequence[str | None] = CLASSES) -> Effects:
    """Return effects as a linear head would have: the first neuron pushes for stars, the second for rings."""
    values = np.array([[2.0, -1.5], [-1.0, 1.5], [0.01, 0.0]], np.float32)
    return Effects(tuple(Logit(place, name) for place, name in enumerate(names)), np.arange(3), values)


def embed(texts: Sequence[str]) -> np.ndarray:
    """Return the axis of each text."""
    return np.stack([np.eye(3, dtype=np.float32)[TEXTS.index(text)] for text in texts])


def audit(
    index: Index,
    named: Sequence[str] = ("star", "ring", "ring"),
    *,
    by: str = "class",
    expected: Sequence[str] = CLASSES,
    artefacts: Sequence[str] = (),
    threshold: float = 0.25,
    of: Effects | None = None,
    recompute: bool = False,
) -> Audit:
    """Audit the layer with these labels, the same with and without contrast."""
    options = AuditOptions(by, ExpectedConcepts(tuple(expected)), tuple(artefacts), threshold)
    material = AuditMaterial(labels(named), labels(named), of or effects(), embed)
    target, source = catalog.layer(index.store, LAYER), catalog.encoder(index.store)
    return audit_layer(index.store, target, source, options, material, recompute=recompute)
