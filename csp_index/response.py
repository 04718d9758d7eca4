"""How neurons respond to the whole dataset, beside each label: sums over images in one pass, pure tensors.

The response is y = min(max(a, 0) / h, 1), h half the mean activation of the neuron's activating images: what counts is
that a neuron fires, not how much. Two views of it, each [M, C]: where a linear model of the response on the embeddings
points (*linear*), and how the response goes with the label's share of each image (*agreement*).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

_RIDGE = 1.0  # penalty of the linear model, in mean variances of an embedding's coordinate
_BLOCK_BYTES = 256 * 2**20
_ROWS = 256  # neurons finished at once
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Response:
    """What the whole dataset says of M neurons and C candidate labels.

    `linear` [M, C]: dot product of a text, less the mean text, with the unit vector of a ridge regression of the
    response on the image embeddings. `agreement` [M, C] in [-1, 1]: correlation over the images of the response and
    sqrt(P), P = softmax_t(scale T(t).e(x)). Both are 0 for a neuron that never fires.
    """

    linear: torch.Tensor
    agreement: torch.Tensor

    def of_neurons(self, pick: slice | torch.Tensor) -> Response:
        """Return the rows of some neurons."""
        return Response(self.linear[pick], self.agreement[pick])

    def of_candidates(self, kept: torch.Tensor, more: int = 0) -> Response:
        """Return the columns of the kept candidates, and `more` columns of zeros."""
        pad = (0, more)
        return Response(*(torch.nn.functional.pad(part[:, kept], pad) for part in (self.linear, self.agreement)))

    def repeated(self, times: int) -> Response:
        """Return every neuron's row so many times in a row."""
        return Response(self.linear.repeat_interleave(times, 0), self.agreement.repeat_interleave(times, 0))


class ResponseSums:
    """Sums over the images, taken in a tile at a time; memory [M, C] and [D, D]."""

    def __init__(self, activations: torch.Tensor, texts: torch.Tensor, scale: float) -> None:
        """Start from the activations [M, K] of activating images (0 where absent) and the texts [C, D]."""
        count = (activations > 0).sum(1)
        self._half = 0.5 * activations.clamp(min=0).sum(1) / count.clamp(min=1)
        self._texts, self._scale = texts, scale
        neurons, (candidates, width) = len(activations), texts.shape
        self._images = 0
        self._e, self._ee = _zeros(width), _zeros(width, width)
        self._y, self._yy, self._ye = _zeros(neurons), _zeros(neurons), _zeros(neurons, width)
        self._r, self._rr, self._yr = _zeros(candidates), _zeros(candidates), _zeros(neurons, candidates)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Take in the embeddings [n, D] of the next images and the neurons' activations [M, n] on them."""
        response = (activations / self._half.clamp(min=_TINY)[:, None]).clamp(0, 1)
        response = response.masked_fill(self._half[:, None] <= 0, 0.0)
        size = max(1, _BLOCK_BYTES // (8 * max(1, len(self._texts))))
        for e, y in zip(embeddings.split(size), response.split(size, dim=1), strict=True):
            share = (self._scale * (e @ self._texts.T)).softmax(1)
            root = share.sqrt()
            self._images += len(e)
            self._e += e.sum(0, dtype=torch.float64)
            self._ee += e.T @ e
            self._y += y.sum(1, dtype=torch.float64)
            self._yy += y.square().sum(1, dtype=torch.float64)
            self._ye += y @ e
            self._r += root.sum(0, dtype=torch.float64)
            self._rr += share.sum(0, dtype=torch.float64)
            self._yr += y @ root

    def finish(self) -> Response:
        """Return both views of the response."""
        images = max(1, self._images)
        mean, y, r = self._e / images, self._y / images, self._r / images
        covariance = self._ee / images - torch.outer(mean, mean)
        penalty = _RIDGE * covariance.trace() / len(covariance)
        regular = covariance + penalty.clamp(min=_TINY) * torch.eye(len(covariance), dtype=torch.float64)
        cross = self._ye / images - torch.outer(y, mean)
        direction = normalize(torch.linalg.solve(regular, cross.T).T, dim=1).float()
        linear = direction @ (self._texts - self._texts.mean(0)).T
        spread_y = (self._yy / images - y.square()).clamp(min=0).sqrt()
        spread_r = (self._rr / images - r.square()).clamp(min=0).sqrt()
        agreement = torch.empty(self._yr.shape)
        for start in range(0, len(y), _ROWS):
            pick = slice(start, start + _ROWS)
            joint = self._yr[pick] / images - torch.outer(y[pick], r)
            spread = (spread_y[pick, None] * spread_r).clamp(min=1e-12)
            agreement[pick] = (joint / spread).clamp(-1, 1).float()
        return Response(linear, agreement)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)
