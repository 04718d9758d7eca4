"""The few texts among which a neuron's images are divided: those that some group of its images is best described by."""

from __future__ import annotations

from typing import Final

import numpy as np

from csp_index.studies.meanings.clusters import k_means, principal_points
from csp_index.studies.meanings.residuals import Residuals
from csp_index.tensors.library import torch

LISTED: Final = 16
"""Texts of each list."""

_GROUPS = 8  # of images, by k-means: a meaning that few images have leads the list of one of them


def listed_texts(residuals: Residuals, texts: torch.Tensor, scale: float, share: np.ndarray) -> list[np.ndarray]:
    """Return the places of each neuron's texts, sorted, of texts [C, D] with mean shares [C] of all images.

    For all images of a neuron, and each of 8 groups of them: the texts with the largest mean share over their prior,
    and those nearest to the mean residual.
    """
    rows, present = residuals.rows(), residuals.present
    points, _ = principal_points(rows, present)
    groups, _ = k_means(points, present, _GROUPS, np.random.default_rng(0), 1)
    prior = torch.from_numpy(np.log(np.maximum(share, np.finfo(np.float32).tiny)).astype(np.float32))
    few = min(LISTED, len(texts))
    lists = []
    for place in range(-1, _GROUPS):
        members = (present if place < 0 else groups == place).astype(np.float32)
        members /= np.maximum(members.sum(1, keepdims=True), 1)
        images, beyond = (torch.from_numpy(np.einsum("mk,mkd->md", members, part)) for part in (residuals.images, rows))
        lists.append((images @ texts.T).mul_(scale).sub_(prior).topk(few, dim=1).indices)
        lists.append((beyond @ texts.T).topk(few, dim=1).indices)
    return [np.unique(own) for own in torch.cat(lists, 1).numpy()]
