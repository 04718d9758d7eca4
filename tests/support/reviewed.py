"""A small index of arrays, labeled, for tests of what readers say; and one with pictures, to rate labels on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from csp_index import CandidateTexts, Index, open_index

LAYER = "net/l"
OTHER = "net/other"
TEXTS = tuple(f"concept {k}" for k in range(8))
WORDS = CandidateTexts(TEXTS, torch.eye(8), key="words")
IMAGES, NEURONS = 40, 6  # neuron 5 is dead


def make_reviewed(folder: Path, seed: int = 0, name: str = "db") -> Index:
    """Return an index of two layers whose labels are by csp; another seed is another network."""
    rng = np.random.default_rng(seed)
    activations = np.maximum(rng.standard_normal((IMAGES, NEURONS)), 0).astype(np.float32)
    activations[:, 5] = 0
    np.save(folder / f"{name}-A.npy", activations)
    np.save(folder / f"{name}-B.npy", activations[:, ::-1].copy())
    np.save(folder / f"{name}-E.npy", np.random.default_rng(7).standard_normal((IMAGES, 8)).astype(np.float32))
    index = open_index(folder / name)
    index.import_arrays(folder / f"{name}-A.npy", LAYER, embeddings=folder / f"{name}-E.npy")
    index.import_arrays(folder / f"{name}-B.npy", OTHER)
    index.label(LAYER, "csp", vocabulary=WORDS, bootstrap=0)
    return index
