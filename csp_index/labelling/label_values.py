"""From scores to labels: the best candidates of each neuron, the pairs of images shown with them, and the notes.

The one conversion of scores to `Label` values. `kept.label_rows` writes the same values as rows, `kept.read_labels`
reads rows back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from csp_index.contrast.examples import Examples, quality_of
from csp_index.contrast.selection import Selection
from csp_index.labelling.confidence import Confidence
from csp_index.labelling.nulls.fit import fit_notes
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.ties import Ties
from csp_index.records import ExamplePair, Label, LabelScore, LabelState, prediction_set_of, rivals_of
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.tensors.library import torch

STORED_NEIGHBOURS = 5  # nearest contrastive images stored with each activating one, whatever the method looks at
_PAIR_BYTES = 256  # of a pair in memory, about
_CROPPED: Final = "crops of the regions that drive it stand in for its activating images"
_NOTES = {
    "constant": "it has the same activation on every image, so no image says what it detects",
    "dead": "never fires above the floor on the indexed images",
    "no-contrast": "no image activates it less than the threshold (or filters left none); this method needs one",
    "no-candidates": "no candidate was named for it: run `csp-index candidates`, or add the vocabulary to --candidates",
}


@dataclass(frozen=True, slots=True)
class Ranking:
    """The best candidates of the selection's M neurons, best first: scores and places in `texts` [M, R], states [M].

    `confidence` covers the first of them, KEPT at most. Of a neuron with fewer than R candidates, `available` [M], only
    the first ones are its own. `vectors` [M, D] are the concept vectors behind the scores, if the method has such.
    `sums` [M] are the labels of a method that weighs several texts, None for a neuron that is not labelled.
    """

    selection: Selection
    request: LabelRequest
    examples: Examples
    texts: Sequence[str]
    scores: torch.Tensor
    places: torch.Tensor
    states: np.ndarray
    available: np.ndarray
    confidence: Confidence | None = None
    vectors: torch.Tensor | None = None
    ties: Ties | None = None
    probability: np.ndarray | None = None  # [M] that the label is right, NaN where none is known
    fit: torch.Tensor | None = None  # [M], NaN where it is unknown, or another reason makes the label uncertain
    sums: tuple[WeightedLabel | None, ...] | None = None

    def text(self, row: int, rank: int) -> str:
        """Return how a neuron's candidate of a rank is written: the best one of a method that weighs texts as a sum."""
        label = self.sums[row] if self.sums is not None and rank == 0 else None
        return self.texts[int(self.places[row, rank])] if label is None else label.text

    @property
    def counts(self) -> np.ndarray:
        """How many candidates each neuron has in the ranking, [M]; 0 where it is not labelled."""
        counts: np.ndarray = np.minimum(self.places.shape[1], self.available)
        return np.where(self.states == "labelled", counts, 0)


@dataclass(frozen=True, slots=True)
class ExampleSummary:
    """What labels of M neurons say of their example sets, whatever the candidates.

    `pairs`: each activating image with the first of its partners. `notes`: what falls short of the request, or "".
    """

    pairs: Sequence[tuple[ExamplePair, ...]]
    notes: Sequence[str]

    @property
    def nbytes(self) -> int:
        """About how much memory the pairs take."""
        return _PAIR_BYTES * sum(map(len, self.pairs))


@dataclass(frozen=True, slots=True)
class StoredPairs:
    """Which pairs of example sets are stored, [P] each: the neuron's row, its image's rank, the partner's slot.

    `neighbour` counts the partners of one image. An image without a partner has one pair, with an absent partner.
    """

    neuron: torch.Tensor
    rank: torch.Tensor
    slot: torch.Tensor
    neighbour: torch.Tensor

    def first(self) -> StoredPairs:
        """Return the pairs of each image with its first partner."""
        first = self.neighbour == 0
        return StoredPairs(self.neuron[first], self.rank[first], self.slot[first], self.neighbour[first])


def stored_pairs(examples: Examples) -> StoredPairs:
    """Return the pairs of all activating images with a few partners of each kind, in their order."""
    present = examples.contrastive >= 0
    selected = present & (torch.arange(present.shape[2]) % examples.of_each_kind < STORED_NEIGHBOURS)
    selected[..., 0] |= ~present.any(2)
    neuron, rank, slot = (selected & (examples.activating >= 0)[..., None]).nonzero(as_tuple=True)
    return StoredPairs(neuron, rank, slot, (selected.cumsum(2) - 1)[neuron, rank, slot])


def example_summary(request: LabelRequest, examples: Examples) -> ExampleSummary:
    """Return what labels say of these example sets."""
    first = stored_pairs(examples).first()
    kinds = examples.kinds or request.examples.kinds
    at = first.neuron, first.rank, first.slot
    columns = (
        first.neuron,
        first.rank,
        examples.activating[at[:2]],
        examples.activations[at[:2]],
        examples.contrastive[at],
        examples.contrast_activations[at],
        examples.similarities[at],
        first.slot // examples.of_each_kind,
    )
    pairs: list[list[ExamplePair]] = [[] for _ in range(len(examples.neurons))]
    rows = zip(*(values.tolist() for values in columns), strict=True)
    for row, rank, image, activation, contrast, low, similarity, kind in rows:
        pair = ExamplePair(rank, image, activation, contrast, low, similarity, kind=kinds[kind])
        if contrast < 0:
            pair = replace(pair, contrast_id=None, contrast_activation=None, similarity=None)
        pairs[row].append(pair)
    return ExampleSummary([tuple(of_one) for of_one in pairs], _example_notes(request, examples))


def _example_notes(request: LabelRequest, examples: Examples) -> list[str]:
    fired = (examples.activating >= 0).sum(1).tolist()
    none = [0] * len(fired)
    whole = none if examples.uncropped is None else examples.uncropped.tolist()
    partners = none if examples.whole_partners is None else examples.whole_partners.tolist()
    requested, rough = request.examples.examples, "contrastive images by vector index, approximate"
    notes = []
    for count, lost, of_partners, poor in zip(fired, whole, partners, quality_of(examples).notes(), strict=True):
        parts = [_CROPPED] if request.crop else []
        parts += [f"{lost} of {count} stay whole, because their pictures cannot be opened"] if lost else []
        parts += [f"{of_partners} of their contrastive images stay whole"] if of_partners else []
        parts += [f"{count} activating images, {requested} asked for"] if count < requested else []
        parts += [rough] if examples.approximate else []
        notes.append("; ".join([*parts, poor] if poor else parts))
    return notes


def label_notes(ranking: Ranking, summary: ExampleSummary) -> list[str]:
    """Return the note of each label: why there is none, else what falls short of the request."""
    ties = [""] * len(summary.notes) if ranking.ties is None else ranking.ties.notes()
    fit = [""] * len(summary.notes) if ranking.fit is None else fit_notes(ranking.fit)
    notes = ["; ".join(filter(None, parts)) for parts in zip(ties, summary.notes, fit, strict=True)]
    return [_NOTES.get(state, note) for state, note in zip(ranking.states.tolist(), notes, strict=True)]


def labels_of(ranking: Ranking, summary: ExampleSummary, run_id: str = "") -> list[Label]:
    """Return the labels of a ranking, in neuron order, with at most `ranking.request.top` candidates each."""
    selection, request = ranking.selection, ranking.request
    states: list[LabelState] = ranking.states.tolist()
    notes, scores = label_notes(ranking, summary), _label_scores(ranking)
    uncertain = [False] * len(states) if ranking.confidence is None else ranking.confidence.uncertain.tolist()
    return [
        Label(
            selection.key(neuron),
            request.method,
            states[row],
            tuple(scores[row][: request.top]),
            summary.pairs[row],
            notes[row],
            run_id,
            bool(scores[row]) and uncertain[row],
            rivals_of(scores[row]),
            prediction_set_of(scores[row]),
            weighted=None if ranking.sums is None else ranking.sums[row],
            probability=_known(ranking.probability, row) if scores[row] else None,
            crop=request.crop,
        )
        for row, neuron in enumerate(selection.neurons.tolist())
    ]


def _known(values: np.ndarray | None, row: int) -> float | None:
    return None if values is None or math.isnan(values[row]) else float(values[row])


def _label_scores(ranking: Ranking) -> list[list[LabelScore]]:
    """Return the candidates of each neuron with their scores and bounds; none where it is not labelled."""
    columns = ranking.places.tolist(), ranking.scores.tolist(), *_bounds(ranking)
    result = []
    for row, count in enumerate(ranking.counts.tolist()):
        places, *values = (column[row][:count] for column in columns)
        texts = [ranking.texts[place] for place in places]
        if ranking.sums is not None and count:
            texts[0] = ranking.text(row, 0)
        result.append([LabelScore(*each) for each in zip(texts, *values, strict=True)])
    return result


def _bounds(ranking: Ranking) -> list[list[list[float | None]]]:
    """Return low, high and share of every candidate, [M, R] each; None where nothing is known."""
    count, width = ranking.places.shape
    if ranking.confidence is None:
        return [[[None] * width] * count] * 3
    known = ranking.confidence.low, ranking.confidence.high, ranking.confidence.share
    beyond = [None] * (width - ranking.confidence.share.shape[1])
    return [
        [[None if math.isnan(value) else value for value in row] + beyond for row in values.tolist()]
        for values in known
    ]
