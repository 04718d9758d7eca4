"""How far a label can be trusted: bootstrap over a neuron's activating images. Pure tensor functions, no I/O.

A neuron's activating images, each with its activation and contrastive partners, are resampled with replacement, and the
method itself scores the leading candidates on every resample. This works for any method, also of another package: to
it, B resamples are B neurons. What a score takes from the other neurons of a run (the prior of clip-dissect and wpmi)
stays fixed: a resample counts as the change from the neuron's own images, which are scored together with it, and the
change is added to the score of the run.

Resampling measures how stable a label is, not whether it is right: a look that all images share misleads every
resample alike. For the share of first places each change is therefore doubled (as in a sample of a quarter of the
images), which brings the share closest to how often labels are right in the demo's worlds; intervals are not widened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from csp_index.concurrency import go_on
from csp_index.labelling.evidence import Evidence, GroupedShares, pair_products
from csp_index.labelling.response.silent_shares import mean_shares
from csp_index.labelling.scoring import FORMULAS, ScoringMethod, Terms, method, score
from csp_index.ordering import mix
from csp_index.records import ScoringOptions
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import spread

_BLOCK_BYTES, _MOST = 8 * 2**20, 4  # of the resamples in a block; neurons in a block at most
_TOTALS_BYTES = 64 * 2**20
_SUMS_BYTES = 16 * 2**20  # of a block, for methods whose vectors are sums
_MANY_IMAGES = 1024  # of a neuron: measured for 9,120 and 64 dimensions, 0.85 s of a core by products, 0.09 s by sums
_NOISE = 4e-6  # scores closer than this, relative to their size, are equal
_INTERVAL = (0.025, 0.975)
_WIDEN = 2.0  # factor of the changes in the share of first places


@dataclass(frozen=True, slots=True)
class Confidence:
    """The result of resampling for the leading candidates [M, L] of M neurons, best first.

    `low` and `high` bound 95 % of a candidate's scores. `share` in [0, 1] is the part of the resamples, their changes
    doubled, in which it comes first (equal scores share the place): a row sums to 1, its first entry is the confidence
    in the label. `uncertain` [M]: the 95 % interval of the lead over some rival reaches 0, or there is nothing to
    judge by: all resamples are alike (one activating image, or a method that uses none), or there is no activating
    image. Then the other values are NaN.
    """

    low: torch.Tensor
    high: torch.Tensor
    share: torch.Tensor
    uncertain: torch.Tensor


def bootstrap(
    name: str,
    evidence: Evidence,
    options: ScoringOptions,
    scores: torch.Tensor,
    leaders: torch.Tensor,
    check: Callable[[], None] = go_on,
) -> Confidence:
    """Return the confidence in the candidates `leaders` [M, L] (places, best first) given the run's `scores` [M, C].

    Draws `options.bootstrap` resamples per neuron, seeded by the neuron's number and `options.seed` alone. Candidates
    beyond the leaders count as never first. A leader whose score is -inf is not a candidate of the neuron: it is left
    out, and its values are NaN. `check` is called between blocks of neurons, and raises to end the work.
    """
    own = scores.gather(1, leaders)
    absent = own == -torch.inf
    own = own.masked_fill(absent, 0.0)
    low, high, share = (torch.full(own.shape, torch.nan) for _ in range(3))
    uncertain = torch.ones(len(own), dtype=torch.bool)
    row = method(name)
    base = _prepared(row, evidence, options)
    totals = _log_totals(evidence, row.softmax(options)) if _alone(row) and not row.pooled else None

    def resample(pick: slice) -> None:
        check()
        if row.terms is not None:
            block_scores = _reweighted(row.terms, base, options, leaders, pick)
        elif row.pooled:
            block_scores = _regrouped(name, base, options, leaders, pick)
        else:
            block_scores = _rescored(name, base, totals, options, leaders, pick)
        change = block_scores[:, 1:] - block_scores[:, :1]
        if gone := bool(absent[pick].any()):
            change = change.masked_fill(absent[pick, None], 0.0)
        moved = own[pick, None] + change
        noise = _NOISE * own[pick].abs().amax(1).clamp(min=1)[:, None]
        both = torch.cat([moved, moved[..., :1] - moved], 2)  # scores, and the lead of the first over each
        lows, highs = _quantiles(both)
        low[pick], lead = lows.chunk(2, dim=1)
        high[pick], _ = highs.chunk(2, dim=1)
        widened = moved + (_WIDEN - 1) * change
        if gone:
            widened = widened.masked_fill(absent[pick, None], -torch.inf)
            lead = lead.masked_fill(absent[pick], torch.inf)
        share[pick] = _first(widened, noise[..., None])
        still = (change.abs().amax(1) <= noise).all(1)
        uncertain[pick] = still | (lead[:, 1:] <= noise).any(1)
        for values in (low, high, share):
            values[pick] = values[pick].masked_fill(still[:, None], torch.nan)

    blocks = _blocks(row, evidence, options, leaders.shape[1])
    if name in FORMULAS:
        spread(resample, blocks)
    else:  # a method of another package may not expect to be called by several threads
        for block in blocks:
            resample(block)
    dead = (evidence.activating < 0).all(1)
    for values in (low, high, share):
        values[absent | dead[:, None]] = torch.nan
    return Confidence(low, high, share, uncertain | dead)


def _quantiles(values: torch.Tensor) -> torch.Tensor:
    """Return the ends [2, M, L] of the interval of values [M, B, L], as torch.quantile does with linear interpolation.

    NumPy sorts many short rows of floats ten times as fast as torch.
    """
    ordered = torch.from_numpy(np.sort(values.transpose(1, 2).contiguous().numpy(), axis=2))
    ranks = torch.tensor(_INTERVAL).double() * (ordered.shape[2] - 1)
    below, above = (ordered[..., ends.long()] for ends in (ranks.floor(), ranks.ceil()))
    ends = below.lerp(above, (ranks - ranks.floor()).float().expand_as(below).contiguous())
    return ends.masked_fill(ordered[..., -1:].isnan(), torch.nan).movedim(2, 0)


def _first(scores: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return the share of the resamples [M, B, L] in which each candidate is first, [M, L]; equals share the place."""
    first = (scores >= scores.amax(2, keepdim=True) - noise).float()
    return (first / first.sum(2, keepdim=True)).mean(1)


def _blocks(row: ScoringMethod, evidence: Evidence, options: ScoringOptions, leaders: int) -> Iterator[slice]:
    """Split the neurons so that the resamples of a block stay within bounded memory; small blocks fit the cache."""
    apart = row.info.needs_contrast and not row.pooled
    contrast = evidence.contrastive.flatten(1).shape[1] if apart else 0
    images = max(1, evidence.activating.shape[1] + contrast)
    if row.terms is not None:
        width = evidence.vectors.shape[1] + 4 * (options.bootstrap + 1)
        size = max(1, _SUMS_BYTES // (8 * images * width))
        yield from (slice(start, start + size) for start in range(0, len(evidence.activating), size))
        return
    each = 4 * (options.bootstrap + 1) * images
    # The candidates of a block are its neurons' leaders, so their memory grows with the square of the block.
    room = _BLOCK_BYTES // (each * (leaders if _alone(row) else len(evidence.texts)))
    size = max(1, min(_MOST, math.isqrt(room)))
    for start in range(0, len(evidence.activating), size):
        yield slice(start, start + size)


def _alone(row: ScoringMethod) -> bool:
    return row.alone or row.vector is not None


def _prepared(row: ScoringMethod, evidence: Evidence, options: ScoringOptions) -> Evidence:
    """Return the evidence with what all resamples share: the pairs' products, the texts for concept vectors."""
    if row.pooled:
        scale = row.softmax(options)
        totals = evidence.totals if scale is None else evidence.log_totals(scale)
        evidence = replace(evidence, similarities=None, totals=totals, partners=evidence.asked)
    elif row.info.needs_contrast:
        evidence = replace(evidence, similarities=pair_products(evidence))
    if row.vector is not None:
        evidence = replace(evidence, texts=row.directions(evidence, options))
    return replace(evidence, neurons=evidence.neuron_numbers, candidates=evidence.candidate_numbers)


def _log_totals(evidence: Evidence, scale: float | None) -> torch.Tensor | None:
    """Return log sum_t exp(scale T(t).e(x)) of every image, [I]."""
    if scale is None:
        return None
    rows = evidence.vectors.split(max(1, _TOTALS_BYTES // (4 * len(evidence.texts))))
    return torch.cat([(scale * (part @ evidence.texts.T)).logsumexp(1) for part in rows])


def _rescored(
    name: str,
    evidence: Evidence,
    totals: torch.Tensor | None,
    options: ScoringOptions,
    leaders: torch.Tensor,
    pick: slice,
) -> torch.Tensor:
    """Return the scores [b, 1 + B, L] of the picked neurons' leaders: on their own images, then on every resample."""
    row, columns = method(name), leaders[pick]
    local, used = _local(evidence, pick)
    if _alone(row):
        selected = columns.unique()
        local = local.of_candidates(selected)
        if totals is not None and len(selected) < len(evidence.texts):
            local = _with_rest(local, totals[used], row.softmax(options) or 1.0)
        columns = torch.searchsorted(selected, columns.contiguous())
    many = _resampled(local, draws(local, options))
    scores = row.vector(many, options) @ many.texts.T if row.vector is not None else score(name, many, options).scores
    scores = scores.view(len(columns), -1, scores.shape[1])
    return scores.gather(2, columns[:, None].expand(-1, scores.shape[1], -1))


def _regrouped(
    name: str, evidence: Evidence, options: ScoringOptions, leaders: torch.Tensor, pick: slice
) -> torch.Tensor:
    """Return the same as `_rescored` for a method to which contrastive images are their mean shares: [b, 1 + B, L].

    The shares of the partners of each activating image are averaged once, and a resample averages those.
    """
    row, columns = method(name), leaders[pick]
    selected = columns.unique()
    local = evidence.of_neurons(pick).of_candidates(selected)
    if row.info.needs_contrast:
        counts = local.partner_counts
        rows = torch.arange(counts.numel()).view(counts.shape).masked_fill(counts == 0, -1)
        means = mean_shares(local, local.contrastive.flatten(0, 1), row.softmax(options) or 1.0)
        local = replace(local, grouped=GroupedShares(means, rows, counts), contrastive=local.contrastive[..., :0])
    many = _resampled(local, draws(local, options))
    scores = score(name, many, options).scores.view(len(columns), -1, len(selected))
    columns = torch.searchsorted(selected, columns.contiguous())
    return scores.gather(2, columns[:, None].expand(-1, scores.shape[1], -1))


def _reweighted(
    terms: Callable[[Evidence, ScoringOptions], Terms],
    evidence: Evidence,
    options: ScoringOptions,
    leaders: torch.Tensor,
    pick: slice,
) -> torch.Tensor:
    """Return the same as `_rescored` for a method whose vector is a sum of embeddings: [b, 1 + B, L].

    Resamples differ in the weights alone, so each image is multiplied by each leader once, and the lengths of vectors
    come from the products between the images.
    """
    activating, contrastive = evidence.activating[pick], evidence.contrastive[pick]
    places = torch.cat([activating, contrastive.flatten(1)], 1)
    own = torch.arange(places.shape[1]).expand(places.shape).masked_fill(places < 0, -1)
    width = activating.shape[1]
    local = replace(
        evidence,
        activating=own[:, :width],
        activations=evidence.activations[pick],
        contrastive=own[:, width:].view(contrastive.shape),
        similarities=None if evidence.similarities is None else evidence.similarities[pick],
        neurons=evidence.neuron_numbers[pick],
    )
    summands = terms(_resampled(local, draws(local, options)), options)
    weights = torch.zeros(len(summands.places), places.shape[1], dtype=torch.float64)
    present = summands.weights.masked_fill(summands.places < 0, 0.0).double()
    weights.scatter_add_(1, summands.places.clamp(min=0), present)
    weights = weights.view(len(places), -1, places.shape[1])
    images = evidence.vectors[places.clamp(min=0)].double()
    texts = evidence.texts[leaders[pick]].double()
    scores = weights @ (images @ texts.mT)
    if images.shape[1] > _MANY_IMAGES:  # so many products between images take more than the sums themselves
        lengths = (weights @ images).square().sum(2)
    else:
        lengths = ((weights @ (images @ images.mT)) * weights).sum(2)
    if summands.constant is not None:
        constant = summands.constant.double()
        scores += (texts @ constant)[:, None]
        lengths += 2 * (weights @ (images @ constant)[..., None])[..., 0] + constant @ constant
    return (scores / lengths.clamp(min=1e-24).sqrt()[..., None]).float()


def draws(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return the places [M, 1 + B, K] of every resample's images among the neuron's own; -1 is absent.

    Resample 0 is the neuron's own set. The places ascend, so images stay in the order of activation.
    """
    width = evidence.activating.shape[1]
    count = (evidence.activating >= 0).sum(1)[:, None, None]
    place = torch.arange(width)
    seeds = mix(evidence.neuron_numbers, options.seed)[:, None, None]
    lots = mix(seeds ^ ((torch.arange(options.bootstrap)[:, None] << 32) + place), 1) >> 39
    places = (lots * count >> 24).masked_fill(place >= count, width).to(torch.int32)
    samples = torch.from_numpy(np.sort(places.numpy(), axis=2)).long()
    whole = torch.cat([place.expand(len(samples), 1, -1), samples], 1)
    return whole.masked_fill(place >= count, -1)


def _local(evidence: Evidence, pick: slice) -> tuple[Evidence, torch.Tensor]:
    """Return the evidence of the picked neurons alone, and the places [I'] of their images."""
    activating, contrastive = evidence.activating[pick], evidence.contrastive[pick]
    used = torch.cat([activating.flatten(), contrastive.flatten()]).clamp(min=0).unique()

    def places(images: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(used, images.clamp(min=0)).masked_fill(images < 0, -1)

    local = replace(
        evidence,
        vectors=evidence.vectors[used],
        activating=places(activating),
        activations=evidence.activations[pick],
        contrastive=places(contrastive),
        similarities=None if evidence.similarities is None else evidence.similarities[pick],
        response=None if evidence.response is None else evidence.response.of_neurons(pick),
        neurons=evidence.neuron_numbers[pick],
        totals=None if evidence.totals is None else evidence.totals[used],
        images=None,
    )
    return local, used


def _resampled(evidence: Evidence, samples: torch.Tensor) -> Evidence:
    """Return the evidence with every resample of every neuron as a neuron of its own."""
    count, many, _ = samples.shape
    rows = torch.arange(count)[:, None, None]

    def take(values: torch.Tensor) -> torch.Tensor:
        return values[rows, samples.clamp(min=0)].flatten(0, 1)

    absent, grouped = (samples < 0).flatten(0, 1), evidence.grouped
    if grouped is not None:
        own = take(grouped.rows).masked_fill(absent, -1)
        grouped = replace(grouped, rows=own, counts=take(grouped.counts).masked_fill(absent, 0))
    return replace(
        evidence,
        grouped=grouped,
        activating=take(evidence.activating).masked_fill(absent, -1),
        activations=take(evidence.activations).masked_fill(absent, 0.0),
        contrastive=take(evidence.contrastive).masked_fill(absent[..., None], -1),
        similarities=None if evidence.similarities is None else take(evidence.similarities),
        response=None if evidence.response is None else evidence.response.repeated(many),
        neurons=evidence.neuron_numbers.repeat_interleave(many),
    )


def _with_rest(evidence: Evidence, totals: torch.Tensor, scale: float) -> Evidence:
    """Return the evidence with one more candidate for all left-out ones, so that a softmax does not change.

    It comes last and has an axis of its own, on which an image's coordinate is the log-sum-exp of the left-out products
    divided by `scale`; `totals` [I] is the log-sum-exp of all products.
    """
    inside = (scale * (evidence.vectors @ evidence.texts.T)).logsumexp(1)
    outside = totals + torch.log((1 - (inside - totals).exp()).clamp(min=torch.finfo(torch.float32).tiny))
    axis = torch.zeros(1, evidence.texts.shape[1] + 1)
    axis[0, -1] = 1.0
    share = evidence.label_share
    return replace(
        evidence,
        vectors=torch.cat([evidence.vectors, outside[:, None] / scale], 1),
        texts=torch.cat([torch.nn.functional.pad(evidence.texts, (0, 1)), axis]),
        candidates=torch.cat([evidence.candidate_numbers, torch.tensor([-1])]),
        label_share=None if share is None else torch.cat([share, 1 - share.sum(0, keepdim=True)]),
        response=None if evidence.response is None else evidence.response.of_candidates(_every(evidence.texts), 1),
    )


def _every(rows: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(rows))
