"""The facets of neurons from their evidence: clusters of residuals, joined where they are one meaning, each named."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from csp_index.labelling.evidence import Evidence
from csp_index.studies.meanings.clusters import clusters_of, numbered
from csp_index.studies.meanings.facet_texts import FacetTexts, ImageSet, text_rows
from csp_index.studies.meanings.residuals import Residuals, unit
from csp_index.studies.meanings.same_meaning import Cluster, meanings

_ROUNDS, _LEFT = 3, 0.5  # of moving images to the group they are most like; what a group keeps of its size at least


@dataclass(frozen=True, slots=True)
class FoundFacet:
    """A facet of a neuron: the ranks of its images among the activating ones, and the text that names them."""

    ranks: np.ndarray
    text: int  # place among the texts
    score: float


@dataclass(frozen=True, slots=True)
class FoundFacets:
    """The facets of one neuron, the one with the most images first; none for a neuron without activating images.

    `clusters` is how many clusters stood out from the null, `clear` by how many of its deviations (0 for one cluster).
    """

    facets: tuple[FoundFacet, ...]
    clusters: int
    clear: float


def find_facets(evidence: Evidence, texts: FacetTexts, seed: int = 0) -> list[FoundFacets]:
    """Return the facets of each neuron of the evidence, which has the texts (see `FacetTexts.best`).

    A neuron's facets do not depend on the other neurons.
    """
    residuals = Residuals.of(evidence)
    clusters = clusters_of(residuals.rows(), residuals.present, seed)
    counts = clusters.counts
    groups = _joined(evidence, texts, residuals, clusters.groups)
    sets = [ImageSet(row, np.flatnonzero(groups[row] == place)) for row, place in _places(groups)]
    named, scores = texts.best(evidence, sets)
    found: list[list[FoundFacet]] = [[] for _ in groups]
    for one, place, score in zip(sets, named.tolist(), scores.tolist(), strict=True):
        found[one.row].append(FoundFacet(one.ranks, place, score))
    return [
        FoundFacets(tuple(facets), int(count), float(clear))
        for facets, count, clear in zip(found, counts, clusters.clear, strict=True)
    ]


def _places(groups: np.ndarray) -> list[tuple[int, int]]:
    """Return the neuron's row and the number of each group."""
    return [(row, place) for row, count in enumerate(groups.max(1, initial=-1) + 1) for place in range(count)]


def _joined(evidence: Evidence, texts: FacetTexts, residuals: Residuals, groups: np.ndarray) -> np.ndarray:
    """Return the groups [M, K] with clusters that are one meaning joined, numbered anew."""
    directions, result, rows = text_rows(evidence), groups.copy(), residuals.rows()
    for row in np.flatnonzero(groups.max(1, initial=-1) > 0).tolist():

        def named(members: list[np.ndarray], row: int = row) -> list[Cluster]:
            chosen, _ = texts.best(evidence, [ImageSet(row, ranks[::2]) for ranks in members])
            return [
                Cluster(
                    ranks,
                    text,
                    directions[text],
                    residuals.images[row, ranks[1::2]],
                    unit(rows[row, ranks].mean(0)),
                )
                for ranks, text in zip(members, chosen.tolist(), strict=True)
            ]

        def scored(cluster: Cluster, places: list[int], row: int = row) -> np.ndarray:
            return texts.scores(evidence, ImageSet(row, cluster.ranks[1::2]), places)

        members = [np.flatnonzero(groups[row] == place) for place in range(groups[row].max() + 1)]
        kept = meanings(members, named, scored)
        for place, ranks in enumerate(kept):
            result[row, ranks] = place
        if len(kept) > 1:
            result[row] = _settled(rows[row], result[row])
    return numbered(result, max(1, int(result.max(initial=0)) + 1))


def _settled(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the groups [K] with each image in the one whose mean residual it is most like, of residuals [K, D].

    A cluster that was mixed of two meanings went to one of them as a whole. A group that would lose most of its images
    is no group of likes: then nothing moves.
    """
    places = np.arange(groups.max() + 1)
    present, moved = groups >= 0, groups
    for _ in range(_ROUNDS):
        means = unit(np.stack([rows[moved == place].mean(0) for place in places]))
        moved = np.where(present, (rows @ means.T).argmax(1), -1)
        if min(np.count_nonzero(moved == place) / np.count_nonzero(groups == place) for place in places) < _LEFT:
            return groups
    return np.asarray(moved)
