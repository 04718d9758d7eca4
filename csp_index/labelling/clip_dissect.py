"""The CLIP-Dissect family of scores (arXiv 2204.10965): how well a label's similarities explain a neuron's top images.

Every function takes evidence and options and returns [M, C], higher is better, without fixed range. P is the matrix of
cosines of images and labels. Two of them have a prior that runs over the neurons of the same run, as published, so a
label depends on which neurons share the run; `prior="images"` takes the label's mean share over the dataset instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from csp_index.errors import LabelError
from csp_index.labelling.evidence import Evidence, bags
from csp_index.labelling.methods import METHODS
from csp_index.labelling.response.share_means import Weights
from csp_index.records import ScoringOptions
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import spread

SOFT_SCALE, HARD_SCALE = 10.0, 2.0  # the multiplier of P before the softmax, of softWPMI and of WPMI
MEAN_SCALE = 0.1
_TOP = METHODS["clip-dissect"].examples
_FIRST, _LAST, _FLOOR = 0.998, 0.97, 1e-7
_HARD_WEIGHT = 0.6
_MEAN_FLOOR = 1e-6
_LEAST_COSINE = 1e-3  # of rank-reorder
_LABELS = 512  # whose products with all images are computed at once
_WHOLE_BYTES = 64 * 2**20  # of the products of all images with all labels: up to this they are computed once
_BLOCK = 64 * 1024  # numbers worked on at once: they stay in a core's cache
_GAPS = 128  # neurons whose activations are compared at once
_LOW, _HIGH = (0, 1) if sys.byteorder == "little" else (1, 0)  # halves of a 64-bit number


def clip_dissect(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return CLIP-Dissect's softWPMI as published.

    p = softmax over labels of 10 P; the inclusion probability falls linearly from 0.998 to 0.97 over the top 100
    images; L = sum_i log(1 + p_in,i (p_i,t - 1)), with 1e-7 inside the logarithm; minus lambda log of the prior.
    """
    rank = torch.arange(evidence.activating.shape[1], dtype=torch.float64)
    inclusion = _FIRST - rank / _TOP * (_FIRST - _LAST)
    return _information(evidence, options, SOFT_SCALE, inclusion, 1 + _FLOOR - inclusion, 1.0)


def wpmi(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return WPMI as published: L = sum_i log(p_i,t + 1e-7), p = softmax of 2 P, minus 0.6 log of the prior.

    Every one of the 28 top images counts in full, where softWPMI trusts them less the lower they rank.
    """
    ones = torch.ones(evidence.activating.shape[1], dtype=torch.float64)
    return _information(evidence, options, HARD_SCALE, ones, _FLOOR * ones, _HARD_WEIGHT)


def clip_dissect_mean(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return log(sum_i w_i softmax(P/10) + 1e-6) - lambda log mean_x softmax(P/10): the variant of CSP's code.

    Dividing by ten makes the softmax nearly flat; it is a weaker method than CLIP-Dissect and goes by its own name
    here. The labels then differ in the seventh digit, so sums are of exp(P/10) - 1, which has these digits in float32.
    """
    products = _Products(evidence)
    powers = torch.empty(products.images, dtype=torch.float64)  # sum_t exp(P/10) of each image
    for images, cosines in products.by_images():
        powers[images] = cosines.shape[1] + cosines.mul_(MEAN_SCALE).expm1_().sum(1)
    weights = evidence.weights.double() / powers[products.places]
    rows, slots = (evidence.activating >= 0).nonzero(as_tuple=True)
    sparse = Weights(rows, products.places[rows, slots], weights[rows, slots].float())
    flat = weights.sum(1, keepdim=True)
    dataset = (1.0 if options.prior_weight is None else options.prior_weight) * dataset_share(evidence).log()
    result = torch.empty(len(weights), len(evidence.texts))

    def score(labels: slice) -> None:
        more = sparse.sums(len(weights), products.of(labels).mul_(MEAN_SCALE).expm1_())
        result[:, labels] = ((flat + more + _MEAN_FLOOR).log() - dataset[labels]).float()

    spread(score, products.by_labels())
    return result


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
    expected = torch.cat(
        [_expected_error(*parts) for parts in zip(values.split(_GAPS), counts.split(_GAPS), strict=True)]
    )
    means = bags(evidence.vectors, evidence.activating, evidence.even_weights)
    products = _Products(evidence)
    result = torch.empty(len(values), len(evidence.texts))

    def score(labels: slice) -> None:
        cosines = products.of(labels).T.contiguous()
        sums = _errors(cosines.numpy(), products.places.numpy(), present.numpy(), values.numpy())
        error = torch.from_numpy(sums).T / counts[:, None]
        share = torch.where(expected > 0, error / expected.clamp(min=torch.finfo(torch.float32).tiny), 1.0)
        mean = means @ evidence.texts[labels].T
        result[:, labels] = -share / mean.clamp_(min=_LEAST_COSINE).sqrt_()

    spread(score, products.by_labels())
    return result


def dataset_share(evidence: Evidence) -> torch.Tensor:
    """Return the labels' mean share over the dataset, float64 [C]."""
    if evidence.label_share is None:
        raise LabelError("this method needs the labels' mean share over the dataset, and none was computed")
    return evidence.label_share


def _expected_error(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the mean |a - a'|^3 over pairs of a neuron's activations, [m, 1], for rows [m, K] that end in zeros."""
    present = torch.arange(values.shape[1]) < counts[:, None]
    gaps = (values[:, :, None] - values[:, None]).abs_()
    cubes = (gaps * gaps).mul_(gaps).mul_(present[:, :, None] & present[:, None])
    return cubes.sum((1, 2))[:, None] / counts[:, None].square()


def _errors(cosines: np.ndarray, places: np.ndarray, present: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the sums |a - dealt|^3 over a neuron's images, [c, M], from cosines [c, U] of labels with all images.

    `places` [M, K] among those images; activations `values` [M, K] are 0 where no image is `present`.
    The order of the cosines comes from 64-bit keys, cosine above and place below: NumPy sorts short rows of them with
    vector instructions, 12 times as fast as torch sorts with places, and equal cosines stay in order.
    """
    labels, (neurons, images) = len(cosines), values.shape
    result = np.empty((labels, neurons), np.float32)
    many = max(1, min(neurons, _BLOCK // (images * min(labels, 64))))
    few = max(1, _BLOCK // (images * many))
    for first in range(0, labels, few):
        rows = cosines[first : first + few]
        for start in range(0, neurons, many):
            pick = slice(start, start + many)
            own, absent = values[pick], ~present[pick]
            block = rows[:, places[pick].ravel()].reshape(len(rows), *own.shape)
            block[:, absent] = -np.inf
            order = _descending(block)
            apart = own.take(order)
            apart -= own
            np.abs(apart, out=apart)
            cubes = apart * apart
            cubes *= apart
            result[first : first + few, pick] = cubes.sum(2)
    return result


def _descending(cosines: np.ndarray) -> np.ndarray:
    """Return the places in [b, K] of descending cosines [c, b, K] within each row, equal ones in order; overwrites."""
    cosines += 0.0  # -0.0 becomes 0.0, so that the two are equal
    bits = cosines.view(np.int32)
    keys = np.empty(bits.shape, np.int64)
    halves = keys.view(np.int32).reshape(*bits.shape, 2)
    np.bitwise_xor(bits, ~((bits >> 31) & 0x7FFFFFFF), out=halves[..., _HIGH])
    halves[..., _LOW] = np.arange(bits[0].size, dtype=np.int32).reshape(bits.shape[1:])
    keys.sort(axis=2)
    places: np.ndarray = halves[..., _LOW]
    return places


def _information(
    evidence: Evidence,
    options: ScoringOptions,
    scale: float,
    factors: torch.Tensor,
    offsets: torch.Tensor,
    weight: float,
) -> torch.Tensor:
    """Return L - lambda log of the prior: L = sum_i log(offset_i + factor_i p_i), p = softmax over labels of scale P.

    `factors` and `offsets` [K] are those of the ranks, `weight` the method's own lambda.
    """
    products, present = _Products(evidence), evidence.activating >= 0
    highest, powers = torch.empty(products.images), torch.empty(products.images)
    for rows, cosines in products.by_images():
        highest[rows] = cosines.mul_(scale).amax(1)
        powers[rows] = cosines.sub_(highest[rows, None]).exp_().sum(1)
    slopes = (factors / powers.double()[products.places]).float().masked_fill_(~present, 0.0)
    heights = torch.where(present, offsets.float(), 1.0)
    live, lambda_ = present.any(1), weight if options.prior_weight is None else options.prior_weight
    share = dataset_share(evidence).float() if options.prior == "images" else None
    result = torch.empty(len(present), len(evidence.texts))

    def score(labels: slice) -> None:
        table = products.of(labels).mul_(scale).sub_(highest[:, None]).exp_()
        likelihood = torch.empty(len(present), table.shape[1], dtype=torch.float64)
        size = max(1, _BLOCK // max(1, present.shape[1] * table.shape[1]))
        for start in range(0, len(present), size):
            pick = slice(start, start + size)
            terms = table[products.places[pick]].mul_(slopes[pick, :, None]).add_(heights[pick, :, None])
            likelihood[pick] = _log_sums(terms)
        if share is None:
            prior = likelihood[live].logsumexp(0, keepdim=True) - torch.log(live.sum().clamp(min=1))
        else:
            terms = (share[labels] * factors.float()[:, None]).add_(offsets.float()[:, None]).log_()
            prior = present.double() @ terms.double()
        result[:, labels] = likelihood.sub_(lambda_ * prior)

    spread(score, products.by_labels())
    return result


def _log_sums(terms: torch.Tensor) -> torch.Tensor:
    """Return the sums of log terms [b, K, c] over K, [b, c]; terms of 1e-7 at least, which are overwritten.

    Products of up to four of them have one logarithm, which takes longer than the products.
    """
    for _ in range(2):
        half = terms.shape[1] // 2
        rest = terms.shape[1] - half
        terms[:, :half].mul_(terms[:, rest:])
        terms = terms[:, :rest]
    return terms.log_().sum(1, dtype=torch.float64)


class _Products:
    """The cosines P of the distinct activating images of all neurons with the labels, a block at a time.

    `places` [M, K] of the neurons' images among the `images` distinct ones.
    """

    def __init__(self, evidence: Evidence) -> None:
        used, self.places = evidence.activating.clamp(min=0).unique(return_inverse=True)
        self.images = len(used)
        self._vectors, self._texts = evidence.vectors[used], evidence.texts
        size = 4 * self.images * len(self._texts)
        self._whole = self._vectors @ self._texts.T if size <= _WHOLE_BYTES else None

    def by_labels(self) -> list[slice]:
        """Return the blocks of labels."""
        return [slice(start, start + _LABELS) for start in range(0, len(self._texts), _LABELS)]

    def of(self, labels: slice) -> torch.Tensor:
        """Return the cosines with a block of labels, [U, c], which may be overwritten."""
        if self._whole is None:
            return self._vectors @ self._texts[labels].T
        return self._whole[:, labels].clone()

    def by_images(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Yield blocks of images with their cosines with all labels, [u, C], which may be overwritten."""
        size = max(1, _WHOLE_BYTES // (16 * max(1, len(self._texts))))
        for start in range(0, self.images, size):
            rows = slice(start, start + size)
            yield rows, self._vectors[rows] @ self._texts.T if self._whole is None else self._whole[rows].clone()
