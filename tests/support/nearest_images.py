"""An index of images in tight clusters, and the nearest silent images of it by cosines with every image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from made_once import made_once

from csp_index import Index, open_index
from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import Selection
from csp_index.records import ExampleOptions
from csp_index.store import catalog

WIDTH, NEURONS = 16, 12


def made(folder: Path, images: int, seed: int = 0) -> Index:
    """A copy of the index that `write` makes, once in a process."""
    made_once(("nearest", images, seed), lambda place: write(place, images, seed), folder)
    return open_index(folder / "db")


def write(folder: Path, images: int, seed: int = 0, shard: int = 500) -> Index:
    """An index of images in tight clusters, many of them twice, and of neurons that fire all over some clusters."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(0, 12, images)
    spread = rng.choice([0.0, 1e-4, 0.02, 0.4], images)[:, None]
    embeddings = rng.standard_normal((12, WIDTH))[cluster] + spread * rng.standard_normal((images, WIDTH))
    activations = np.maximum(rng.standard_normal((images, NEURONS)) - 0.5, 0)
    activations[:, :4] = np.where(cluster[:, None] == np.arange(4), 3 + rng.random((images, 4)), 0)  # whole clusters
    activations[cluster == 5, 4] = 0.0
    np.save(folder / "E.npy", (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32))
    np.save(folder / "A.npy", activations.astype(np.float32))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy", shard_size=shard)
    return index


def asked(index: Index, neurons: np.ndarray | None = None) -> Selection:
    (target,), source = catalog.layers(index.store), catalog.encoder(index.store)
    return Selection(source, target, np.arange(NEURONS) if neurons is None else neurons)


def expected(folder: Path, found: Examples, options: ExampleOptions) -> np.ndarray:
    """Return the contrastive ids [M, K, m] by float64 cosines with every image, the lower id first among equals."""
    embeddings = np.load(folder / "E.npy").astype(np.float64)
    activations = np.load(folder / "A.npy")
    result = np.full(found.contrastive.shape, -1)
    for k, neuron in enumerate(found.neurons.tolist()):
        a = activations[:, neuron]
        silent = np.flatnonzero(a < a.mean(dtype=np.float64))
        taken: list[int] = []
        for i, image in enumerate(found.activating[k].tolist()):
            if image < 0:
                continue
            cosines = (embeddings[silent] * embeddings[image]).sum(1)
            order = np.lexsort((silent, -cosines))
            names = silent[order[(cosines[order] <= options.near_duplicate) & (silent[order] != image)]]
            names = names if options.reuse else names[~np.isin(names, taken)]
            names = names[: options.neighbours]
            taken += names.tolist()
            result[k, i, : len(names)] = names
    return result
