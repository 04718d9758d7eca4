"""Whether a neuron's images have something in common that an encoder sees, whatever the neuron's label.

A neuron that scores low here is hard to label by any method; where it scores high and its label fits badly, the label
is at fault. Both measures are best taken in another encoder than the one that labels. Pure tensors; knows nothing about
storage or models. M neurons, N images, D embedding width, Q tenths. What cannot be computed for a neuron is NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from csp_index.evaluation.metrics.detection import binarise_top
from csp_index.evaluation.metrics.ranking import Sorted, ratio

#: Equal parts of a neuron's activating images, by activation.
TENTHS: Final = 10


@dataclass(frozen=True, slots=True)
class Images:
    """Images as an encoder sees them, and what neurons do on them: unit vectors [N, D], activations [M, N]."""

    embeddings: torch.Tensor
    activations: torch.Tensor


@dataclass(frozen=True, slots=True)
class Separability:
    """How well images that activate a neuron are separated from silent ones, in [0, 1]; 0.5 is chance.

    `tenths` [M, Q] are those of each tenth of the activating images, the weakest activations first; `whole` [M] is the
    value over all of them. NaN where a tenth has no image, and where the neuron has no activating or no silent image.
    """

    whole: torch.Tensor
    tenths: torch.Tensor


def separability(reference: Images, held_out: Images, alpha: float) -> Separability:
    """Return the AUROC that a held-out activating image is nearer to the activating than to the silent images.

    An image is silent below the neuron's mean over the reference images, and activating above it and above 0. Nearness
    is the mean cosine with the reference images: the top `alpha` of the activating ones, less all of the silent ones.
    A tenth's value is the chance that this difference is greater for an image of the tenth than for a held-out silent
    image; ties count one half. Equal activations are ranked by image, so a border between tenths may part them.
    """
    threshold = reference.activations.mean(1, dtype=torch.float64, keepdim=True).float()
    floor = threshold.clamp(min=0)
    activating = binarise_top(reference.activations, alpha) & (reference.activations > floor)
    silent = reference.activations < threshold
    gap = _means(activating, reference.embeddings) - _means(silent, reference.embeddings)
    wins = _wins(gap @ held_out.embeddings.T, held_out.activations < threshold)
    order = Sorted.of(held_out.activations).order
    count = (held_out.activations > floor).sum(1, keepdim=True)
    position = torch.arange(int(count.max()) if len(count) else 0)
    tenth = TENTHS - 1 - (TENTHS * position).div(count.clamp(min=1), rounding_mode="floor")
    inside = position < count
    sizes, sums = torch.zeros(2, len(count), TENTHS, dtype=torch.float64).unbind()
    sizes.scatter_add_(1, tenth.clamp(min=0), inside.double())
    sums.scatter_add_(1, tenth.clamp(min=0), wins.gather(1, order[:, : len(position)]).double() * inside)
    total, number = sums.sum(1), sizes.sum(1)
    return Separability(ratio(total, number, number > 0), ratio(sums, sizes, sizes > 0))


def monosemanticity(images: Images) -> torch.Tensor:
    """Return the mean cosine of two different images, weighted by the neuron's activations on both, [M] in [-1, 1].

    Activations are scaled to run from 0 to 1 over the images (MS of arXiv 2504.02821). With weights w and unit vectors
    v the sum over pairs is |sum w v|^2 - sum w^2, so that a neuron takes N D operations. NaN for a neuron with constant
    or non-finite activations, or with one image above its lowest activation.
    """
    low, high = images.activations.aminmax(dim=1, keepdim=True)
    varied = (high > low) & (high - low).isfinite()
    weights = torch.where(varied, (images.activations - low) / torch.where(varied, high - low, 1.0), 0.0)
    norms = images.embeddings.double().square().sum(1)
    squares = weights.double().square()
    pairs = weights.sum(1, dtype=torch.float64).square() - squares.sum(1)
    sums = (weights @ images.embeddings).double().square().sum(1) - squares @ norms
    several = (weights > 0).sum(1) > 1
    return ratio(sums, pairs, several).clamp(-1, 1)


def _means(members: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Return the mean vector [M, D] of each mask's images [M, N]; NaN for an empty mask."""
    return (members.to(vectors.dtype) @ vectors) / members.sum(1, keepdim=True)


def _wins(scores: torch.Tensor, silent: torch.Tensor) -> torch.Tensor:
    """Return, for each image [M, N], the share of the silent images that score lower, with half of the ties.

    NaN in rows without a silent image, and in rows of NaN scores.
    """
    ranked = Sorted.of(scores)
    hits = silent.gather(1, ranked.order).cumsum(1, dtype=torch.int32)
    up_to = hits.gather(1, ranked.ends)  # the silent images that score as high or higher
    first = torch.ones_like(ranked.ends, dtype=torch.bool)
    first[:, 1:] = ranked.values[:, 1:] != ranked.values[:, :-1]
    own = silent.gather(1, ranked.order).to(hits.dtype)
    before = torch.where(first, hits - own, 0).cummax(1).values  # those that score higher
    number = hits[:, -1:].to(scores.dtype)
    share = (number - (before + up_to).to(scores.dtype) / 2) / number
    share = share.masked_fill(scores.isnan().any(1, keepdim=True), torch.nan)
    return torch.empty_like(share).scatter_(1, ranked.order, share)
