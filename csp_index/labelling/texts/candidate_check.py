"""Candidates of models compared with the vocabulary: one that scores below the vocabulary's best may be invented.

Stores nothing but the embeddings of texts. A vision-language model can name what none of the images show; a candidate
that fits the neuron less than some word of a fixed list does, adds nothing to that list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.kept.make_labels import check_texts
from csp_index.labelling.pipeline import NeuronScores, Pipeline
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.texts.candidate_mix import Proposals, checked_kinds, joined, read_proposals
from csp_index.labelling.texts.candidate_names import Candidates, TextArrays, TextSpace, named_vocabulary
from csp_index.ordering import leaders_of
from csp_index.records import LabelScore, LabelState, NeuronKey


@dataclass(frozen=True, slots=True)
class CheckedCandidate:
    """A text named for a neuron, by which kinds of proposers, its score, and whether that is below the vocabulary's."""

    text: str
    score: float
    kinds: tuple[str, ...]
    below: bool


@dataclass(frozen=True, slots=True)
class CandidateCheck:
    """One neuron: the vocabulary's best label, and what was named for it, best first; nothing for a dead neuron."""

    neuron: NeuronKey
    method: str
    state: LabelState
    best: LabelScore | None = None
    candidates: tuple[CheckedCandidate, ...] = ()

    @property
    def below(self) -> int:
        """How many of its candidates score below the vocabulary's best."""
        return sum(candidate.below for candidate in self.candidates)

    def as_json(self) -> dict[str, object]:
        """Return the object that `csp-index label --check --json` prints, one per line."""
        return {
            "neuron": str(self.neuron),
            "method": self.method,
            "state": self.state,
            "vocabulary": None if self.best is None else {"text": self.best.text, "score": self.best.score},
            "candidates": [
                {"text": c.text, "score": c.score, "kinds": list(c.kinds), "below": c.below} for c in self.candidates
            ],
            "below": self.below,
        }


@dataclass(frozen=True, slots=True)
class CandidateChecks:
    """The checks of several neurons, in neuron order, and their sums."""

    neurons: tuple[CandidateCheck, ...]

    @property
    def candidates(self) -> int:
        """How many candidates there are, counted neuron by neuron."""
        return sum(len(check.candidates) for check in self.neurons)

    @property
    def below(self) -> int:
        """How many of them score below the vocabulary's best."""
        return sum(check.below for check in self.neurons)

    @property
    def all_below(self) -> int:
        """Of how many neurons every candidate scores below the vocabulary's best."""
        return sum(check.below == len(check.candidates) > 0 for check in self.neurons)

    def total(self) -> dict[str, Any]:
        """Return the sums over all neurons, and over each kind of candidates."""
        kinds: dict[str, dict[str, int]] = {}
        for candidate in (c for check in self.neurons for c in check.candidates):
            for kind in candidate.kinds:
                sums = kinds.setdefault(kind, {"candidates": 0, "below": 0})
                sums["candidates"] += 1
                sums["below"] += candidate.below
        return {
            "neurons": sum(bool(check.candidates) for check in self.neurons),
            "candidates": self.candidates,
            "below": self.below,
            "neurons_all_below": self.all_below,
            "kinds": kinds,
        }


def check_neurons(
    space: TextSpace,
    selections: Sequence[Selection],
    request: LabelRequest,
    candidates: Candidates | None = None,
    kinds: str | Sequence[str] | None = None,
    context: ComputeContext | None = None,
) -> CandidateChecks:
    """Return the checks of the selected neurons against a vocabulary, None the one used last.

    Scores are those of labelling by vocabulary and `kinds` (as `checked_kinds`) together; a softmax runs over all of
    them. New texts are embedded, and stored under the write lock if `space` says so.
    """
    if isinstance(candidates, CandidateTexts | TextArrays):
        raise LabelError("candidates are checked against a vocabulary, not against arrays made elsewhere: name one")
    store = space.store
    vocabulary = named_vocabulary(store, candidates)
    pipeline = Pipeline(store, context or ComputeContext())
    checks: list[CandidateCheck] = []
    for selection in selections:
        proposals = read_proposals(store, selection.target, checked_kinds(store, selection.target, kinds))
        with store.write_lock() if space.keep else nullcontext():
            texts = joined(space, vocabulary, proposals)
        check_texts(selection, request, texts)
        checks += _checks(selection, proposals, texts, pipeline.scores(selection, request, texts))
    return CandidateChecks(tuple(checks))


def _checks(
    selection: Selection, proposals: Proposals, texts: CandidateTexts, scored: NeuronScores
) -> Iterator[CandidateCheck]:
    """Yield the check of each neuron, given the scores of the vocabulary's labels and of the proposals behind them."""
    method, scores, own = scored.request.method, scored.scored.scores, scored.own
    if own is None:
        raise LabelError("these candidates belong to no neuron: there is nothing to check")
    shared = scores[:, : own.shared]
    best = leaders_of(shared, 1)[:, 0].tolist()
    named = _named(own.neurons.tolist(), own.places.tolist(), proposals.kinds)
    for row, neuron in enumerate(selection.neurons.tolist()):
        key, state = selection.key(neuron), scored.states[row].item()
        if state != "labelled":
            yield CandidateCheck(key, method, state)
            continue
        whose = named.get(neuron, {})
        first = LabelScore(texts.texts[best[row]], float(shared[row, best[row]]))
        values = scores[row, torch.tensor(list(whose), dtype=torch.int64)].tolist()
        candidates = [
            CheckedCandidate(texts.texts[place], value, tuple(whose[place]), value < first.score)
            for place, value in zip(whose, values, strict=True)
        ]
        candidates.sort(key=lambda candidate: -candidate.score)
        yield CandidateCheck(key, method, state, first, tuple(candidates))


def _named(neurons: Sequence[int], places: Sequence[int], kinds: Sequence[str]) -> dict[int, dict[int, list[str]]]:
    """Return by neuron which candidates were named for it, and by whom."""
    named: dict[int, dict[int, list[str]]] = {}
    for neuron, place, kind in zip(neurons, places, kinds, strict=True):
        whose = named.setdefault(neuron, {}).setdefault(place, [])
        if kind not in whose:
            whose.append(kind)
    return named
