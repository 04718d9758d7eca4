"""Neurons to labels: examples, candidates and scoring brought together, and the answers kept in the store.

A label is kept under the hash of everything it depends on, so asking again reads it and asking otherwise never does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from csp_index.concurrency import one_thread
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.embeddings import release
from csp_index.contrast.examples import Examples, with_plan
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.labelling import scoring
from csp_index.labelling.candidates import CandidateTexts, Ownership
from csp_index.labelling.confidence import Confidence, bootstrap
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.gather import dataset_share, gather, with_response, with_texts
from csp_index.labelling.label_store import (
    KEPT,
    Made,
    Ranking,
    example_rows_of,
    label_rows_of,
    read_labels,
    write_labels,
)
from csp_index.labelling.request import LabelRequest, check_request, examples_described
from csp_index.labelling.scoring import Scored
from csp_index.ordering import leaders_of
from csp_index.records import Label
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store

_FEW = 8  # neurons: so little work that more threads only stand in each other's way
_MANY = 256  # neurons; fewer are asked about in quick succession, with the embeddings at hand


@dataclass(frozen=True, slots=True)
class NeuronScores:
    """The example sets of M neurons, the scores [M, C] that rest on them, and each neuron's label state [M].

    The score of a candidate that is another neuron's is -inf; `own` says whose they are, None that all are everybody's.
    """

    request: LabelRequest
    examples: Examples
    evidence: Evidence
    scored: Scored
    states: np.ndarray
    own: Ownership | None = None

    @property
    def available(self) -> torch.Tensor:
        """How many candidates each neuron has, [M]."""
        scores = self.scored.scores
        if self.own is None:
            return torch.full((len(scores),), scores.shape[1])
        return self.own.available(self.examples.neurons)

    def leaders(self, count: int) -> torch.Tensor:
        """Return the places of the best candidates [M, count] at most, best first; others' may stand last."""
        if self.own is not None:
            count = max(1, min(count, int(self.available.max())))
        return leaders_of(self.scored.scores, count)

    def confidence(self, leaders: torch.Tensor) -> Confidence | None:
        """Return the confidence in the best candidates [M, L], or None where no resamples are asked for.

        That a neuron's only candidate comes first tells nothing: there is no rival to come before it.
        """
        if self.request.scoring.bootstrap == 0:
            return None
        scores, options = self.scored.scores, self.request.scoring
        found = bootstrap(self.request.method, self.evidence, options, scores, leaders)
        alone = self.available < 2
        share = found.share.masked_fill(alone[:, None], torch.nan)
        return replace(found, share=share, uncertain=found.uncertain | alone)


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
    """Return one Label a neuron, in neuron order: read where the store has it, computed and kept where not.

    `candidates` is called, under the write lock, only if something must be computed. `keep=False` writes nothing.
    """
    context = context or ComputeContext()
    described = _describe(selection, request, candidates_key, selection.images(store))
    if context.depends is not None and scoring.method(request.method).info.needs_contrast:
        described |= context.depends(request.examples)
    found = {} if recompute else read_labels(store, selection, settings_hash(described), request)
    missing = [n for n in selection.neurons.tolist() if n not in found]
    if missing:
        part = replace(selection, neurons=np.array(missing, dtype=np.int64))
        if scoring.method(request.method).info.needs_contrast:
            context = with_plan(store, part, request.examples, context)
        if context.plan is not None and context.plan.approximate:  # another question: its answer may be another
            described["contrast_by"] = context.plan.through
            found |= {} if recompute else read_labels(store, part, settings_hash(described), request)
            part = replace(part, neurons=np.array([n for n in missing if n not in found], dtype=np.int64))
        if len(part.neurons):
            found |= _make(store, part, request, candidates, described, keep, context)
    if found and context.explain is not None and len(missing) < len(selection.neurons):
        context.tell(f"{len(selection.neurons) - len(missing):,} labels read from the index: made before, the same way")
    return [found[neuron] for neuron in selection.neurons.tolist()]


def _make(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    described: dict[str, object],
    keep: bool,
    context: ComputeContext,
) -> dict[int, Label]:
    """Return the labels that had to be computed, by neuron; they are kept, under the write lock, if asked."""
    context = replace(context, keep=keep)
    with store.write_lock() if keep else nullcontext():
        texts = candidates()
        check_texts(store, selection, request, texts)
        if not keep:
            with one_thread(context.plan is not None and context.plan.listed and len(selection.neurons) <= _FEW):
                return _compute(store, selection, request, texts, "", "", context).labels(selection, request.top)
        models = {selection.source.what: selection.source.identity}
        with record_run(store, "label", described, models, request.examples.seed) as run:
            context = replace(context, run_id=run.run_id)
            made = _compute(store, selection, request, texts, run.run_id, run.settings_hash, context)
            write_labels(store, selection, made, run.settings_hash)
        return made.labels(selection, request.top)


def score_neurons(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    texts: CandidateTexts,
    context: ComputeContext | None = None,
) -> NeuronScores:
    """Return the scores of all candidates for the selected neurons, from the images of its pool; stores nothing."""
    gathered = gather(store, selection, request, context)
    evidence = with_texts(gathered.evidence, request, texts)
    scale = scoring.method(request.method).background(request.scoring)
    if scale is not None:
        share = dataset_share(store, selection, gathered.examples.images, evidence.texts, scale)
        evidence = replace(evidence, label_share=share)
    if len(selection.neurons) > _MANY:
        release(store)  # the scores of many neurons need the memory, and the next question may be long in coming
    if scoring.method(request.method).info.needs_response:
        evidence = with_response(store, selection, request, evidence, texts.own)
    return score_evidence(request, gathered.examples, evidence, texts.own)


def score_evidence(
    request: LabelRequest, examples: Examples, evidence: Evidence, own: Ownership | None = None
) -> NeuronScores:
    """Return the scores of all candidates from evidence that has all its method needs."""
    scored = scoring.score(request.method, evidence, request.scoring)
    states = states_of(request, examples)
    if own is not None:
        scored = replace(scored, scores=own.mask(scored.scores, examples.neurons))
        none = (own.available(examples.neurons) == 0).numpy()
        states = np.where(none & (states != "dead"), "no-candidates", states)
    return NeuronScores(request, examples, evidence, scored, states, own)


def states_of(request: LabelRequest, examples: Examples) -> np.ndarray:
    """Return the label state [M] of neurons with these example sets, as long as candidates are everybody's."""
    missing = examples.without_contrast & scoring.method(request.method).info.needs_contrast
    found: np.ndarray = np.where(examples.dead, "dead", np.where(missing, "no-contrast", "labelled"))
    return found


def _describe(selection: Selection, request: LabelRequest, candidates_key: str, images: int) -> dict[str, object]:
    row = scoring.method(request.method)
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
    if row.info.over_run and request.scoring.prior == "neurons":
        described["neurons"] = selection.neurons.tolist()
    if row.info.needs_contrast is False:
        described["examples"] = {"examples": request.examples.examples, "floor": request.examples.floor}
    return described


def _compute(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    texts: CandidateTexts,
    run_id: str,
    hashed: str,
    context: ComputeContext,
) -> Made:
    return made_of(selection, score_neurons(store, selection, request, texts, context), texts.texts, run_id, hashed)


def made_of(
    selection: Selection, found: NeuronScores, texts: Sequence[str], run_id: str = "", hashed: str = ""
) -> Made:
    """Return the labels that scores amount to, with the confidence in them, as the rows that may be stored."""
    request = found.request
    best = found.leaders(max(KEPT, request.top))
    confidence = found.confidence(best[:, :KEPT])
    ranking = Ranking(
        found.scored.scores.gather(1, best), best, texts, found.states, confidence, found.available.numpy()
    )
    label_rows = label_rows_of(selection, request, found.examples, ranking, run_id, hashed)
    example_rows = example_rows_of(selection, request, found.examples, run_id)
    return Made(label_rows, example_rows, found.scored.vectors, found.examples.images)


def check_texts(store: Store, selection: Selection, request: LabelRequest, texts: CandidateTexts) -> None:
    """Refuse, before a run is recorded, what could only fail in it: texts of another space, and as `check_request`."""
    if texts.embeddings.shape[1] != selection.source.width:
        raise LabelError(
            f"text embeddings have {texts.embeddings.shape[1]} dimensions, the encoder {selection.source.width}: "
            "expected embeddings of the same encoder"
        )
    if request.scoring.subtract_empty and texts.empty is None:
        raise LabelError("subtracting the empty template needs an encoder: arrays made elsewhere do not hold its text")
    check_request(store, selection, request)
