"""Other words that label neurons near to a word: by the cosine of their embeddings, or by their letters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from csp_index.studies.concepts.words import LabelWords, normal

NEAR: Final = 6
"""Other words that are named, at most."""

AlsoBy = Literal["meaning", "spelling"]


@dataclass(frozen=True, slots=True)
class NearWord:
    """Another word that labels neurons: how many, and its cosine with the word asked for (None: spelled like it)."""

    text: str
    neurons: int
    similarity: float | None


def near_words(
    words: LabelWords, word: str, vector: np.ndarray | None, vectors: np.ndarray
) -> tuple[tuple[NearWord, ...], AlsoBy]:
    """Return the labels nearest to a word, and how they were found: by meaning where its `vector` [D] is at hand.

    `vectors` [W, D] are unit embeddings of the labels, zero where an index holds none; where all are, by spelling.
    """
    if vector is not None and vectors.any():
        cosines = np.einsum("wd,d->w", vectors, vector)
        cosines[cosines == 0] = -np.inf  # no embedding is stored
        if (own := words.place_of.get(normal(word))) is not None:
            cosines[own] = -np.inf
        order = np.argsort(-cosines, kind="stable")[:NEAR].tolist()
        found = [(place, min(1.0, float(cosines[place]))) for place in order if np.isfinite(cosines[place])]
        return tuple(NearWord(words.spellings[at], int(words.counts[at]), cosine) for at, cosine in found), "meaning"
    places = words.spelled_like(word, NEAR)
    return tuple(NearWord(words.spellings[at], int(words.counts[at]), None) for at in places), "spelling"
