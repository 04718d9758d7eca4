"""Neurons labelled anew from stored vectors, as fast as a slider moves; nothing is written.

An answer is what `Index.label(..., keep=False)` gives for the same options. What does not hang on the knob that was
moved is kept: the example sets with their embeddings, the candidates' embeddings, what the dataset says of these.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import Selection
from csp_index.errors import BusyError, LabelError, SettingError
from csp_index.labelling import scoring
from csp_index.labelling.candidates import (
    CandidateTexts,
)
from csp_index.labelling.confidence import Confidence
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.gather import Gathered, dataset_share, gather, with_response, with_texts
from csp_index.labelling.label_store import KEPT, notes_of
from csp_index.labelling.labels import NeuronScores, score_evidence, states_of
from csp_index.labelling.request import LabelRequest, make_request
from csp_index.labelling.response import Response
from csp_index.lru_cache import LRUCache
from csp_index.records import ExamplePair, Label, LabelScore, LabelState, LayerKey, NeuronKey, rivals_of
from csp_index.service.layer_table import finite
from csp_index.service.live.queries import LabelQuery
from csp_index.service.live.stored_examples import stored_sets
from csp_index.service.snapshot import Snapshot
from csp_index.store.addresses import check_numbers
from csp_index.store.catalog import LayerInfo

_PASSES = 128  # results of passes over the dataset that are kept
_PAIR_BYTES = 1024  # of a pair as a dictionary, about
_OF_SCORE = tuple(field.name for field in fields(LabelScore))
_OF_PAIR = tuple(field.name for field in fields(ExamplePair))


@dataclass(frozen=True, slots=True)
class _Part:
    """The neurons of one layer in a question, and what is asked of them."""

    selection: Selection
    request: LabelRequest
    texts: CandidateTexts

    @property
    def scale(self) -> float | None:
        """The scale at which the method looks at the whole dataset, None where it does not."""
        return scoring.method(self.request.method).background(self.request.scoring)

    @property
    def sets(self) -> Hashable:
        """What the example sets hang on."""
        row = scoring.method(self.request.method)
        neurons = tuple(self.selection.neurons.tolist())
        return self.selection.target.key, neurons, self.request.examples, row.info.needs_contrast, row.info.needs_mean


@dataclass(frozen=True, slots=True)
class _Sets:
    """What the answers about some neurons rest on, whatever the candidates and the formula's numbers."""

    examples: Examples
    evidence: Evidence  # without texts
    pairs: dict[int, list[dict[str, Any]]]  # by neuron, as the API gives them; shared, not to be changed
    notes: list[str]


class Relabeller:
    """Answers questions for labels from a store at a fixed version; many threads may ask."""

    def __init__(self, snapshot: Snapshot, context: ComputeContext, held_bytes: int) -> None:
        """Compute by `context`; keep `held_bytes` of example sets."""
        self._snapshot, self._store, self._source, self._context = snapshot, snapshot.store, snapshot.encoder, context
        self._sets, self._passes = LRUCache(held_bytes), LRUCache(_PASSES)
        self._passing = threading.Lock()

    def answer(
        self,
        query: LabelQuery,
        layers: Mapping[LayerKey, LayerInfo],
        texts: CandidateTexts,
        told: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        """Return a result for each neuron, in the order they were asked for; `layers` has theirs.

        `told` are the settings of the query's run, empty without one: what the query leaves open is as they say.

        Errors: as `Index.label`, and BusyError while another question goes over the whole dataset.
        """
        method = query.method or told.get("method")
        if told and method != told["method"]:
            raise SettingError(f"run {query.run} labelled by {told['method']}, not by {method}: leave one of them out")
        given = dict(told.get("examples", {})) | dict(told.get("scoring", {})) | query.options
        request = make_request(method, self._source, query.top, given)
        if "synthetic" in request.examples.kinds:
            raise LabelError("contrast synthetic needs an image generator: ask for it by `csp-index label`")
        found: dict[NeuronKey, dict[str, Any]] = {}
        for key in dict.fromkeys(neuron.layer_key for neuron in query.neurons):
            numbers = sorted({neuron.neuron for neuron in query.neurons if neuron.layer_key == key})
            check_numbers(layers[key], numbers)
            selection = Selection(self._source, layers[key], np.array(numbers, dtype=np.int64))
            found |= self._label(_Part(selection, request, texts))
        return [found[neuron] for neuron in dict.fromkeys(query.neurons)]

    def _label(self, part: _Part) -> dict[NeuronKey, dict[str, Any]]:
        selection, request = part.selection, part.request
        scale = part.scale  # refused before anything is read where the encoder has none
        sets = self._sets.get(part.sets, lambda: self._gathered(selection, request), _bytes_of)
        evidence = with_texts(sets.evidence, request, part.texts)
        if scale is not None:
            evidence = replace(evidence, label_share=self._share(part, sets.examples.images, evidence, scale))
        if scoring.method(request.method).info.needs_response:
            evidence = replace(evidence, response=self._response(part, evidence, scale))
        found = score_evidence(request, sets.examples, evidence)
        return _results(part, sets, found)

    def _gathered(self, selection: Selection, request: LabelRequest) -> _Sets:
        """Return what the index kept where that is the same, else what is found anew."""
        kept = None
        if scoring.method(request.method).info.needs_contrast:
            kept = stored_sets(self._snapshot, selection, request.examples)
        return _told(request, gather(self._store, selection, request, self._context, kept))

    def _share(self, part: _Part, images: int, evidence: Evidence, scale: float) -> torch.Tensor:
        def make() -> torch.Tensor:
            with self._pass():
                return dataset_share(self._store, part.selection, images, evidence.texts, scale)

        return self._passes.get(("share", part.texts.key, images, scale), make)

    def _response(self, part: _Part, evidence: Evidence, scale: float | None) -> Response | None:
        def make() -> Response | None:
            with self._pass():
                return with_response(self._store, part.selection, part.request, evidence).response

        return self._passes.get((part.sets, part.texts.key, scale), make)

    @contextmanager
    def _pass(self) -> Iterator[None]:
        """Go over the whole dataset: one at a time, for each needs memory and a core for seconds; nobody waits."""
        if not self._passing.acquire(blocking=False):
            raise BusyError(
                "the service is busy with a method that looks at the whole dataset: ask again in some seconds, "
                "or choose csp, which does not"
            )
        try:
            yield
        finally:
            self._passing.release()


def _bytes_of(sets: _Sets) -> int:
    """Return about how much memory example sets take."""
    held = _PAIR_BYTES * sum(map(len, sets.pairs.values()))
    for record in (sets.examples, sets.evidence):
        tensors = (getattr(record, field.name) for field in fields(record))
        held += sum(value.nbytes for value in tensors if isinstance(value, torch.Tensor))
    return held


def _told(request: LabelRequest, found: Gathered) -> _Sets:
    notes = notes_of(request, found.examples, states_of(request, found.examples))
    return _Sets(found.examples, found.evidence, _first_pairs(request, found.examples), notes)


def _first_pairs(request: LabelRequest, examples: Examples) -> dict[int, list[dict[str, Any]]]:
    """Return each activating image with its first partner, by neuron: what the store's rows of neighbour 0 tell."""
    kinds = examples.kinds or request.examples.kinds
    slot = (examples.contrastive >= 0).byte().argmax(2, keepdim=True)  # the first that is there, else 0
    partners = (examples.contrastive, examples.contrast_activations, examples.similarities)
    firsts = [values.gather(2, slot)[..., 0] for values in partners]
    columns = (
        examples.neurons,
        examples.activating,
        examples.activations,
        *firsts,
        slot[..., 0] // examples.of_each_kind,
    )
    pairs = {}
    for neuron, *own in zip(*(values.tolist() for values in columns), strict=True):
        ranked = enumerate(zip(*own, strict=True))
        pairs[neuron] = [_pair(kinds, rank, *values) for rank, values in ranked if values[0] >= 0]
    return pairs


def _pair(kinds: Sequence[str], rank: int, image: int, activation: float, *partner: Any) -> dict[str, Any]:
    *told, kind = partner
    if told[0] < 0:
        told = [None] * len(told)
    return dict(zip(_OF_PAIR, (rank, image, activation, *told, 0, kinds[kind]), strict=True))


def _results(part: _Part, sets: _Sets, found: NeuronScores) -> dict[NeuronKey, dict[str, Any]]:
    """Return the answer about every neuron, as the rows of the store would tell it."""
    best = found.leaders(max(KEPT, part.request.top))
    doubt = found.confidence(best[:, :KEPT])
    scores = found.scored.scores.gather(1, best).tolist()
    results = {}
    states: list[LabelState] = found.states.tolist()
    for row, neuron in enumerate(part.selection.neurons.tolist()):
        labels: list[LabelScore] = []
        if states[row] == "labelled":
            texts = [part.texts.texts[place] for place in best[row].tolist()]
            labels = [
                LabelScore(*each) for each in zip(texts, scores[row], *_bounds(doubt, row, len(texts)), strict=True)
            ]
        label = Label(
            part.selection.key(neuron),
            part.request.method,
            states[row],
            tuple(labels[: part.request.top]),
            note=sets.notes[row],
            uncertain=bool(labels) and doubt is not None and bool(doubt.uncertain[row]),
            rivals=rivals_of(labels),
        )
        results[label.neuron] = _result(label, sets, row)
    return results


def _bounds(doubt: Confidence | None, row: int, count: int) -> list[list[float | None]]:
    """Return low, high and share of a neuron's candidates; None where nothing can be told."""
    if doubt is None:
        return [[None] * count] * 3
    told = [[finite(value) for value in values[row].tolist()] for values in (doubt.low, doubt.high, doubt.share)]
    return [values + [None] * (count - len(values)) for values in told]


def _result(label: Label, sets: _Sets, row: int) -> dict[str, Any]:
    """Return a label as the API gives it, with its pairs and the activation below which an image is silent."""
    pairs = sets.pairs.get(label.neuron.neuron, [])
    return label.as_json() | {
        "labels": [{name: getattr(score, name) for name in _OF_SCORE} for score in label.labels],
        "activating": [pair["image_id"] for pair in pairs],
        "contrastive": [pair["contrast_id"] for pair in pairs],
        "pairs": list(pairs),
        "doubt": label.doubt,
        "threshold": float(sets.examples.thresholds[row]),
    }
