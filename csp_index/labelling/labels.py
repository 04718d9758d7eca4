"""Labels of neurons: read from the store where an earlier run stored them, else computed and stored.

A label is stored under the hash of everything it depends on: the same request reads it, a different one never does.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace

import numpy as np

from csp_index.concurrency import one_thread
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.examples import Examples, activating_examples, with_plan
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.label_store import read_labels, rows_of, write_labels
from csp_index.labelling.label_values import KEPT, labels_of
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import LabelRequest, examples_described
from csp_index.records import Label
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store

_FEW = 8  # neurons: so little work that several threads only get in each other's way


def label_neurons(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    candidates_key: str,
    *,
    recompute: bool = False,
    keep: bool = True,
    context: ComputeContext | None = None,
) -> list[Label]:
    """Return one Label per neuron, in neuron order: read if the store has it, else computed and stored.

    `candidates` is called, under the write lock, only if something must be computed. `keep=False` writes nothing.
    """
    context = context or ComputeContext()
    needs_contrast = request.formula.info.needs_contrast
    described = _describe(selection, request, candidates_key, selection.images(store))
    if context.depends is not None and needs_contrast:
        described |= context.depends(request.examples)
    labels = {} if recompute else read_labels(store, selection, settings_hash(described), request)
    missing = _without(selection, labels)
    count = len(missing.neurons)
    if count:
        _ = request.dataset_scale  # refused before anything is written
        activating = activating_examples(store, missing, request.examples)
        if needs_contrast:
            context = with_plan(store, missing, activating, request.examples, context)
        if context.plan is not None and context.plan.approximate:  # its labels may differ, so they have their own hash
            described["contrast_by"] = context.plan.through
            labels |= {} if recompute else read_labels(store, missing, settings_hash(described), request)
            missing = _without(selection, labels)
        if len(missing.neurons):
            if len(missing.neurons) < count:
                activating = activating_examples(store, missing, request.examples)
            computed = _compute(store, missing, request, candidates, activating, described, keep, context)
            labels |= {label.neuron.neuron: label for label in computed}
    if labels and context.explain is not None and count < len(selection.neurons):
        context.tell(f"{len(selection.neurons) - count:,} labels read from the index: made before, the same way")
    return [labels[neuron] for neuron in selection.neurons.tolist()]


def _without(selection: Selection, labels: dict[int, Label]) -> Selection:
    """Return the selection's neurons that have no label yet."""
    neurons = [neuron for neuron in selection.neurons.tolist() if neuron not in labels]
    return replace(selection, neurons=np.array(neurons, dtype=np.int64))


def _compute(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    activating: Examples,
    described: dict[str, object],
    keep: bool,
    context: ComputeContext,
) -> list[Label]:
    """Return the labels of neurons with these activating sets; with `keep` they are stored, under the write lock."""
    context = replace(context, keep=keep)
    with store.write_lock() if keep else nullcontext():
        texts = candidates()
        check_texts(selection, request, texts)
        if not keep:
            pipeline = Pipeline(store, context)
            with one_thread(context.plan is not None and context.plan.listed and len(selection.neurons) <= _FEW):
                ranking = pipeline.ranking(selection, request, texts, activating)
                return labels_of(ranking, pipeline.summary(ranking))
        models = {selection.source.what: selection.source.identity}
        with record_run(store, "label", described, models, request.examples.seed) as run:
            pipeline = Pipeline(store, replace(context, run_id=run.run_id))
            ranking = pipeline.ranking(selection, request, texts, activating)
            with _without_collector():
                summary = pipeline.summary(ranking)
                rows = rows_of(ranking, summary, run.run_id, run.settings_hash)
                labels = labels_of(ranking, summary, run.run_id)
            write_labels(store, selection, rows, run.settings_hash)
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


def _describe(selection: Selection, request: LabelRequest, candidates_key: str, images: int) -> dict[str, object]:
    info = request.formula.info
    described: dict[str, object] = {
        "encoder": selection.source.name,
        "encoder_identity": selection.source.identity,
        "layer": str(selection.target.key),
        "layer_identity": selection.target.identity,
        "images": images,
        "method": request.method,
        "examples": examples_described(request.examples),
        "scoring": asdict(request.scoring),
        "candidates": candidates_key,
        "kept": max(KEPT, request.top),
    }
    if info.over_run and request.scoring.prior == "neurons":
        described["neurons"] = selection.neurons.tolist()
    if info.needs_contrast is False:
        described["examples"] = {"examples": request.examples.examples, "floor": request.examples.floor}
    return described


def check_texts(selection: Selection, request: LabelRequest, texts: CandidateTexts) -> None:
    """Refuse, before a run is recorded, texts that could only fail in it."""
    if texts.embeddings.shape[1] != selection.source.width:
        raise LabelError(
            f"text embeddings have {texts.embeddings.shape[1]} dimensions, the encoder {selection.source.width}: "
            "expected embeddings of the same encoder"
        )
    if request.scoring.subtract_empty and texts.empty is None:
        raise LabelError("subtracting the empty template needs an encoder: arrays made elsewhere do not hold its text")
