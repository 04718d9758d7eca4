"""The parts that texts divide a neuron's images into: few texts, one of which explains each image.

An image is explained by a text that has a much larger share of it than of the silent images that look like it, or of
all images: the logarithm of the ratio, cut where it explains the image fully. Uncut, "red star" would explain the red
stars of a star neuron better than "star", and its images would fall apart by color before a rare second meaning is
seen. Cut low, "red star" explains all images of "red" or "star". So both cuts of FULL are tried. Texts are taken one by
one, each the one that explains most of what those before it left, and exchanged while that explains more. Noise in
embeddings is in all directions, and texts look at few, so they see meanings that clusters of embeddings do not.
NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

FULL: Final = (2.5, 5.0)
"""Logarithms of a text's share of an image over its prior, from which on it explains the image fully."""

GAIN: Final = 0.04  # of the images, that a further text must explain
SMALL: Final = 0.05  # smallest share of the images in a part
LEAST: Final = 4  # images in a part
MOST: Final = 5  # texts

_EXCHANGES = 3
_ALPHA = 0.5  # of the prior that the silent neighbors are
_TINY = 1e-30


@dataclass(frozen=True, slots=True)
class TextShares:
    """How much larger L texts' shares of K images are than their priors: `gains` [K, L], logarithms."""

    gains: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, silent: np.ndarray, weights: np.ndarray, whole: np.ndarray) -> TextShares:
        """Return the gains of texts, from logarithms of their shares of K images [K, L] and S silent ones [S, L].

        `weights` [S] say how often a silent image is a neighbor, `whole` [L] are the texts' mean shares of all images.
        """
        dataset = np.log(np.maximum(whole, _TINY))
        if not weights.sum():
            return cls(images - dataset)
        near = np.log(np.maximum(weights @ np.exp(silent) / weights.sum(), _TINY))
        return cls(images - (_ALPHA * near + (1 - _ALPHA) * dataset))

    def cover(self, full: float) -> list[int]:
        """Return the places of the texts that explain the images, MOST at most, with gains cut at `full`."""
        explained = np.clip(self.gains / full, 0, 1)
        chosen: list[int] = []
        best = np.zeros(len(explained))
        for _ in range(MOST):
            totals = np.maximum(explained, best[:, None]).sum(0)
            text = int(totals.argmax())
            if chosen and totals[text] - best.sum() < GAIN * len(explained):
                break
            chosen.append(text)
            best = np.maximum(best, explained[:, text])
        return _exchanged(explained, chosen)

    def parts(self, texts: list[int]) -> list[np.ndarray]:
        """Return the images that each of some texts explains best; texts of small parts give them to the others."""
        texts = list(texts)
        while True:
            groups = self.gains[:, texts].argmax(1)
            sizes = np.bincount(groups, minlength=len(texts))
            least = int(sizes.argmin())
            if len(texts) == 1 or sizes[least] >= max(LEAST, SMALL * len(groups)):
                return [np.flatnonzero(groups == place) for place in range(len(texts))]
            texts.pop(least)


def _exchanged(explained: np.ndarray, chosen: list[int]) -> list[int]:
    """Return texts, each exchanged for the one that goes best with the others, of what they explain [K, L]."""
    chosen = list(chosen)
    for _ in range(_EXCHANGES if len(chosen) > 1 else 0):
        before = list(chosen)
        for place in range(len(chosen)):
            others = explained[:, [text for at, text in enumerate(chosen) if at != place]].max(1)
            chosen[place] = int(np.maximum(explained, others[:, None]).sum(0).argmax())
        if chosen == before:
            break
    return list(dict.fromkeys(chosen))
