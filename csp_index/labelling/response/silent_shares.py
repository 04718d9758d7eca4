"""What the labels' shares are on a neuron's contrastive images: means, filled up with the dataset's where some lack."""

from __future__ import annotations

from csp_index.labelling.clip_dissect import dataset_share
from csp_index.labelling.evidence import Evidence, bags, even
from csp_index.labelling.response.share_means import ShareMeans, Weights
from csp_index.labelling.response.views import Silent
from csp_index.tensors.library import torch


def silent_shares(evidence: Evidence, scale: float) -> Silent:
    """Return the means of the labels' shares, and of their roots, over each neuron's contrastive images."""
    if evidence.grouped is not None:
        means, counts = evidence.grouped.means, evidence.grouped.counts.float()
        weights = counts / counts.sum(1, keepdim=True).clamp(min=1)
        share = bags(means.share, evidence.grouped.rows, weights)
        return Silent(share, None if means.root is None else bags(means.root, evidence.grouped.rows, weights))
    if evidence.response is not None and evidence.response.silent is not None:
        return evidence.response.silent
    return mean_shares(evidence, evidence.contrastive.flatten(1), scale)


def mean_shares(evidence: Evidence, places: torch.Tensor, scale: float) -> Silent:
    """Return the means of the labels' shares, and of their roots, over the images at `places` [R, P]; -1 is absent."""
    used, columns = places.clamp(min=0).unique(return_inverse=True)
    means = ShareMeans(len(places), evidence.texts, scale)
    rows, slots = (places >= 0).nonzero(as_tuple=True)
    weights = Weights(rows, columns[rows, slots], even(places >= 0)[rows, slots])
    means.add(evidence.vectors[used], evidence.log_totals(scale)[used], weights)
    return Silent(means.share, means.root)


def near_share(evidence: Evidence, scale: float) -> torch.Tensor:
    """Return each label's mean share of the contrastive images, filled up with the dataset's, [M, C]."""
    share, dataset = silent_shares(evidence, scale).share, dataset_share(evidence).float()
    return with_dataset(share, filled_parts(evidence), dataset)


def filled_parts(evidence: Evidence) -> torch.Tensor:
    """Return the part [M, 1] of each neuron's requested contrastive images that there are.

    An activating image with fewer partners than requested gives the rest of its weight to the dataset: a few edits of
    one picture all lack the same things, and are not a prior by themselves.
    """
    fired = (evidence.activating >= 0).sum(1)
    partners = evidence.partner_counts.clamp(max=evidence.asked)
    return (partners.sum(1) / (fired * evidence.asked).clamp(min=1))[:, None]


def with_dataset(share: torch.Tensor, filled: torch.Tensor, dataset: torch.Tensor) -> torch.Tensor:
    """Return shares [M, C] of the contrastive images with the dataset's mean share in place of missing partners."""
    return torch.where(filled >= 1, share, filled * share + (1 - filled) * dataset)
