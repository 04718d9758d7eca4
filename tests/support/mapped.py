"""A small index of arrays whose neurons form groups: each fires for its own kind of images; one neuron is dead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from csp_index import Index, open_index
from csp_index.studies.layer_maps import placing

LAYER = "net/grouped"
KINDS = ("dog", "cat", "car")
SIZE = 9  # neurons of a group
DEAD = len(KINDS) * SIZE
NEURONS = DEAD + 1
IMAGES = 240


class OnThePlane:
    """Stands for UMAP: leaves vectors where they begin, and remembers what it was given."""

    given: ClassVar[dict[str, Any]] = {}

    def __init__(self, **options: Any) -> None:
        OnThePlane.given = options

    def fit_transform(self, vectors: np.ndarray) -> np.ndarray:
        print("3/5 done", file=self.given["tqdm_kwds"]["file"])
        print("4 5", file=self.given["tqdm_kwds"]["file"])
        places: np.ndarray = self.given["init"] * 10
        return places


def without_umap(patch: pytest.MonkeyPatch) -> None:
    """Let maps be made in an instant."""
    patch.setattr(placing, "_umap_class", lambda: OnThePlane)


def make_mapped(folder: Path, neurons: int = NEURONS) -> Index:
    """Import the first `neurons` of the neurons, with labels made elsewhere: of one kind, but for the first of each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    shown = rng.integers(len(KINDS), size=IMAGES)
    vectors = np.eye(8)[shown] + 0.3 * rng.standard_normal((IMAGES, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fires = shown[:, None] == np.repeat(np.arange(len(KINDS)), SIZE)[None]
    activations = np.pad(fires * rng.uniform(0.1, 1, fires.shape), ((0, 0), (0, 1)))
    np.save(folder / "A.npy", activations[:, :neurons].astype(np.float32))
    np.save(folder / "E.npy", vectors.astype(np.float32))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", LAYER, embeddings=folder / "E.npy", shard_size=100)
    labels = {str(one): KINDS[one // SIZE] if one % SIZE else "animal" for one in range(min(neurons, DEAD))}
    (folder / "labels.json").write_text(json.dumps(labels))
    index.import_labels(LAYER, folder / "labels.json", "mine")
    return index
