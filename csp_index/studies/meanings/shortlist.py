"""The few concepts among which a neuron's formula is looked for: those that fit it alone, or best with the best one.

Of all concepts the number of images that have them and fire a neuron is one matrix product; with the best concept of
each neuron, two more say how well every other one would go with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.studies.meanings.concept_images import ConceptImages
from csp_index.tensors.library import torch

LISTED: Final = (9, 7, 7, 7)
"""Concepts taken by their own IoU, and by that of the best one OR, AND, and AND NOT them: 30 at most."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """The best concept of each neuron [M], and the places of those listed [M, 30], -1 where there are fewer."""

    best: np.ndarray
    listed: np.ndarray


def shortlist(fired: np.ndarray, concepts: ConceptImages, sizes: np.ndarray) -> Shortlist:
    """Return the concepts to look among for neurons that fire on `fired` [M, N], bool; `sizes` [L] are theirs."""
    total = fired.sum(1, dtype=np.float64)[:, None]
    (hits,) = _products(concepts, fired)
    alone = _iou(sizes, hits, total)
    best = alone.argmax(1)
    shown = concepts.rows(best)
    shared, both = _products(concepts, shown, shown & fired)
    size, own = sizes[best][:, None], np.take_along_axis(hits, best[:, None], 1)
    ways = (
        alone,
        _iou(size + sizes - shared, own + hits - both, total),
        _iou(shared, both, total),
        _iou(size - shared, own - both, total),
    )
    found = [_leaders(way, concepts.levels, count) for way, count in zip(ways, LISTED, strict=True)]
    return Shortlist(best, _distinct(np.concatenate(found, axis=1)))


def _products(concepts: ConceptImages, *masks: np.ndarray) -> list[np.ndarray]:
    """Return how many images of each mask [M, N] have each concept: [M, L] for each."""
    left = [torch.from_numpy(mask.astype(np.float32)) for mask in masks]
    found = [np.empty((len(mask), len(concepts)), np.float32) for mask in masks]
    for part, rows in concepts.blocks():
        right = torch.from_numpy(rows.astype(np.float32)).T
        for result, mask in zip(found, left, strict=True):
            result[:, part] = (mask @ right).numpy()
    return found


def _iou(size: np.ndarray, hits: np.ndarray, fired: np.ndarray) -> np.ndarray:
    return np.asarray(hits / np.maximum(size + fired - hits, 1))


def _leaders(scores: np.ndarray, levels: int, count: int) -> np.ndarray:
    """Return the places of the best concepts of different names, [M, count at most], of scores [M, L]."""
    by_name = scores.reshape(len(scores), -1, levels)
    level = by_name.argmax(2)
    highest = np.take_along_axis(by_name, level[..., None], 2)[..., 0]
    names = np.argsort(-highest, axis=1, kind="stable")[:, :count]
    return np.asarray(names * levels + np.take_along_axis(level, names, 1))


def _distinct(places: np.ndarray) -> np.ndarray:
    """Return rows of places [M, S] in order, with -1 in place of what a row has twice."""
    ordered = np.sort(places, axis=1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    return np.sort(ordered, axis=1)[:, ::-1]
