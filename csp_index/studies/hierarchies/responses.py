"""How present words are in images: as their own text, and as any of the texts below them.

The presence of a text is that of `labelling.linear.presence`, fitted on the images that chose the labels' side: so the
offsets of an encoder's cosines, which differ between texts, cancel, and the presence of several texts can be compared.
A broader word has two responses, the presence of its own text and the *union*: the largest presence among all texts at
or below it. Abstract words are poor texts for an image encoder, and a union of thousands of texts is noise; which of
the two explains a neuron better is decided on the choosing images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.studies.hierarchies.words import LabelWords

_AT_ONCE = 256  # images whose presence of all texts is in memory


@dataclass(frozen=True, slots=True)
class Responses:
    """Responses of L labels, of W words by their own texts, and of W words by union, on n images: [L + 2 W, n].

    `has_text` and `has_union` [W] say which there are; a row that is not there is 0. A union of one text is none.
    """

    values: np.ndarray
    has_text: np.ndarray
    has_union: np.ndarray

    def text_rows(self, words: np.ndarray) -> np.ndarray:
        """Return the rows of words' own texts."""
        return len(self.values) - 2 * len(self.has_text) + words

    def union_rows(self, words: np.ndarray) -> np.ndarray:
        """Return the rows of words' unions."""
        return len(self.values) - len(self.has_text) + words


def fit_presence(texts: torch.Tensor, images: torch.Tensor) -> PresenceSigmoids:
    """Return the sigmoids of texts [T, D] over images [n, D], n >= 1, without their cosines in memory."""
    mean = images.mean(0)
    centered = images - mean
    covariance = centered.T @ centered / len(images)
    variance = torch.einsum("td,de,te->t", texts, covariance, texts)
    return PresenceSigmoids.of_moments(texts @ mean, variance.clamp(min=0).sqrt())


def respond(words: LabelWords, texts: torch.Tensor, sigmoids: PresenceSigmoids, images: torch.Tensor) -> Responses:
    """Return the responses on images [n, D] for texts [T, D]; that of a label without an embedding is 0."""
    labels, count = len(words.labels), len(words.words)
    has_label = np.array(words.embedded, dtype=bool)
    rows = torch.tensor([row for row in words.rows if row >= 0], dtype=torch.int64)
    values = np.zeros((labels + 2 * count, len(images)), np.float32)
    has_text = np.array([word.own is not None for word in words.words], dtype=bool)
    has_union = np.array([len(word.texts) > 1 for word in words.words], dtype=bool)
    titles = np.array([word.own for word in words.words if word.own is not None], np.int64)
    unions = [(place, torch.tensor(words.words[place].texts)) for place in np.flatnonzero(has_union).tolist()]
    text_places = labels + np.flatnonzero(has_text)
    for start in range(0, len(images), _AT_ONCE):
        pick = slice(start, start + _AT_ONCE)
        presence = sigmoids.apply(texts @ images[pick].T)
        values[np.flatnonzero(has_label), pick] = presence[rows].numpy()
        values[text_places, pick] = presence[torch.from_numpy(titles)].numpy()
        for place, below in unions:
            values[labels + count + place, pick] = presence[below].amax(0).numpy()
    return Responses(values, has_text, has_union)
