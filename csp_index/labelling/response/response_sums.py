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


class ResponseMoments:
    """How the response of M neurons varies over all images, but for its products with the labels' shares."""

    def __init__(self, saturation: Saturation, width: int) -> None:
        """Start without an image."""
        neurons = len(saturation.half)
        self._saturation = saturation
        self._y, self._yy, self._ye = _zeros(neurons), _zeros(neurons), _zeros(neurons, width)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
        """Add images, embeddings [n, D] and activations [M, n]; return the response [M, n]."""
        y = self._saturation(activations)
        self._y += y.sum(1, dtype=torch.float64)
        self._yy += y.square().sum(1, dtype=torch.float64)
        self._ye += y @ embeddings
        return y

    def linear(self, texts: torch.Tensor, dataset: DatasetSums) -> torch.Tensor:
        """Return `Response.linear` [M, C] of texts [C, D]."""
        images = max(1, dataset.images)
        cross = self._ye / images - torch.outer(self._y / images, dataset.mean)
        direction = functional.normalize(dataset.solve(_RIDGE, cross), dim=1).float()
        return direction @ (texts - texts.mean(0)).T

    def agreement(self, roots: torch.Tensor, share: torch.Tensor, root: torch.Tensor, images: int) -> torch.Tensor:
        """Return `Response.agreement` [M, c], in place of the sums `roots` [M, c] of the response times sqrt(P).

        `share` and `root` [c] are the sums of P and sqrt(P) over all `images`.
        """
        images = max(1, images)
        y, r = self._y / images, root / images
        spread_y = (self._yy / images - y.square()).clamp(min=0).sqrt()
        spread_r = (share / images - r.square()).clamp(min=0).sqrt()
        for start in range(0, len(y), _ROWS):
            pick = slice(start, start + _ROWS)
            joint = roots[pick] / images - torch.outer(y[pick], r)
            spread = (spread_y[pick, None] * spread_r).clamp(min=1e-12)
            roots[pick] = (joint / spread).clamp(-1, 1).float()
        return roots


class WholeSums:
    """How the response of M neurons varies over all images, and the labels' shares on contrastive images."""

    def __init__(self, saturation: Saturation, texts: torch.Tensor, scale: float, dataset: DatasetSums) -> None:
        """Start without an image."""
        self._texts, self._dataset, self._sees_silent = texts, dataset, False
        self._moments = ResponseMoments(saturation, texts.shape[1])
        self._roots = ShareMeans(len(saturation.half), texts, scale, share=False)
        self._silent = ShareMeans(len(saturation.half), texts, scale, root=False)

    def add(self, embeddings: torch.Tensor, totals: torch.Tensor, activations: torch.Tensor, silent: Weights) -> None:
        """Add images: embeddings [n, D], totals [n], activations [M, n]; `silent` are weights of contrastive images."""
        self._roots.add(embeddings, totals, Weights.of(self._moments.add(embeddings, activations)))
        self._sees_silent |= bool(len(silent.rows))
        self._silent.add(embeddings, totals, silent)

    def finish(self) -> Response:
        """Return the response; without `silent` if no contrastive image was added."""
        dataset = self._dataset
        linear = self._moments.linear(self._texts, dataset)
        agreement = self._moments.agreement(self._roots.root, dataset.share, dataset.root, dataset.images)
        return Response(linear, agreement, silent=Silent(self._silent.share) if self._sees_silent else None)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)
