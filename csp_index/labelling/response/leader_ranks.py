"""How well a filter for a leading label finds the images on which a neuron fires: a second look at all images."""

from __future__ import annotations

import numpy as np
import torch

from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.labelling.response.views import Saturation

_FILTER_RIDGE = 3.0  # penalty of the labels' filters, in mean variances of an embedding's coordinate
_BINS, _SPAN = 1024, 8.0  # of filtered cosines; they span this many standard deviations on either side
_IMAGES = 16384  # at once: the places of their filtered cosines stay in a core's cache
_ROWS = 256  # neurons finished at once


class LeaderRanks:
    """For a block of M neurons: how high a leader's filter ranks the images on which the neuron fires.

    Filtered cosines are counted in bins; the order within a bin counts as random. Memory [M, K, bins].
    """

    def __init__(
        self, dataset: DatasetSums, texts: torch.Tensor, saturation: Saturation, leaders: torch.Tensor
    ) -> None:
        """Start from the leaders' places [M, K] among the texts [C, D]."""
        used, self._place = leaders.unique(return_inverse=True)
        self._saturation, self._mean = saturation, dataset.mean.float()
        self._filters = label_filters(dataset, texts, used)
        self._count = torch.zeros(len(used), _BINS)
        self._mass = torch.zeros(*leaders.shape, _BINS)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images and the neurons' activations [M, n] on them."""
        response = self._saturation(activations)
        parts = zip(embeddings.split(_IMAGES), response.split(_IMAGES, 1), strict=True)
        for vectors, y in parts:
            # the highest come first
            bins = (self._filters @ (vectors - self._mean).T).mul_(-_BINS / (2 * _SPAN)).add_(_BINS / 2)
            places = bins.clamp_(0, _BINS - 1).to(torch.int16)  # few bytes: most of the time goes into reading them
            ones = torch.ones(places.shape[1])
            for count, row in zip(self._count, places, strict=True):
                count.scatter_add_(0, row.long(), ones)
            self._add_mass(places.numpy(), y)

    def _add_mass(self, places: np.ndarray, response: torch.Tensor) -> None:
        rows = response.count_nonzero(1).cumsum(0).tolist()
        _, firing = response.nonzero(as_tuple=True)
        images, values, begin = firing.numpy(), response[response > 0], 0
        for mass, leaders, end in zip(self._mass, self._place.numpy(), rows, strict=True):
            fired = places[leaders].take(images[begin:end], axis=1)
            mass.scatter_add_(1, torch.from_numpy(fired).long(), values[begin:end].expand(len(leaders), -1))
            begin = end

    def finish(self) -> torch.Tensor:
        """Return the average precision of every leader, [M, K] in [0, 1]; 0 for a neuron that never fires."""
        result = torch.empty(self._place.shape)
        above = self._count.cumsum(1) - 0.5 * self._count + 0.5
        for start in range(0, len(result), _ROWS):
            part = slice(start, start + _ROWS)
            mass, seen = self._mass[part], above[self._place[part]].clamp(min=0.5)
            fired = mass.cumsum(2)
            result[part] = (mass * (fired - 0.5 * mass) / seen).sum(2) / fired[..., -1].clamp(min=1e-9)
        return result.clamp(max=1.0)


def label_filters(dataset: DatasetSums, texts: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Return f_t of the texts `used` [U] among the texts [C, D], scaled to a variance of 1 over the images, [U, D]."""
    filters = dataset.solve(_FILTER_RIDGE, (texts[used] - texts.mean(0)).double())
    spread = ((filters @ dataset.covariance) * filters).sum(1, keepdim=True)
    return (filters / spread.clamp(min=1e-12).sqrt()).float()
