"""Which images have which concepts, as bits: values of metadata columns, or texts that an image fits well enough.

How well is well enough differs from text to text, so a text is a concept at several thresholds; a formula takes the
one that suits it best. NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

LEVELS: Final = (0.5, 1.0, 1.5, 2.0, 2.75, 3.5)
"""Deviations above a text's mean cosine from which on an image has the concept: few images have it, or many."""

_TEXTS = 128  # whose cosines with all images are in memory together
_ROWS = 512  # concepts that are unpacked together


@dataclass(frozen=True, slots=True)
class ConceptImages:
    """The images of concepts, packed: `bits` [L, N / 8], of N images; `levels` concepts in a row are of one name."""

    names: tuple[str, ...]
    levels: int
    bits: np.ndarray
    images: int

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def owners(self) -> np.ndarray:
        """The place of each concept's name [L]."""
        return np.arange(len(self.bits)) // self.levels

    def sizes(self) -> np.ndarray:
        """Return how many images have each concept [L]."""
        return np.concatenate([rows.sum(1) for _, rows in self.blocks()])

    def rows(self, places: np.ndarray) -> np.ndarray:
        """Return which images have some concepts, bool [S, N]."""
        return np.unpackbits(self.bits[places], axis=1, count=self.images).astype(bool)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield all concepts a block at a time, with which images have them, uint8 [n, N]."""
        for start in range(0, len(self.bits), _ROWS):
            part = slice(start, min(start + _ROWS, len(self.bits)))
            yield part, np.unpackbits(self.bits[part], axis=1, count=self.images)


def text_moments(directions: np.ndarray, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation [C] of the cosines of texts [C, D] with images [N, D]."""
    means, deviations = [], []
    for start in range(0, len(directions), _TEXTS):
        cosines = directions[start : start + _TEXTS] @ embeddings.T
        means.append(cosines.mean(1))
        deviations.append(cosines.std(1))
    return np.concatenate(means), np.concatenate(deviations)


def text_images(
    names: tuple[str, ...], directions: np.ndarray, embeddings: np.ndarray, moments: tuple[np.ndarray, np.ndarray]
) -> ConceptImages:
    """Return the images [N, D] that fit texts [C, D], at each of LEVELS; `moments` are those of all images."""
    mean, deviation = moments
    packed = []
    for start in range(0, len(names), _TEXTS):
        part = slice(start, start + _TEXTS)
        cosines = directions[part] @ embeddings.T
        bounds = mean[part, None] + np.maximum(deviation[part, None], 1e-7) * np.array(LEVELS, np.float32)
        packed.append(np.packbits(cosines[:, None] > bounds[..., None], axis=2).reshape(-1, -(-len(embeddings) // 8)))
    return ConceptImages(names, len(LEVELS), np.concatenate(packed), len(embeddings))


def member_images(names: tuple[str, ...], members: list[np.ndarray], ids: np.ndarray) -> ConceptImages:
    """Return which of the images `ids` [N] are among the sorted members of each concept."""
    rows = [np.packbits(np.isin(ids, own)) for own in members]
    return ConceptImages(names, 1, np.stack(rows), len(ids))
