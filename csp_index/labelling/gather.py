"""What labels rest on, before candidates are scored: example sets, embeddings, and a method's look at all images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.embeddings import all_embeddings
from csp_index.contrast.examples import Examples, gather_examples
from csp_index.contrast.selection import Selection, pool_embeddings, pool_pairs
from csp_index.errors import LabelError
from csp_index.labelling import scoring
from csp_index.labelling.candidates import CandidateTexts, Ownership
from csp_index.labelling.evidence import Evidence, label_share
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.response import LeaderRanks, ResponseSums
from csp_index.labelling.scoring import ScoringMethod
from csp_index.ordering import leaders_of
from csp_index.store.tables import Store

_LEADERS = 24  # labels of a neuron whose order of the images is looked at
_RANKED_AT_ONCE = 2048  # neurons; bounds the memory of that look


@dataclass(frozen=True, slots=True)
class Gathered:
    """What labels rest on, whatever the candidates: the example sets of M neurons and evidence without texts."""

    examples: Examples
    evidence: Evidence


def gather(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    context: ComputeContext | None = None,
    examples: Examples | None = None,
) -> Gathered:
    """Return the example sets of the selected neurons with the embeddings of their images; neither knows candidates.

    They hang on the method and on `request.examples`, and on nothing else of the request. `examples` are the sets,
    where they are known already.
    """
    row = scoring.method(request.method)
    if examples is None:
        examples = gather_examples(
            store, selection, request.examples, contrast=row.info.needs_contrast, context=context
        )
    return Gathered(examples, _evidence(store, selection, examples, row))


def with_texts(evidence: Evidence, request: LabelRequest, texts: CandidateTexts) -> Evidence:
    """Return the evidence with the candidates as the request wants their embeddings: at unit length or as they are."""
    if not request.scoring.renormalise_text:
        return replace(evidence, texts=texts.embeddings, empty_text=texts.empty)
    empty = None if texts.empty is None else torch.nn.functional.normalize(texts.empty, dim=0)
    return replace(evidence, texts=texts.directions, empty_text=empty)


def _evidence(store: Store, selection: Selection, examples: Examples, row: ScoringMethod) -> Evidence:
    """Read the embeddings that the examples name, and the dataset's mean where the method looks at it."""
    ids = torch.cat([examples.activating.flatten(), examples.contrastive.flatten()])
    used = ids[ids >= 0].unique()
    vectors = all_embeddings(store, selection.source, examples.images).of(used)

    def places(chosen: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(used, chosen.clamp(min=0)).masked_fill(chosen < 0, -1)

    return Evidence(
        vectors if len(vectors) else torch.zeros(1, selection.source.width),
        places(examples.activating),
        examples.activations,
        places(examples.contrastive),
        torch.zeros(0, selection.source.width),
        _dataset_mean(store, selection, examples.images) if row.info.needs_mean else None,
        neurons=examples.neurons,
        similarities=examples.similarities,
        partners=examples.of_each_kind,
    )


def _dataset_mean(store: Store, selection: Selection, images: int) -> torch.Tensor:
    """Return the mean embedding [D] of the images the answer rests on."""
    mask = _seen(selection, images)
    total = torch.zeros(selection.source.width, dtype=torch.float64)
    for tile in pool_embeddings(store, selection.source, mask):
        total += tile.sum(0, dtype=torch.float64)
    return (total / int(mask.sum())).float()


def dataset_share(store: Store, selection: Selection, images: int, texts: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the mean share of the texts [C, D] over the images the answer rests on, float64 [C]: see `Evidence`."""
    mask = _seen(selection, images)
    share = torch.zeros(len(texts), dtype=torch.float64)
    for tile in pool_embeddings(store, selection.source, mask):
        share += label_share(tile, texts, scale)
    return share / int(mask.sum())


def _seen(selection: Selection, images: int) -> torch.Tensor:
    """Return which images [N] the answer rests on."""
    return torch.ones(images, dtype=torch.bool) if selection.pool is None else selection.pool.mask


def with_response(
    store: Store, selection: Selection, request: LabelRequest, evidence: Evidence, own: Ownership | None = None
) -> Evidence:
    """Add the response of the neurons to all images: one pass for all labels, and one for the leading ones."""
    scale = scoring.method(request.method).background(request.scoring)
    if scale is None:
        raise LabelError(f"method {request.method} looks at the response to all images, and names no scale for it")
    mask = _seen(selection, selection.images(store))
    sums = ResponseSums(evidence.activations, evidence.texts, scale)
    for embeddings, activations in pool_pairs(store, selection, mask):
        sums.add(embeddings, activations)
    first = sums.finish()
    scores = scoring.score(request.method, replace(evidence, response=first), request.scoring).scores
    if own is not None:
        scores = own.mask(scores, evidence.neuron_numbers)
    leaders = leaders_of(scores, min(_LEADERS, scores.shape[1]))
    precision = torch.zeros(scores.shape)
    for start in range(0, len(leaders), _RANKED_AT_ONCE):
        pick = slice(start, start + _RANKED_AT_ONCE)
        ranks = LeaderRanks(sums, leaders[pick], pick)
        for embeddings, activations in pool_pairs(store, replace(selection, neurons=selection.neurons[pick]), mask):
            ranks.add(embeddings, activations)
        precision[pick] = precision[pick].scatter(1, leaders[pick], ranks.finish())
    return replace(evidence, response=replace(first, precision=precision))
