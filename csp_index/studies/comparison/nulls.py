"""What matches score where there is nothing to match: two nulls, pure numerics.

*Other images*: the second layer's values are moved to other images. What matches then is chance, and the freedom to
choose the best partner. *Mixed neurons*: each neuron of the second layer is replaced by a sum or difference of four of
them, read through a threshold so that it fires as often. It sees what the layer sees, and is no neuron. Two networks
that have learned nothing match near the level of this null: they share what pictures have in common (light, color), but
no neuron.
"""

from __future__ import annotations

import numpy as np

_MIXED = 4  # neurons in a mix: with as many, networks that have learned nothing match least above their null
_BLOCK = 512  # mixes at once
LEVEL = 95  # the percentile of a null's match scores above which a match counts


def moved(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return activations [M, n] with their n images in a random order."""
    return values[:, rng.permutation(values.shape[1])]


def mixed_neurons(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return mixes of a layer's neurons in their place, from activations [M, n] to [M, n] float32.

    Mix j is the sum or difference of four standardized neurons that vary, turned so that it correlates with neuron j
    above 0, and cut from below so that it fires on as many images as neuron j, or on fewer where values are equal. In
    place of a neuron that fires on every image it is not cut.
    """
    deviation = values.std(1, dtype=np.float64)
    standard = (values - values.mean(1, keepdims=True)) / np.where(deviation > 0, deviation, 1)[:, None]
    standard = standard.astype(np.float32)
    mixes = _mixed(standard, np.asarray(deviation > 0), rng)
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        mixes[block] = _cut(mixes[block], (values[block] > 0).sum(1))
    return mixes


def mixed_vectors(vectors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the same mixes of concept vectors [M, D], at unit length; vectors of length 0 take no part."""
    mixes = _mixed(vectors, np.asarray(vectors.any(1)), rng)
    result: np.ndarray = mixes / np.maximum(np.linalg.norm(mixes, axis=1, keepdims=True), 1e-12)
    return result


def _mixed(rows: np.ndarray, live: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return for each row [M, n] a sum or difference of four rows that are live, turned to the side of the row."""
    known = np.flatnonzero(live)
    mixes = np.zeros_like(rows)
    if len(known):
        for _ in range(_MIXED):
            chosen, signs = rng.choice(known, len(rows)), rng.choice(np.array([-1, 1], rows.dtype), len(rows))
            mixes += signs[:, None] * rows[chosen]
        mixes *= np.where(np.einsum("mn,mn->m", mixes, rows) < 0, -1, 1)[:, None]
    return mixes


def _cut(values: np.ndarray, firing: np.ndarray) -> np.ndarray:
    """Return values [m, n] above a threshold that `firing` [m] of each row exceed, and 0 elsewhere."""
    images = values.shape[1]
    silent = images - firing
    ordered = np.sort(values, axis=1)
    threshold = ordered[np.arange(len(values)), np.clip(silent - 1, 0, images - 1)]
    cut = np.maximum(values - threshold[:, None], 0)
    return np.where((silent > 0)[:, None], cut, values)


def level_of(scores: np.ndarray) -> float:
    """Return the 95th percentile of a null's match scores [M], NaN where nothing was matched."""
    known = scores[np.isfinite(scores)]
    return float(np.percentile(known, LEVEL)) if len(known) else float("nan")
