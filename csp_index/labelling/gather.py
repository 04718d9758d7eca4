"""What scores are computed from: embeddings of the example images, and a method's look at the whole dataset.

Functions of a store, each a pass over some of its vectors. Knows nothing about how results are cached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from csp_index.concurrency import checked, go_on
from csp_index.contrast.embeddings import all_embeddings, give_back
from csp_index.contrast.examples import Examples
from csp_index.contrast.pool import pool_embeddings
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.labelling import scoring
from csp_index.labelling.candidates import Ownership
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.linear.correlation import (
    CorrelationSums,
    ListedSums,
    Moments,
    TextStatistics,
    text_statistics,
)
from csp_index.labelling.linear.explanation import Explanation, fit_terms, shortlist
from csp_index.labelling.linear.stored_statistics import kept_statistics
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.response.dataset_sums import DatasetSums, dataset_sums, log_totals
from csp_index.labelling.response.images_looked_at import LookedAt
from csp_index.labelling.response.leader_ranks import LeaderRanks
from csp_index.labelling.response.response_sums import FiringSums, WholeSums
from csp_index.labelling.response.screening import OneNeuron, best_scores
from csp_index.labelling.response.stored_sums import kept_sums
from csp_index.labelling.response.views import Response, Saturation
from csp_index.ordering import leaders_of, seeded_sample
from csp_index.store.tables import Store
from csp_index.store.values.derived_images import is_derived
from csp_index.tensors import library
from csp_index.tensors.library import torch

Check = Callable[[], None]
"""Called for every tile of a pass; raises to end the work."""

_LEADERS = 24  # labels of each neuron for which the order of the images is computed
_STATISTICS = ("mean", "std", "min", "max")
_VALIDATING = 1 << 42  # makes the images that validate differ from the draws of splits with the same seed
_MANY = 256  # neurons, after whose sums freed memory is returned
_SCREENED = 2048  # candidates; fewer take less time than to find out which matter
_RANKED_AT_ONCE = 2048  # neurons; bounds the memory of that pass


def read_evidence(
    store: Store, selection: Selection, examples: Examples, *, with_mean: bool, check: Check = go_on
) -> Evidence:
    """Return the evidence of example sets, without candidates: the embeddings that they name.

    `with_mean` adds the mean embedding of the dataset, which takes a pass over it.
    """
    ids = torch.cat([examples.activating.flatten(), examples.contrastive.flatten()])
    used = ids[ids >= 0].unique()
    vectors = all_embeddings(store, selection.source, examples.images).lasting(used)

    def places(images: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(used, images.clamp(min=0)).masked_fill(images < 0, -1)

    return Evidence(
        vectors if len(vectors) else torch.zeros(1, selection.source.width),
        places(examples.activating),
        examples.activations,
        places(examples.contrastive),
        torch.zeros(0, selection.source.width),
        _dataset_mean(store, selection, examples.images, check) if with_mean else None,
        neurons=examples.neurons,
        similarities=examples.similarities,
        partners=examples.of_each_kind,
        images=used,
    )


def _dataset_mean(store: Store, selection: Selection, images: int, check: Check) -> torch.Tensor:
    """Return the mean embedding [D] of the images that the answer rests on; that of all images is computed once."""
    if selection.pool is None:
        source, every = selection.source, torch.ones(images, dtype=torch.bool)
        make, variant = partial(_mean_of, store, selection, every, check), (images, library.name())
        return store.memo(source.table, "mean", make, variant=variant)
    return _mean_of(store, selection, selection.pool.mask, check)


def _mean_of(store: Store, selection: Selection, mask: torch.Tensor, check: Check) -> torch.Tensor:
    total = torch.zeros(selection.source.width, dtype=torch.float64)
    for tile in checked(pool_embeddings(store, selection.source, mask), check):
        total += tile.sum(0, dtype=torch.float64)
    return (total / int(mask.sum())).float()


def read_sums(
    store: Store,
    selection: Selection,
    images: int,
    texts: torch.Tensor,
    scale: float,
    key: str,
    *,
    keep: bool,
    check: Check = go_on,
) -> DatasetSums:
    """Return the sums over the images that the answer rests on, for texts [C, D], from one pass over their embeddings.

    Those over all images are stored under `key` (`stored_sums.sums_key`) if `keep`, and read if they are stored.
    """

    def made(mask: torch.Tensor) -> DatasetSums:
        return dataset_sums(checked(pool_embeddings(store, selection.source, mask), check), texts, scale)

    if selection.pool is not None:
        return made(selection.pool.mask)
    return kept_sums(store, selection.source, key, images, lambda first: made(torch.arange(images) >= first), keep=keep)


def image_totals(selection: Selection, sums: DatasetSums, evidence: Evidence, scale: float) -> torch.Tensor:
    """Return the totals [I] of the images behind the evidence's vectors, also of derived ones: see `Evidence`."""
    ids = evidence.images
    if ids is None or not len(ids):
        return log_totals(evidence.vectors, evidence.texts, scale)
    made = is_derived(ids)
    totals = torch.empty(len(ids))
    totals[~made] = sums.totals[_places(selection, ids[~made])]
    totals[made] = log_totals(evidence.vectors[made], evidence.texts, scale)
    return totals


def _places(selection: Selection, ids: torch.Tensor) -> torch.Tensor:
    """Return the places of images among those that the answer rests on."""
    return ids if selection.pool is None else torch.searchsorted(selection.pool.mask.nonzero()[:, 0], ids)


def dataset_response(
    store: Store,
    selection: Selection,
    request: LabelRequest,
    images: int,
    evidence: Evidence,
    sums: DatasetSums,
    own: Ownership | None = None,
    check: Check = go_on,
    best: int | None = None,
) -> Response:
    """Return the response of the neurons to all images, from the images on which they fire and their contrastive ones.

    For a method that needs the leaders' precision, a second look follows, at all images, for the leading labels. With
    `best`, no more than the response of that many best labels may be needed: for few neurons, the others are then left
    out as soon as they cannot be among these, and their scores come out at most as high as they are.
    """
    info, scale = request.formula.info, request.dataset_scale
    if scale is None:
        raise LabelError(f"method {request.method} looks at the response to all images, and names no scale for it")
    saturation = Saturation.of(evidence.activations)
    looked_at = LookedAt(store, selection, _pool_mask(selection, images), sums.totals, check)
    bound = request.formula.bound
    if best is not None and bound is not None and looked_at.is_of_few and len(evidence.texts) > _SCREENED:
        count = max(best, _LEADERS)
        first, scores = _screened(looked_at, request, bound, evidence, sums, saturation, scale, own, count)
    else:
        adder = (
            FiringSums(saturation, evidence.texts, scale)
            if info.needs_firing
            else WholeSums(saturation, evidence.texts, scale, sums)
        )
        for part in looked_at.images_of(evidence, saturation, only_firing=info.needs_firing):
            adder.add(part.embeddings, part.totals, part.activations, part.silent)
        first = adder.finish()
        del adder
        if not info.needs_leaders:
            return first
        scores = scoring.score(request.method, replace(evidence, response=first), request.scoring).scores
    masked = scores if own is None else own.mask(scores.clone(), evidence.neuron_numbers)
    leaders = leaders_of(masked, min(_LEADERS, scores.shape[1]))
    if first.firing is not None:  # the scores of all candidates are known, and confidence looks at leaders alone
        first = Response(leading=scores, leaders=first.firing.of_leaders(leaders))
        if len(leaders) > _MANY:
            give_back()
    precision = torch.zeros(scores.shape)
    for start in range(0, len(leaders), _RANKED_AT_ONCE):
        pick = slice(start, start + _RANKED_AT_ONCE)
        ranks = LeaderRanks(sums, evidence.texts, saturation.of_neurons(pick), leaders[pick])
        for embeddings, activations in looked_at.all_images(pick):
            ranks.add(embeddings, activations)
        precision[pick].scatter_(1, leaders[pick], ranks.finish())
    return replace(first, precision=precision)


def read_statistics(
    store: Store, selection: Selection, images: int, texts: torch.Tensor, key: str, *, keep: bool, check: Check = go_on
) -> TextStatistics:
    """Return the statistics of texts [C, D] over the images that the answer rests on; kept as in `read_sums`."""
    mask = _pool_mask(selection, images)

    def made() -> TextStatistics:
        return text_statistics(lambda: checked(pool_embeddings(store, selection.source, mask), check), texts)

    if selection.pool is not None:
        return made()
    return kept_statistics(store, selection.source, key, images, made, keep=keep)


def _screened(
    looked_at: LookedAt,
    request: LabelRequest,
    bound: scoring.Score,
    evidence: Evidence,
    sums: DatasetSums,
    saturation: Saturation,
    scale: float,
    own: Ownership | None,
    count: int,
) -> tuple[Response, torch.Tensor]:
    """Return the response of few neurons, and scores [M, C]: right for the `count` best labels of each.

    See `labelling.response.screening`.
    """
    parts, scores = [], []

    def at_most(some: Evidence) -> torch.Tensor:
        return bound(some, request.scoring)

    def score(some: Evidence) -> torch.Tensor:
        return scoring.score(request.method, some, request.scoring).scores

    for row in range(len(evidence.activating)):
        pick = slice(row, row + 1)
        alone, only = evidence.of_neurons(pick), saturation.of_neurons(pick)
        look = OneNeuron(alone, only, scale, sums, looked_at, row, only_firing=request.formula.info.needs_firing)
        bounds = look.bounds(at_most)
        if own is not None:
            bounds = own.mask(bounds[None], alone.neuron_numbers)[0]
        scores.append(best_scores(bounds, count, partial(look.exact, bound=at_most, score=score)).clamp(min=0))
        parts.append(look.response)
    return Response.joined(parts), torch.stack(scores)


def dataset_explanation(
    store: Store,
    selection: Selection,
    images: int,
    evidence: Evidence,
    statistics: TextStatistics,
    *,
    with_terms: bool,
    seed: int = 0,
    own: Ownership | None = None,
    check: Check = go_on,
) -> Explanation:
    """Return the neurons' correlations with all candidates over all images; with terms, their weighted sums, too.

    One pass over all pairs, which for few neurons leaves out images on which they are 0, and a second one for the sums.
    Of the images a third, chosen by a hash of their ids and `seed`, validates the sums; the others choose them.
    """
    mask, rows = _pool_mask(selection, images), selection.statistics(store)
    mean, deviation, low, high = (torch.from_numpy(rows[name].to_numpy().copy()) for name in _STATISTICS)
    moments, texts = Moments.known(mean, deviation), evidence.texts
    looked_at = LookedAt(store, selection, mask, torch.zeros(0), check)
    first = CorrelationSums(moments, texts, statistics, only_varying=looked_at.leaves_out)
    for embeddings, activations in looked_at.varying_images():
        first.add(embeddings, activations)
    correlation = first.finish()
    if not with_terms:
        return Explanation(correlation)
    ranked = correlation if own is None else own.mask(correlation.clone(), evidence.neuron_numbers)
    listed = shortlist(ranked).masked_fill((low == high)[:, None], -1)
    second = ListedSums(moments, texts, statistics, listed.clamp(min=0))
    validates = _third(mask.nonzero()[:, 0], seed)
    seen = 0
    for embeddings, activations in looked_at.all_images(slice(None)):
        second.add(embeddings, activations, validates[seen : seen + len(embeddings)])
        seen += len(embeddings)
    highest = torch.where(high > 0, high, torch.maximum(low.abs(), high.abs())).clamp(min=1e-30)
    terms = fit_terms(listed, second.parts(), moments, statistics.presence, highest, statistics.sigmoids)
    return Explanation(correlation, terms)


def _third(ids: torch.Tensor, seed: int) -> torch.Tensor:
    """Return which of the image ids [n] are in a third that a seeded hash of the ids picks, [n] bool."""
    picked = torch.zeros(len(ids), dtype=torch.bool)
    picked[seeded_sample(ids, len(ids) // 3, _VALIDATING + seed)] = True
    return picked


def _pool_mask(selection: Selection, images: int) -> torch.Tensor:
    """Return which images [N] the answer rests on."""
    return torch.ones(images, dtype=torch.bool) if selection.pool is None else selection.pool.mask
