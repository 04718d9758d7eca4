"""The CLIP-Dissect family of scores (arXiv 2204.10965): how well a label's similarities explain a neuron's top images.

Every function takes evidence and options and returns [M, C], higher is better, without fixed range. P is the matrix of
cosines of images and labels. Two of them have a prior that runs over the neurons of the same run, as published, so a
label depends on which neurons share the run; `prior="images"` takes the label's mean share over the dataset instead.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from csp_index.errors import LabelError
from csp_index.labelling.evidence import Evidence, neuron_blocks, weighted_rows
from csp_index.labelling.methods import METHODS
from csp_index.records import ScoringOptions

SOFT_SCALE, HARD_SCALE = 10.0, 2.0  # the multiplier of P before the softmax, of softWPMI and of WPMI
MEAN_SCALE = 0.1
_TOP = METHODS["clip-dissect"].examples
_FIRST, _LAST, _FLOOR = 0.998, 0.97, 1e-7
_HARD_WEIGHT = 0.6
_MEAN_FLOOR = 1e-6
_LEAST_COSINE = 1e-3  # of rank-reorder


def clip_dissect(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return CLIP-Dissect's softWPMI as published.

    p = softmax over labels of 10 P; the inclusion probability falls linearly from 0.998 to 0.97 over the top 100
    images; L = sum_i log(1 + p_in,i (p_i,t - 1)), with 1e-7 inside the logarithm; minus lambda log of the prior.
    """
    rank = torch.arange(evidence.activating.shape[1])
    inclusion = (_FIRST - rank / _TOP * (_FIRST - _LAST))[:, None]

    def term(shares: torch.Tensor) -> torch.Tensor:
        return shares.sub(1).mul_(inclusion).add_(1 + _FLOOR).log_()

    return _information(evidence, options, SOFT_SCALE, term, 1.0)


def wpmi(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return WPMI as published: L = sum_i log(p_i,t + 1e-7), p = softmax of 2 P, minus 0.6 log of the prior.

    Every one of the 28 top images counts in full, where softWPMI trusts them less the lower they rank.
    """
    return _information(evidence, options, HARD_SCALE, lambda shares: shares.add(_FLOOR).log_(), _HARD_WEIGHT)


def clip_dissect_mean(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return log(sum_i w_i softmax(P/10) + 1e-6) - lambda log mean_x softmax(P/10): the variant of CSP's code.

    Dividing by ten makes the softmax nearly flat; it is a weaker method than CLIP-Dissect and goes by its own name
    here. The labels then differ in the seventh digit, so this one is computed in float64.
    """
    shares = weighted_rows(
        evidence,
        evidence.activating,
        evidence.weights.double(),
        lambda cosines: (MEAN_SCALE * cosines.double()).softmax(1),
    )
    weight = 1.0 if options.prior_weight is None else options.prior_weight
    return (torch.log(shares + _MEAN_FLOOR) - weight * dataset_share(evidence).log()).float()


def rank_reorder(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return minus the error of ranking the top images by the label, at most 0: 0 is the neuron's own order.

    The activations a are dealt out again in the order of the label's cosines; the error is mean |a - dealt|^3, over its
    expectation under a random order, over the square root of the label's mean cosine. Departures from the published
    code: the top images are those of the example set (100 by default, only images that fire) and not 5 % of the
    dataset, so that no activations are read; the expectation is exact and not drawn five times; a mean cosine below
    0.001 counts as 0.001. Where all activations are equal there is no order to find, the error is 1 for every label,
    and the mean cosine decides. Equal cosines keep the neuron's order.
    """
    present = evidence.activating >= 0
    counts = present.sum(1).clamp(min=1)
    values = evidence.activations.clamp(min=0).masked_fill(~present, 0.0)
    values = values / values.amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    result = torch.empty(len(values), len(evidence.texts))
    for pick in neuron_blocks(evidence, 64 * values.shape[1]):  # few at a time: they stay in the cache
        here, count = present[pick], counts[pick, None]
        cosines = _cosines(evidence, pick).transpose(1, 2).contiguous()  # [b, C, K]
        mean = cosines.masked_fill_(~here[:, None], 0.0).sum(2) / count
        cosines.masked_fill_(~here[:, None], -torch.inf)
        order = cosines.sort(dim=2, descending=True, stable=True).indices
        own = values[pick, None].expand(cosines.shape)
        apart = own.gather(2, order).sub_(own).abs_()
        error = (apart * apart).mul_(apart).sum(2) / count
        both = here[:, :, None] & here[:, None]
        gaps = (values[pick][:, :, None] - values[pick][:, None]).abs().pow(3)
        expected = (gaps * both).sum((1, 2))[:, None] / count.square()
        share = torch.where(expected > 0, error / expected.clamp(min=torch.finfo(torch.float32).tiny), 1.0)
        result[pick] = -share / mean.clamp(min=_LEAST_COSINE).sqrt()
    return result


def dataset_share(evidence: Evidence) -> torch.Tensor:
    """Return the labels' mean share over the dataset, float64 [C]."""
    if evidence.label_share is None:
        raise LabelError("this method needs the labels' mean share over the dataset, and none was computed")
    return evidence.label_share


def _information(
    evidence: Evidence,
    options: ScoringOptions,
    scale: float,
    term: Callable[[torch.Tensor], torch.Tensor],
    weight: float,
) -> torch.Tensor:
    """Return sum_i term(p_i) - lambda log of the prior; p = softmax over labels of scale P, `weight` the own lambda."""
    present = evidence.activating >= 0
    likelihood = torch.empty(len(present), len(evidence.texts))
    for pick in neuron_blocks(evidence, 2 * present.shape[1]):
        terms = term(_cosines(evidence, pick, scale))
        likelihood[pick] = terms.masked_fill_(~present[pick][..., None], 0.0).sum(1)
    if options.prior == "images":
        share = dataset_share(evidence).float()
        prior = present.float() @ term(share.expand(present.shape[1], -1))
    else:
        live = present.any(1)
        prior = likelihood[live].logsumexp(0, keepdim=True) - torch.log(live.sum().clamp(min=1))
    return likelihood - (weight if options.prior_weight is None else options.prior_weight) * prior


def _cosines(evidence: Evidence, pick: slice, scale: float | None = None) -> torch.Tensor:
    """Return the cosines of the picked neurons' activating images with all labels [b, K, C], or their softmax."""
    used, inverse = evidence.activating[pick].clamp(min=0).unique(return_inverse=True)
    rows = evidence.vectors[used] @ evidence.texts.T
    return (rows if scale is None else (scale * rows).softmax(1))[inverse]
