"""Labels computed and, unless the caller only asks, stored: the half of `labels` that needs more than the tables.

A few neurons of a layer that has lists of neighbors are labeled by NumPy alone where torch is not loaded: for methods
whose scores are concept vectors, torch would take longer to load than the labels take.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.examples import activating_examples, with_plan
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.labelling import scoring
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.cost import label_products
from csp_index.labelling.kept.label_rows import LabelRows, rows_of, write_labels
from csp_index.labelling.kept.read_labels import read_labels
from csp_index.labelling.label_values import Ranking, labels_of
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import LabelRequest
from csp_index.records import Label
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import maps_digests
from csp_index.tensors import library
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import threads_for

_FEW = 8  # neurons: more take NumPy's one thread as long as it takes to load torch

Value = TypeVar("Value")


def make_labels(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    described: Mapping[str, object],
    *,
    recompute: bool,
    keep: bool,
    context: ComputeContext,
) -> dict[int, Label]:
    """Return a label of every selected neuron; `described` is what their settings hash is made of.

    Where the search for contrastive images is approximate, labels made so before are read, unless `recompute`.
    """
    _ = request.dataset_scale  # refused before anything is written
    either = _by_numpy_or_torch if _suits_numpy(selection, request, context) else _by_torch
    if request.info.needs_contrast:
        context = either(partial(_with_plan, store, selection, request, context))
    labels: dict[int, Label] = {}
    described, missing = dict(described), selection
    if context.plan is not None and context.plan.approximate:  # its labels may differ, so they have their own hash
        described["contrast_by"] = context.plan.through
        labels = (
            {} if recompute else read_labels(store, selection, settings_hash(described), request.top, crop=request.crop)
        )
        missing = selection.without(labels)
    if len(missing.neurons):
        computed = _compute(store, missing, request, candidates, described, keep, context, either)
        labels |= {label.neuron.neuron: label for label in computed}
    return labels


class _Either(Protocol):
    def __call__(self, work: Callable[[], Value]) -> Value: ...


def _by_torch(work: Callable[[], Value]) -> Value:
    return work()


def _by_numpy_or_torch(work: Callable[[], Value]) -> Value:
    """Return what the work returns, which writes nothing: by NumPy, or else from its start by torch.

    What `tensors` lacks by NumPy raises AttributeError or TypeError; another cause is raised by torch's turn again.
    """
    if not library.torch_is_loaded():
        with suppress(AttributeError, TypeError), library.by_numpy():
            return work()
    return work()


def _suits_numpy(selection: Selection, request: LabelRequest, context: ComputeContext) -> bool:
    """Return whether the work may be small: a few neurons, and scores that are products of single vectors."""
    kinds = set(request.examples.kinds) if request.info.needs_contrast else set()
    few = len(selection.neurons) <= _FEW and selection.pool is None and not request.crop
    return few and kinds <= {"nearest"} and context.device in ("auto", "cpu") and scoring.by_vectors(request.method)


def _with_plan(store: Store, selection: Selection, request: LabelRequest, context: ComputeContext) -> ComputeContext:
    activating = activating_examples(store, selection, request.examples)
    return with_plan(store, selection, activating, request.examples, context)


def _compute(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    described: dict[str, object],
    keep: bool,
    context: ComputeContext,
    either: _Either,
) -> list[Label]:
    """Return the labels of neurons; with `keep` they are stored, under the write lock."""
    context = replace(context, keep=keep)
    with store.write_lock() if keep else nullcontext():
        texts = either(candidates)
        check_texts(selection, request, texts)

        def ranked(pipeline: Pipeline) -> Ranking:
            own = texts if isinstance(texts.embeddings, torch.Tensor) else candidates()  # read by NumPy, in vain
            activating = activating_examples(store, selection, request.examples)
            listed = context.plan is not None and context.plan.listed
            sizes = len(selection.neurons), activating.images, len(own.embeddings), selection.source.width
            with threads_for(label_products(request, *sizes, listed)):
                return pipeline.ranking(selection, request, own, activating)

        def computed() -> list[Label]:
            pipeline = Pipeline(store, context)
            ranking = ranked(pipeline)
            return labels_of(ranking, pipeline.summary(ranking))

        if not keep:
            return either(computed)
        models = {selection.source.what: selection.source.identity}
        with record_run(store, "label", described, models, request.examples.seed) as run:

            def with_rows() -> tuple[list[Label], LabelRows]:
                pipeline = Pipeline(store, replace(context, run_id=run.run_id))
                ranking = ranked(pipeline)
                with _without_collector():
                    summary = pipeline.summary(ranking)
                    digests = (
                        maps_digests(store, selection.target, selection.neurons.tolist()) if request.crop else None
                    )
                    rows = rows_of(ranking, summary, run.run_id, run.settings_hash, digests)
                    return labels_of(ranking, summary, run.run_id), rows

            labels, rows = either(with_rows)
            context.step("stored rows")
            write_labels(store, selection, rows, run.settings_hash, crop=request.crop)
            context.step(None)
        return labels


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause Python's collector of cycles while many objects are made that stay: it would look at all again and again.

    Measured for the labels of 16,384 neurons: 2.2 s instead of 4.9 s.
    """
    paused = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if paused:
            gc.enable()


def check_texts(selection: Selection, request: LabelRequest, texts: CandidateTexts) -> None:
    """Refuse, before a run is recorded, texts that could only fail in it."""
    if texts.embeddings.shape[1] != selection.source.width:
        raise LabelError(
            f"text embeddings have {texts.embeddings.shape[1]} dimensions, the encoder {selection.source.width}: "
            "expected embeddings of the same encoder"
        )
    if request.scoring.subtract_empty and texts.empty is None:
        raise LabelError("subtracting the empty template needs an encoder: arrays made elsewhere do not hold its text")
