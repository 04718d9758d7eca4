"""An index of arrays whose layers are each other's copies: permuted, cut short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from csp_index import CandidateTexts, Index, open_index

IMAGES, NEURONS, WIDTH = 400, 12, 8


def scenes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings [N, D] and activations [N, M] of neurons that each follow one direction."""
    rng = np.random.default_rng(seed)
    embeddings = rng.standard_normal((IMAGES, WIDTH))
    activations = np.maximum(embeddings @ rng.standard_normal((WIDTH, NEURONS)) - 1, 0)
    activations[:, 5] = 0  # dead
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), activations


def with_layers(folder: Path, **layers: np.ndarray) -> Index:
    index = open_index(folder / "db")
    np.save(folder / "E.npy", scenes()[0].astype(np.float32))
    for name, values in layers.items():
        np.save(folder / f"{name}.npy", values.astype(np.float32))
        first = {} if (folder / "db").exists() else {"embeddings": folder / "E.npy"}
        index.import_arrays(folder / f"{name}.npy", f"{name}/l", shard_size=150, **first)
    return index


def texts() -> CandidateTexts:
    generator = torch.Generator().manual_seed(0)
    return CandidateTexts(tuple(f"text {i}" for i in range(30)), torch.randn(30, WIDTH, generator=generator), key="t")


def order() -> np.ndarray:
    """Return which neuron of the layer `a/l` each one of `permuted/l` is."""
    return np.random.default_rng(3).permutation(NEURONS)


def make_compared(folder: Path) -> Index:
    """Make an index of the layers a/l, its permuted copy, and its first four neurons alone, all labeled."""
    folder.mkdir(parents=True, exist_ok=True)
    _, own = scenes()
    index = with_layers(folder, a=own, permuted=2 * own[:, order()], alone=own[:, :4])
    for layer in ("a", "permuted", "alone"):
        index.label(f"{layer}/l", "mean-centred", vocabulary=texts(), bootstrap=0)
    return index
