"""Which text says what a set of activating images has that its silent neighbors have not.

A short list of texts by concept vectors, then `contrastive-pmi` among them, where the encoder's scale is known; else
the concept vector decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from csp_index.labelling import scoring
from csp_index.labelling.evidence import Evidence
from csp_index.records import ScoringOptions
from csp_index.studies.meanings.residuals import unit
from csp_index.tensors.library import torch

METHOD: Final = "contrastive-pmi"
WITHOUT_SCALE: Final = "csp"
SHARP: Final = 3.0
"""Deviation of a text's logits, about their mean: that of encoders' own scales (2.6 to 3.3 in the drawn worlds)."""

_LISTED = 24  # texts of each list
_GAMMAS = (0.0, 0.5, 1.0)  # of the concept vectors that make the lists: whole concepts, conjunctions, single ones


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Some of the activating images of a neuron: the neuron's row in the evidence, and ranks among its images."""

    row: int
    ranks: np.ndarray


@dataclass(frozen=True, slots=True)
class FacetTexts:
    """How the texts of facets are scored."""

    options: ScoringOptions
    scale: float  # of the softmax that divides images among texts: the encoder's, or one as sharp

    @property
    def method(self) -> str:
        """The method that names facets."""
        return METHOD if self.options.logit_scale is not None else WITHOUT_SCALE

    def best(self, evidence: Evidence, sets: Sequence[ImageSet]) -> tuple[np.ndarray, np.ndarray]:
        """Return the place of the best text of each set [S], and its score [S].

        `evidence` has the texts, and for METHOD the logarithms of the softmax's denominators and the dataset's shares.
        """
        places, scores = np.zeros(len(sets), np.int64), np.zeros(len(sets))
        for at, one in enumerate(sets):
            own = _of_set(evidence, one)
            listed = self._listed(own)
            found = scoring.score(self.method, own.of_candidates(torch.from_numpy(listed)), self.options).scores[0]
            best = int(found.argmax())
            places[at], scores[at] = listed[best], float(found[best])
        return places, scores

    def scores(self, evidence: Evidence, one: ImageSet, places: Sequence[int]) -> np.ndarray:
        """Return how much nearer a set is to texts at some places than its silent neighbors are, [T]; 0: no nearer."""
        distinct, inverse = np.unique(places, return_inverse=True)
        own = _of_set(evidence, one).of_candidates(torch.from_numpy(distinct))
        found: np.ndarray = scoring.score("csp-difference", own, self.options).scores[0].double().numpy()
        return found[inverse]

    def _listed(self, evidence: Evidence) -> np.ndarray:
        """Return the places of the texts nearest to the concept vectors of one set, sorted."""
        found = []
        for gamma in _GAMMAS:
            options = replace(self.options, gamma=gamma)
            scores = scoring.score(WITHOUT_SCALE, evidence, options).scores[0]
            found.append(scores.topk(min(_LISTED, len(scores))).indices.numpy())
        return np.unique(np.concatenate(found))


def _of_set(evidence: Evidence, one: ImageSet) -> Evidence:
    """Return the evidence of one set alone, over the images that it names."""
    activating = evidence.activating[one.row, one.ranks]
    contrastive = evidence.contrastive[one.row, one.ranks]
    used, inverse = torch.cat([activating, contrastive.flatten()]).unique(return_inverse=True)
    absent = int(used[0]) < 0
    places = inverse - int(absent)
    kept = used[int(absent) :]
    similarities = evidence.similarities
    return replace(
        evidence,
        vectors=evidence.vectors[kept],
        activating=places[: len(activating)][None],
        activations=evidence.activations[one.row, one.ranks][None],
        contrastive=places[len(activating) :].view(1, *contrastive.shape),
        similarities=None if similarities is None else similarities[one.row, one.ranks][None],
        totals=None if evidence.totals is None else evidence.totals[kept],
        images=None if evidence.images is None else evidence.images[kept],
        neurons=None,
    )


def text_rows(evidence: Evidence) -> np.ndarray:
    """Return the texts [C, D] at unit length."""
    return unit(evidence.texts.numpy())


def sharp_scale(images: np.ndarray, texts: np.ndarray) -> float:
    """Return the scale at which the cosines of texts [C, D] with images [S, D] vary as an encoder's logits do."""
    cosines = images @ texts.T
    deviation = float((cosines - cosines.mean(0)).std())
    return round(SHARP / max(deviation, 1e-3), 1)
