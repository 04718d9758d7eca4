"""An index of arrays with neurons of one and of two meanings: images of an object in a look, texts for both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from csp_index import CandidateTexts, Index, open_index

IMAGES, WIDTH, SCALE = 480, 16, 25.0
OBJECTS = ("ant", "bee", "cat", "dog", "elk", "fox")
LOOKS = ("red", "blue", "green")
LAYER = "m/l"
TWO = ((0, 1), (2, 3), (4, 0))  # objects of the neurons that follow those of one object; a dead one is the last
NEURONS = len(OBJECTS) + len(TWO) + 1


def _directions() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(1).standard_normal((WIDTH, WIDTH)))[0][: len(OBJECTS) + len(LOOKS)]


def scenes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return embeddings [N, D], activations [N, M], and each image's object and look [N]."""
    rng = np.random.default_rng(seed)
    objects, looks = rng.integers(0, len(OBJECTS), IMAGES), rng.integers(0, len(LOOKS), IMAGES)
    rows = _directions()
    embeddings = rows[objects] + rows[len(OBJECTS) + looks] + 0.08 * rng.standard_normal((IMAGES, WIDTH))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    shown = [objects == place for place in range(len(OBJECTS))]
    shown += [(objects == one) | (objects == two) for one, two in TWO]
    activations = np.stack([mask * rng.uniform(1, 2, IMAGES) for mask in shown] + [np.zeros(IMAGES)], axis=1)
    return embeddings.astype(np.float32), activations.astype(np.float32), objects, looks


def texts() -> CandidateTexts:
    """Return the objects, the looks, and the objects in a look as candidates."""
    rows = _directions()
    pairs = [(one, two) for one in range(len(OBJECTS)) for two in range(len(LOOKS))]
    names = (*OBJECTS, *LOOKS, *(f"{LOOKS[two]} {OBJECTS[one]}" for one, two in pairs))
    vectors = np.concatenate([rows, np.stack([rows[one] + rows[len(OBJECTS) + two] for one, two in pairs]) / 2**0.5])
    return CandidateTexts(names, torch.from_numpy(vectors.astype(np.float32)), key="meant")


def make_meant(folder: Path, seed: int = 0, scale: float | None = SCALE) -> Index:
    """Import the arrays as LAYER; `scale` is the encoder's, None where it is unknown."""
    folder.mkdir(parents=True, exist_ok=True)
    embeddings, activations, _, _ = scenes(seed)
    np.save(folder / "E.npy", embeddings)
    np.save(folder / "A.npy", activations)
    (folder / "uris.txt").write_text("".join(f"/pictures/{image:05d}.png\n" for image in range(IMAGES)))
    index = open_index(folder / "db")
    index.import_arrays(
        folder / "A.npy",
        LAYER,
        embeddings=folder / "E.npy",
        uris=folder / "uris.txt",
        shard_size=170,
        logit_scale=scale,
    )
    return index
