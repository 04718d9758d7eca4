"""The response of neurons to the whole dataset, as sums over images that are added a tile at a time.

Each needs the sums over the dataset that are the same for all neurons (`dataset_sums`); images on which no neuron fires
add nothing, and may be left out.
"""

from __future__ import annotations

import numpy as np

from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.labelling.response.share_means import ShareMeans, Weights
from csp_index.labelling.response.views import Firing, Response, Saturation, Silent
from csp_index.tensors.library import functional, torch

_RIDGE = 1.0  # penalty of the linear model, in mean variances of an embedding's coordinate
_ROWS = 256  # neurons finished at once
_TINY = float(np.finfo(np.float32).tiny)


class FiringSums:
    """The labels' shares on the firing images of M neurons, and on their contrastive images; memory [M, C]."""

    def __init__(self, saturation: Saturation, texts: torch.Tensor, scale: float) -> None:
        """Start without an image."""
        self._saturation, self._texts, self._scale = saturation, texts, scale
        self._neurons, self._sees_silent = len(saturation.half), False
        self._means = ShareMeans(2 * self._neurons, texts, scale)  # of firing images, then of contrastive ones
        self._fired, self._total = _zeros(self._neurons), _zeros(self._neurons)
        self._e = _zeros(self._neurons, texts.shape[1])

    def add(self, embeddings: torch.Tensor, totals: torch.Tensor, activations: torch.Tensor, silent: Weights) -> None:
        """Add images: embeddings [n, D], totals [n], activations [M, n]; `silent` are weights of contrastive images."""
        weights = Weights.where(self._saturation.fires(activations), activations)
        self._fired.index_add_(0, weights.rows, weights.values.double())
        self._total.index_add_(0, weights.rows, (weights.values * totals[weights.places]).double())
        self._e += weights.sums(self._neurons, embeddings)
        self._sees_silent |= bool(len(silent.rows))
        contrastive = Weights(silent.rows + self._neurons, silent.places, silent.values)
        self._means.add(embeddings, totals, weights.and_of(contrastive))

    def finish(self) -> Response:
        """Return the response; without `silent` if no contrastive image was added. Ends the sums: call it once."""
        fired = self._fired.clamp(min=_TINY)[:, None]
        mean, total = (self._e / fired).float(), (self._total[:, None] / fired).float()
        log = (mean @ self._texts.T).mul_(self._scale).sub_(total)  # log P is linear in e but for its total
        fired, own = fired.float(), self._neurons
        share, root = self._means.share, self._means.root
        firing = Firing(log, root[:own].div_(fired), share[:own].div_(fired))
        return Response(firing=firing, silent=Silent(share[own:], root[own:]) if self._sees_silent else None)


class WholeSums:
    """How the response of M neurons varies over all images, and the labels' shares on contrastive images."""

    def __init__(self, saturation: Saturation, texts: torch.Tensor, scale: float, dataset: DatasetSums) -> None:
        """Start without an image."""
        self._saturation, self._texts, self._dataset = saturation, texts, dataset
        neurons, self._sees_silent = len(saturation.half), False
        self._roots = ShareMeans(neurons, texts, scale, share=False)
        self._silent = ShareMeans(neurons, texts, scale, root=False)
        self._y, self._yy, self._ye = _zeros(neurons), _zeros(neurons), _zeros(neurons, texts.shape[1])

    def add(self, embeddings: torch.Tensor, totals: torch.Tensor, activations: torch.Tensor, silent: Weights) -> None:
        """Add images: embeddings [n, D], totals [n], activations [M, n]; `silent` are weights of contrastive images."""
        y = self._saturation(activations)
        self._y += y.sum(1, dtype=torch.float64)
        self._yy += y.square().sum(1, dtype=torch.float64)
        self._ye += y @ embeddings
        self._roots.add(embeddings, totals, Weights.of(y))
        self._sees_silent |= bool(len(silent.rows))
        self._silent.add(embeddings, totals, silent)

    def finish(self) -> Response:
        """Return the response; without `silent` if no contrastive image was added."""
        roots, near, dataset = self._roots.root, self._silent.share, self._dataset
        images = max(1, dataset.images)
        y, r, share = self._y / images, dataset.root / images, dataset.share / images
        cross = self._ye / images - torch.outer(y, dataset.mean)
        direction = functional.normalize(dataset.solve(_RIDGE, cross), dim=1).float()
        linear = direction @ (self._texts - self._texts.mean(0)).T
        spread_y = (self._yy / images - y.square()).clamp(min=0).sqrt()
        spread_r = (share - r.square()).clamp(min=0).sqrt()
        for start in range(0, len(y), _ROWS):
            pick = slice(start, start + _ROWS)
            joint = roots[pick] / images - torch.outer(y[pick], r)
            spread = (spread_y[pick, None] * spread_r).clamp(min=1e-12)
            roots[pick] = (joint / spread).clamp(-1, 1).float()
        return Response(linear, roots, silent=Silent(near) if self._sees_silent else None)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)
