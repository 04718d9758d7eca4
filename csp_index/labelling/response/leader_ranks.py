"""How well a filter for a leading label finds the images on which a neuron fires: a second look at all images."""

from __future__ import annotations

from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.labelling.response.share_means import Weights
from csp_index.labelling.response.views import Saturation
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import spread

_FILTER_RIDGE = 3.0  # penalty of the labels' filters, in mean variances of an embedding's coordinate
_BINS, _SPAN = 1024, 8.0  # of filtered cosines; they span this many standard deviations on either side
_IMAGES, _FILTERS, _NEURONS = 4096, 64, 32  # at once; of the last two, by one thread
_SOLVED = 1024  # filters in float64 at once
_COUNTED = 8  # filters whose images are counted at once: their bins stay in a core's cache
_ROWS = 32  # neurons finished at once


class LeaderRanks:
    """For a block of M neurons: how high a leader's filter ranks the images on which the neuron fires.

    Filtered cosines are counted in bins; the order within a bin counts as random. Memory [M, K, bins].
    """

    def __init__(
        self, dataset: DatasetSums, texts: torch.Tensor, saturation: Saturation, leaders: torch.Tensor
    ) -> None:
        """Start from the leaders' places [M, K] among the texts [C, D]."""
        used, self._place = leaders.unique(return_inverse=True)
        self._saturation = saturation
        self._filters = label_filters(dataset, texts, used)
        # a filtered cosine is the product with the image minus that with the mean image
        self._middle = _BINS / 2 + _BINS / (2 * _SPAN) * (self._filters @ dataset.mean.float())[:, None]
        self._count = torch.zeros(len(used), _BINS)
        self._mass = torch.zeros(*leaders.shape, _BINS)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images and the neurons' activations [M, n] on them."""
        for part, values in zip(embeddings.split(_IMAGES), activations.split(_IMAGES, 1), strict=True):
            self._add(part, values)

    def _add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        places = torch.empty(len(self._filters), len(embeddings), dtype=torch.int16)  # few bytes are read faster
        placed, ones = places.numpy(), torch.ones(len(embeddings))

        def place(start: int) -> None:
            pick = slice(start, start + _FILTERS)
            # the highest come first
            bins = (self._filters[pick] @ embeddings.T).mul_(-_BINS / (2 * _SPAN)).add_(self._middle[pick])
            places[pick] = bins.clamp_(0, _BINS - 1).to(torch.int16)
            for first in range(start, min(start + _FILTERS, len(places)), _COUNTED):
                rows = slice(first, min(first + _COUNTED, start + _FILTERS))
                counted = places[rows].long()
                self._count[rows].scatter_add_(1, counted, ones.expand(len(counted), -1))

        def weigh(start: int) -> None:
            pick = slice(start, start + _NEURONS)
            response = self._saturation.of_neurons(pick)(activations[pick])
            weights = Weights.of(response)
            ends = torch.bincount(weights.rows, minlength=len(response)).cumsum(0).tolist()
            images, begin = weights.places.numpy(), 0
            for mass, leaders, end in zip(self._mass[pick], self._place[pick].numpy(), ends, strict=True):
                fired = placed[leaders].take(images[begin:end], axis=1)  # NumPy takes half of torch's time
                mass.scatter_add_(1, torch.from_numpy(fired).long(), weights.values[begin:end].expand(len(leaders), -1))
                begin = end

        spread(place, range(0, len(self._filters), _FILTERS))
        spread(weigh, range(0, len(activations), _NEURONS))

    def finish(self) -> torch.Tensor:
        """Return the average precision of every leader, [M, K] in [0, 1]; 0 for a neuron that never fires."""
        result = torch.empty(self._place.shape)
        above = self._count.cumsum(1).sub_(0.5 * self._count).add_(0.5).clamp_(min=0.5)
        for start in range(0, len(result), _ROWS):
            part = slice(start, start + _ROWS)
            mass, seen = self._mass[part], above[self._place[part]]
            fired = mass.cumsum(2)
            result[part] = (mass * (fired - 0.5 * mass) / seen).sum(2) / fired[..., -1].clamp(min=1e-9)
        return result.clamp(max=1.0)


def label_filters(dataset: DatasetSums, texts: torch.Tensor, used: torch.Tensor) -> torch.Tensor:
    """Return f_t of the texts `used` [U] among the texts [C, D], scaled to a variance of 1 over the images, [U, D]."""
    middle, covariance = texts.mean(0), dataset.covariance
    result = torch.empty(len(used), texts.shape[1])
    for part, rows in zip(used.split(_SOLVED), result.split(_SOLVED), strict=True):
        filters = dataset.solve(_FILTER_RIDGE, (texts[part] - middle).double())
        spread = ((filters @ covariance) * filters).sum(1, keepdim=True)
        rows[:] = filters / spread.clamp(min=1e-12).sqrt()
    return result
