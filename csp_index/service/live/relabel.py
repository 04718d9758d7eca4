"""Neurons labelled again from stored vectors, as fast as a slider moves; nothing is written.

An answer is what `Index.label(..., keep=False)` returns for the same options: both label through one pipeline. Here it
remembers what does not depend on the knob that moved: example sets with their embeddings, and passes over the dataset.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np
import torch

from csp_index.concurrency import go_on
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.crops.regions import REGION_SETTINGS
from csp_index.contrast.embeddings import give_back
from csp_index.contrast.selection import Selection
from csp_index.errors import BusyError, LabelError, SettingError, StoppedError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.cost import check_cost
from csp_index.labelling.kept.crop_labels import is_outdated
from csp_index.labelling.label_rule import preferred_method
from csp_index.labelling.label_values import labels_of
from csp_index.labelling.methods import CROP
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import LabelRequest, make_request
from csp_index.lru_cache import LRUCache
from csp_index.records import ExamplePair, Label, LabelScore, LayerKey, NeuronKey
from csp_index.service.documents.neuron_shapes import LiveLabel
from csp_index.service.live.queries import LabelQuery
from csp_index.service.live.stored_correlations import stored_correlations
from csp_index.service.live.stored_examples import stored_sets
from csp_index.service.snapshot import Snapshot
from csp_index.store.catalog import LayerInfo

_PASSES_BYTES = 128 * 2**20  # of results of passes over the dataset that are remembered
_OF_SCORE = tuple(field.name for field in fields(LabelScore))
_OF_PAIR = tuple(field.name for field in fields(ExamplePair))

Value = TypeVar("Value")


class LiveMemory:
    """A bounded memory for a pipeline that many threads use; see `labelling.memory.Memory`."""

    def __init__(self, held_bytes: int) -> None:
        """Remember `held_bytes` of example sets, and some megabytes of passes."""
        self._examples, self._passes = LRUCache(held_bytes), LRUCache(_PASSES_BYTES)
        self._passing = threading.Lock()

    def examples(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Return what belongs to example sets: remembered, or made by one of the threads that need it."""
        return self._examples.get(key, make, size)

    def dataset(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the result of a pass over the whole dataset; BusyError while another thread makes a pass."""

        def alone() -> Value:
            with self._turn():
                return make()

        return self._passes.get(key, alone, _nbytes)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Let one pass run at a time, since each needs memory and a core for seconds; no thread waits for its turn."""
        if not self._passing.acquire(blocking=False):
            raise BusyError(
                "the service is busy with a method that looks at the whole dataset: ask again in some seconds, "
                "or choose csp, which does not"
            )
        try:
            yield
        finally:
            self._passing.release()


def _nbytes(value: object) -> int:
    """Return about how much memory the result of a pass takes: that of its tensors."""
    parts = [getattr(value, part.name) for part in fields(value)] if is_dataclass(value) else [value]
    return 1 + sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))


class Relabeller:
    """Answers label queries from a store at a fixed version; many threads may use it."""

    def __init__(self, snapshot: Snapshot, context: ComputeContext, held_bytes: int, most_cost: int) -> None:
        """Compute by `context`; remember `held_bytes` of example sets; refuse what costs more than `most_cost`."""
        self._most_cost = most_cost
        self._source, self._preferred = snapshot.encoder, preferred_method(snapshot.store)
        stored = partial(stored_sets, snapshot), partial(stored_correlations, snapshot)
        self._pipeline = Pipeline(snapshot.store, context, LiveMemory(held_bytes), *stored)

    def answer(
        self,
        query: LabelQuery,
        layers: Mapping[LayerKey, LayerInfo],
        texts: CandidateTexts,
        run_settings: Mapping[str, Any],
        check: Callable[[], None] = go_on,
    ) -> list[LiveLabel]:
        """Return a result for each neuron, in the order of the query; `layers` has theirs.

        `run_settings` are those of the query's run, empty without one: they fill in what the query leaves open.

        Errors: as `Index.label`; SettingError, before anything is computed, for what costs too much; BusyError while
        another query goes over the whole dataset; those of `check`, which is called between steps.
        """
        request = self._request(query, layers, run_settings)
        check_cost(request, len(set(query.neurons)), len(texts.texts), self._most_cost)
        try:
            return self._answer(query, layers, texts, request, check)
        except StoppedError as exc:
            message = str(exc)
        give_back()  # no frame holds what was computed any longer
        raise StoppedError(message)

    def _answer(
        self,
        query: LabelQuery,
        layers: Mapping[LayerKey, LayerInfo],
        texts: CandidateTexts,
        request: LabelRequest,
        check: Callable[[], None],
    ) -> list[LiveLabel]:
        pipeline = replace(self._pipeline, context=replace(self._pipeline.context, check=check))
        results: dict[NeuronKey, LiveLabel] = {}
        for key in dict.fromkeys(neuron.layer_key for neuron in query.neurons):
            numbers = sorted({neuron.neuron for neuron in query.neurons if neuron.layer_key == key})
            results |= self._label(
                pipeline, Selection(self._source, layers[key], np.array(numbers, dtype=np.int64)), request, texts
            )
        return [results[neuron] for neuron in dict.fromkeys(query.neurons)]

    def _request(
        self, query: LabelQuery, layers: Mapping[LayerKey, LayerInfo], run_settings: Mapping[str, Any]
    ) -> LabelRequest:
        if query.method is None and not run_settings:
            query = replace(query, method=self._preferred)
        method = query.method or run_settings.get("method")
        if run_settings and method != run_settings["method"]:
            raise SettingError(
                f"run {query.run} labelled by {run_settings['method']}, not by {method}: leave one of them out"
            )
        if CROP in run_settings and query.crop is not False and self._cut_otherwise(query, layers, run_settings):
            raise LabelError(
                f"run {query.run} labeled from crops that an earlier version cut, or when other maps of the neurons "
                "were stored: label them by csp-index label --crop again, or leave out crop"
            )
        of_run = dict(run_settings.get("examples", {})) | dict(run_settings.get("scoring", {}))
        of_run |= {CROP: True} if CROP in run_settings else {}
        request = make_request(method, self._source, query.top, of_run | query.options)
        if "synthetic" in request.examples.kinds:
            raise LabelError("contrast synthetic needs an image generator: ask for it by `csp-index label`")
        return request

    def _cut_otherwise(
        self, query: LabelQuery, layers: Mapping[LayerKey, LayerInfo], run_settings: Mapping[str, Any]
    ) -> bool:
        """Return whether the crops of a query's run are not those that would be cut now of neurons it asks for."""
        own = next((info for key, info in layers.items() if str(key) == run_settings.get("layer")), None)
        if own is None or query.run is None:
            return False
        numbers = [neuron.neuron for neuron in query.neurons if neuron.layer_key == own.key]
        return run_settings[CROP] != REGION_SETTINGS or is_outdated(self._pipeline.store, own, query.run, numbers)

    def _label(
        self, pipeline: Pipeline, selection: Selection, request: LabelRequest, texts: CandidateTexts
    ) -> dict[NeuronKey, LiveLabel]:
        ranking = pipeline.ranking(selection, request, texts)
        labels = labels_of(ranking, pipeline.summary(ranking))
        thresholds = ranking.examples.thresholds.tolist()
        return {label.neuron: _result(label, at) for label, at in zip(labels, thresholds, strict=True)}


def _result(label: Label, threshold: float) -> LiveLabel:
    """Return a label as the API gives it, with its pairs and the activation below which an image is silent."""
    evidence = {
        "labels": [{name: getattr(score, name) for name in _OF_SCORE} for score in label.labels],
        "pairs": [{name: getattr(pair, name) for name in _OF_PAIR} for pair in label.pairs],
        "doubt": label.doubt,
        "threshold": threshold,
    }
    return cast(LiveLabel, label.as_json() | evidence)
