"""A small index of arrays, labeled, for tests of what readers say; and one with pictures, to rate labels on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from made_once import made_once

from csp_index import CandidateTexts, Index, open_index
from csp_index.records import LayerKey, NeuronKey
from csp_index.store.runs import record_run
from csp_index.studies.auditing.stored_audits import Audit, StoredFinding, write_audit

LAYER = "net/l"
OTHER = "net/other"
TEXTS = tuple(f"concept {k}" for k in range(8))
WORDS = CandidateTexts(TEXTS, torch.eye(8), key="words")
IMAGES, NEURONS = 40, 6  # neuron 5 is dead


def make_reviewed(folder: Path, seed: int = 0, name: str = "db") -> Index:
    """Return an index of two layers whose labels are by csp; another seed is another network."""
    return open_index(made_once(("reviewed", seed), lambda place: _make(place, seed), folder / name))


def _make(place: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    activations = np.maximum(rng.standard_normal((IMAGES, NEURONS)), 0).astype(np.float32)
    activations[:, 5] = 0
    with tempfile.TemporaryDirectory() as files:
        arrays = [Path(files) / f"{name}.npy" for name in ("A", "B", "E")]
        np.save(arrays[0], activations)
        np.save(arrays[1], activations[:, ::-1].copy())
        np.save(arrays[2], np.random.default_rng(7).standard_normal((IMAGES, 8)).astype(np.float32))
        index = open_index(place)
        index.import_arrays(arrays[0], LAYER, embeddings=arrays[2])
        index.import_arrays(arrays[1], OTHER)
    index.label(LAYER, "csp", vocabulary=WORDS, bootstrap=0)


def add_finding(index: Index, name: str) -> None:
    """Write an audit of the layer with one finding of this id."""
    counter = {"class_without_firing": [], "firing_without_class": []}
    evidence = {"pairs": [], "effects": [], "counter_examples": counter, "cells": [], "further_classes": {}}
    said = {"kind": "artefact", "class_name": "a class", "subject": "column: value", "column_name": "column"}
    numbers = {"score": 0.25, "effect": 0.5, "doubt": 0.5, "push": 1.0, "push_share": 0.5}
    texts = {"value": "value", "label": None, "plain_label": None, "statement": "so", "refutation": "or not"}
    about = {"neuron": NeuronKey.parse(f"{LAYER}/1"), "rank": 0, "above": True, "evidence": evidence}
    found = StoredFinding(**{"finding": name} | said | numbers | texts | about)
    with index.store.write_lock(), record_run(index.store, "audit", {}, {}) as run:
        lists = dict.fromkeys(("expected", "unknown", "columns", "notes"), ())
        head = {"method": "csp", "encoder": "arrays", "threshold": 0.1, "neurons": NEURONS, "classes": 2}
        of = {"layer": LayerKey.parse(LAYER), "by": "kind", "images": IMAGES, "findings": (found,)}
        write_audit(index.store, Audit(**head | lists | of, run_id=run.run_id, settings_hash=run.settings_hash))
