"""The facets of neurons from their evidence: parts by texts, joined where they are one meaning, each named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csp_index.labelling.evidence import Evidence
from csp_index.studies.meanings.facet_texts import FacetTexts, ImageSet, text_rows
from csp_index.studies.meanings.firing_images import SilentImages
from csp_index.studies.meanings.listed_texts import listed_texts
from csp_index.studies.meanings.residuals import Residuals, unit
from csp_index.studies.meanings.same_meaning import Cluster, Meanings, meanings
from csp_index.studies.meanings.text_parts import FULL, TextShares
from csp_index.tensors.library import torch


@dataclass(frozen=True, slots=True)
class FoundFacet:
    """A facet of a neuron: the ranks of its images among the activating ones, and the text that names them."""

    ranks: np.ndarray
    text: int  # place among the texts
    score: float


@dataclass(frozen=True, slots=True)
class FoundFacets:
    """The facets of one neuron, the one with the most images first; none for a neuron without activating images.

    `clusters` is how many parts the texts made, `clear` how little the facets' texts explain each other's images: 1 and
    more for nothing, 0 for one facet.
    """

    facets: tuple[FoundFacet, ...]
    clusters: int
    clear: float


def find_facets(evidence: Evidence, texts: FacetTexts, fired: np.ndarray, silent: SilentImages) -> list[FoundFacets]:
    """Return the facets of each neuron of the evidence, which has the texts (see `FacetTexts.best`).

    `fired` [M] counts the images that fire each neuron, of which the evidence may have some. A neuron's facets do not
    depend on the other neurons.
    """
    residuals = Residuals.of(evidence)
    listed = listed_texts(residuals, evidence.texts, texts.scale, _whole(evidence).numpy())
    directions = text_rows(evidence)
    found = []
    for row, own in enumerate(listed):
        if residuals.present[row].any():
            neuron = _Neuron(evidence, texts, residuals, directions, row, int(fired[row]), silent)
            found.append(neuron.facets(own))
        else:
            found.append(FoundFacets((), 0, 0.0))
    return found


def _whole(evidence: Evidence) -> torch.Tensor:
    if evidence.label_share is None:
        raise ValueError("facets need the texts' mean shares of all images")
    return evidence.label_share


@dataclass(frozen=True, slots=True)
class _Neuron:
    """One neuron: its row in the evidence, and what its parts are judged by."""

    evidence: Evidence
    texts: FacetTexts
    residuals: Residuals
    directions: np.ndarray
    row: int
    fired: int
    silent: SilentImages

    def facets(self, listed: np.ndarray) -> FoundFacets:
        """Return the facets, by texts at the listed places [L]."""
        shares = self._shares(listed)
        for full in FULL:
            parts = shares.parts(shares.cover(full))
            found = self._meanings(parts)
            if len(found.clusters) > 1:
                break
        named = np.array([one.text for one in found.clusters])
        groups = self._shares(named).parts([*range(len(named))])  # all images, also those of parts that were left out
        sets = [ImageSet(self.row, ranks) for ranks in sorted(groups, key=lambda one: (-len(one), one[0]))]
        places, scores = self.texts.best(self.evidence, sets)
        rows = zip(sets, places.tolist(), scores.tolist(), strict=True)
        facets = tuple(FoundFacet(one.ranks, place, score) for one, place, score in rows)
        return FoundFacets(facets, len(parts), found.clear if len(groups) > 1 else 0.0)

    def _shares(self, listed: np.ndarray) -> TextShares:
        """Return the shares that texts have of the images, and of their silent neighbors."""
        contrastive = self.evidence.contrastive[self.row]
        silent, counts = contrastive[contrastive >= 0].unique(return_counts=True)
        activating = self.evidence.activating[self.row]
        chosen = torch.from_numpy(listed)
        texts = self.evidence.texts[chosen]
        totals = self.evidence.log_totals(self.texts.scale)

        def logs(places: torch.Tensor) -> np.ndarray:
            products = (self.evidence.vectors[places] @ texts.T).mul_(self.texts.scale)
            return np.asarray(products.sub_(totals[places, None]).numpy())

        whole = _whole(self.evidence)[chosen].float().numpy()
        return TextShares.of(logs(activating[activating >= 0]), logs(silent), counts.numpy(), whole)

    def _meanings(self, parts: list[np.ndarray]) -> Meanings:
        """Return the parts that are meanings, others joined."""
        return meanings(parts, self._named, self._scored) if len(parts) > 1 else Meanings(self._named(parts), 0.0)

    def _named(self, members: list[np.ndarray]) -> list[Cluster]:
        """Return clusters of images with these ranks, each named by every other image."""
        chosen, _ = self.texts.best(self.evidence, [ImageSet(self.row, ranks[::2]) for ranks in members])
        images, rows = (
            self.residuals.images[self.row],
            self.residuals.images[self.row] - self.residuals.removed[self.row],
        )
        found = []
        for ranks, text in zip(members, chosen.tolist(), strict=True):
            direction, vectors = self.directions[text], images[ranks[1::2]]
            found.append(
                Cluster(ranks, text, direction, vectors, unit(rows[ranks].mean(0)), self._worth(direction, vectors))
            )
        return found

    def _worth(self, direction: np.ndarray, vectors: np.ndarray) -> float:
        """Return the share of firing images among those that show a text at least as half of some vectors [h, D] do."""
        if not len(vectors):
            return 1.0
        bound = np.median(vectors @ direction)
        present, silent = self.residuals.present[self.row], self.silent.silent[self.row]
        firing = (self.residuals.images[self.row, present] @ direction >= bound).mean() * self.fired
        if not silent.any():
            return 1.0
        quiet = (self.silent.vectors[silent] @ direction >= bound).mean() * self.silent.counts[self.row]
        return float(firing / max(firing + quiet, 1e-12))

    def _scored(self, cluster: Cluster, places: list[int]) -> np.ndarray:
        return self.texts.scores(self.evidence, ImageSet(self.row, cluster.ranks[1::2]), places)
