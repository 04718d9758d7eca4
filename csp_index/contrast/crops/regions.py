"""Which part of a picture stands for it: the region that drives a neuron, from its stored maps. Loads no torch."""

from __future__ import annotations

from typing import Final

import numpy as np

SHARE: Final = 0.2  # of a map's peak: what is less is not in the region
LEAST: Final = 0.25  # of the picture's short side: the least side of a region
MARGIN: Final = 0.1  # of the region's longer side, added on each side
_VERSION: Final = 2  # of the formula, of partners, too: another one gives other labels from crops

REGION_SETTINGS: Final = {"version": _VERSION, "share": SHARE, "least": LEAST, "margin": MARGIN}
"""All that regions depend on beside pictures and maps; labels from crops are stored under it."""


def region_boxes(maps: np.ndarray, parts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the box [P, 4] of each map's region in pixels of its picture, int32: left, top, right, bottom.

    `maps` [P, h, w] uint8 cover the `parts` [P, 4] (as shares) of pictures of `sizes` [P, 2] (width, height). Of the
    excess over a map's median, the places with at least a fifth of the peak's that hang together with it are the
    region (Zhou et al., 2016, arXiv 1512.04150, section 3.2, take the largest connected part of the map itself). Its
    bounding box gets a margin of a tenth, is made square, with at least a quarter of the picture's short side, and is
    moved into the picture; what is longer than a side of the picture ends there. A map without a peak gives the whole
    picture.
    """
    if not len(maps):  # as of neurons that fire on no image
        return np.zeros((0, 4), np.int32)
    heat = np.clip(maps - np.median(maps, (1, 2), keepdims=True), 0, None)
    peaks = heat.max((1, 2))
    region = _around_peak(heat >= SHARE * np.maximum(peaks, 1)[:, None, None], heat)
    spans = [_span(region.max(axis)) for axis in (1, 2)]  # in columns, in rows
    boxes = np.empty((len(maps), 4), np.int32)
    middles, lengths = [], []
    for axis, (first, last) in enumerate(spans):
        low, high, places = parts[:, axis], parts[:, axis + 2], region.shape[2 - axis]
        start, end = (low + (high - low) * edge / places for edge in (first, last))
        middles.append((start + end) / 2 * sizes[:, axis])
        lengths.append((end - start) * sizes[:, axis])
    side = np.maximum((1 + 2 * MARGIN) * np.maximum(*lengths), LEAST * sizes.min(1))
    for axis in (0, 1):
        size = sizes[:, axis]
        length = np.minimum(np.maximum(np.rint(side), 1), size)
        left = np.clip(np.rint(middles[axis] - length / 2), 0, size - length)
        boxes[:, axis], boxes[:, axis + 2] = left, left + length
    silent = peaks == 0
    boxes[silent] = np.concatenate([np.zeros_like(sizes), sizes], 1)[silent]
    return boxes


def _around_peak(mask: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the part of each mask [P, h, w] that hangs together with the place of the largest heat."""
    from scipy.ndimage import generate_binary_structure, label  # imported late: few labels need it

    within = generate_binary_structure(3, 1)
    within[0] = within[2] = False  # maps are no neighbors of each other
    parts, _ = label(mask, within)
    peak = heat.reshape(len(heat), -1).argmax(1)
    own = parts.reshape(len(parts), -1)[np.arange(len(parts)), peak]
    region: np.ndarray = (parts == own[:, None, None]) & mask
    return region


def _span(filled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where the filled places of each row [P, n] begin and end."""
    return filled.argmax(1), filled.shape[1] - filled[:, ::-1].argmax(1)
