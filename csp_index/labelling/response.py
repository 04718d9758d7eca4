"""How the response of neurons to the whole dataset varies with each label: sums over images, pure tensor functions.

The response is y = min(max(a, 0) / h, 1), h half the mean activation of the neuron's activating images: it counts that
a neuron fires, not how strongly. It has these views, each [M, C]: where a linear model of the response on the
embeddings points (*linear*), how the response varies with the label's share of each image (*agreement*), what the
labels' shares are on the firing images (*firing*), and, in a second pass for a few leading labels, how well a filter
for the label finds the firing images (*precision*).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag, normalize, pad

_RIDGE = 1.0  # penalty of the linear model, in mean variances of an embedding's coordinate
_FILTER_RIDGE = 3.0  # the same for the labels' filters
_BINS, _SPAN = 1024, 8.0  # of filtered cosines; they span this many standard deviations on either side
_BLOCK_BYTES = 256 * 2**20
_ROWS = 256  # neurons finished at once
_DENSE = 16  # a product with all images is faster than a sum over the firing ones if more than 1 in 16 fires
_TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, slots=True)
class Firing:
    """What the labels' shares P are on the firing images, those with y = 1: means weighted by activation, each [M, C].

    `log` is that of log P, `root` that of sqrt(P), `share` that of P; zeros for a neuron that never fires.
    """

    log: torch.Tensor
    root: torch.Tensor
    share: torch.Tensor


@dataclass(frozen=True, slots=True)
class Response:
    """The response of M neurons to the whole dataset, for C candidate labels; zeros for a neuron that never fires.

    `linear` [M, C]: dot product of a text, minus the mean text, with the unit vector of a ridge regression of the
    response on the image embeddings. `agreement` [M, C] in [-1, 1]: correlation over the images of the response and
    sqrt(P), P = softmax_t(scale T(t).e(x)). `precision` [M, C] in [0, 1], after the second pass: average precision of
    the response over the images in the order of (e(x) - mean).f_t, f_t = (Cov(e) + ridge I)^-1 (T(t) - mean T); 0 for
    labels that were not among the leaders. `firing` is there for the methods that need it.
    """

    linear: torch.Tensor
    agreement: torch.Tensor
    precision: torch.Tensor | None = None
    firing: Firing | None = None

    def of_neurons(self, pick: slice | torch.Tensor) -> Response:
        """Return the rows of some neurons."""
        return self._map(lambda part: part[pick])

    def of_candidates(self, selected: torch.Tensor, more: int = 0) -> Response:
        """Return the columns of these candidates, and `more` columns of zeros."""
        return self._map(lambda part: pad(part[:, selected], (0, more)))

    def repeated(self, times: int) -> Response:
        """Return every neuron's row `times` times, one after another."""
        return self._map(lambda part: part.repeat_interleave(times, 0))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Response:
        precision, kept = None if self.precision is None else change(self.precision), self.firing
        firing = None if kept is None else Firing(change(kept.log), change(kept.root), change(kept.share))
        return Response(change(self.linear), change(self.agreement), precision, firing)


class ResponseSums:
    """Sums over the images, added one tile at a time; memory [M, C] and [D, D]."""

    def __init__(self, activations: torch.Tensor, texts: torch.Tensor, scale: float, firing: bool = False) -> None:
        """Start from the activations [M, K] of activating images (0 where absent) and the texts [C, D].

        `firing` says whether the labels' shares on the firing images are needed, too.
        """
        count = (activations > 0).sum(1)
        self._half = 0.5 * activations.clamp(min=0).sum(1) / count.clamp(min=1)
        self._texts, self._scale = texts, scale
        neurons, (candidates, width) = len(activations), texts.shape
        self._images = 0
        self._e, self._ee = _zeros(width), _zeros(width, width)
        self._y, self._yy, self._ye = _zeros(neurons), _zeros(neurons), _zeros(neurons, width)
        self._r, self._rr, self._yr = _zeros(candidates), _zeros(candidates), _zeros(neurons, candidates)
        self._fired, self._on_firing = _zeros(neurons), torch.zeros(3, neurons, candidates) if firing else None

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images and the neurons' activations [M, n] on them."""
        response = self.response(activations)
        size = max(1, _BLOCK_BYTES // (8 * max(1, len(self._texts))))
        parts = zip(embeddings.split(size), response.split(size, dim=1), activations.split(size, dim=1), strict=True)
        for e, y, a in parts:
            logits = self._scale * (e @ self._texts.T)
            share = logits.softmax(1)
            root = share.sqrt()
            if self._on_firing is not None:
                self._add_firing(a.masked_fill(y < 1, 0.0), logits.log_softmax(1), root, share)
            self._images += len(e)
            self._e += e.sum(0, dtype=torch.float64)
            self._ee += e.T @ e
            self._y += y.sum(1, dtype=torch.float64)
            self._yy += y.square().sum(1, dtype=torch.float64)
            self._ye += y @ e
            self._r += root.sum(0, dtype=torch.float64)
            self._rr += share.sum(0, dtype=torch.float64)
            self._yr += y @ root

    def _add_firing(self, weights: torch.Tensor, *tables: torch.Tensor) -> None:
        """Add weights [M, n] of the firing images times what is summed up on them, each [n, C]."""
        if self._on_firing is None:
            return
        self._fired += weights.sum(1, dtype=torch.float64)
        neurons, images = weights.nonzero(as_tuple=True)
        if len(images) * _DENSE > weights.numel():
            for total, table in zip(self._on_firing, tables, strict=True):
                total.addmm_(weights, table)
            return
        first = torch.searchsorted(neurons, torch.arange(len(weights)))
        for total, table in zip(self._on_firing, tables, strict=True):
            total += embedding_bag(images, table, first, mode="sum", per_sample_weights=weights[neurons, images])

    def response(self, activations: torch.Tensor, pick: slice = slice(None)) -> torch.Tensor:
        """Return y of the picked neurons for their activations [m, n]."""
        half = self._half[pick, None]
        return (activations / half.clamp(min=_TINY)).clamp(0, 1).masked_fill(half <= 0, 0.0)

    @property
    def mean(self) -> torch.Tensor:
        """The mean embedding of the images added so far, [D] float64."""
        return self._e / max(1, self._images)

    def filters(self, used: torch.Tensor) -> torch.Tensor:
        """Return f_t of the texts `used` [U], scaled to a variance of 1 over the images, [U, D]."""
        texts = (self._texts[used] - self._texts.mean(0)).double()
        filters = self._solve(_FILTER_RIDGE, texts)
        spread = ((filters @ self._covariance()) * filters).sum(1, keepdim=True)
        return (filters / spread.clamp(min=1e-12).sqrt()).float()

    def _covariance(self) -> torch.Tensor:
        return self._ee / max(1, self._images) - torch.outer(self.mean, self.mean)

    def _solve(self, ridge: float, rows: torch.Tensor) -> torch.Tensor:
        """Return (Cov(e) + ridge mean variance I)^-1 applied to every row [R, D]."""
        covariance = self._covariance()
        penalty = (ridge * covariance.trace() / len(covariance)).clamp(min=_TINY)
        regular = covariance + penalty * torch.eye(len(covariance), dtype=torch.float64)
        solution: torch.Tensor = torch.linalg.solve(regular, rows.T).T
        return solution

    def finish(self) -> Response:
        """Return the views of the response that need one pass."""
        images = max(1, self._images)
        y, r = self._y / images, self._r / images
        cross = self._ye / images - torch.outer(y, self.mean)
        direction = normalize(self._solve(_RIDGE, cross), dim=1).float()
        linear = direction @ (self._texts - self._texts.mean(0)).T
        spread_y = (self._yy / images - y.square()).clamp(min=0).sqrt()
        spread_r = (self._rr / images - r.square()).clamp(min=0).sqrt()
        agreement = torch.empty(self._yr.shape)
        for start in range(0, len(y), _ROWS):
            pick = slice(start, start + _ROWS)
            joint = self._yr[pick] / images - torch.outer(y[pick], r)
            spread = (spread_y[pick, None] * spread_r).clamp(min=1e-12)
            agreement[pick] = (joint / spread).clamp(-1, 1).float()
        if self._on_firing is None:
            return Response(linear, agreement)
        firing = Firing(*(self._on_firing / self._fired.float().clamp(min=_TINY)[None, :, None]))
        return Response(linear, agreement, firing=firing)


class LeaderRanks:
    """The second pass, for a block of neurons: how high a leader's filter ranks the images on which the neuron fires.

    Filtered cosines are counted in bins; the order within a bin counts as random. Memory [m, K, bins].
    """

    def __init__(self, sums: ResponseSums, leaders: torch.Tensor, pick: slice) -> None:
        """Start from the finished first pass and the leaders' places [m, K] of the picked neurons."""
        used, self._place = leaders.unique(return_inverse=True)
        self._sums, self._pick = sums, pick
        self._filters, self._mean = sums.filters(used), sums.mean.float()
        self._count = torch.zeros(len(used), _BINS)
        self._mass = torch.zeros(*leaders.shape, _BINS)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images and the activations [m, n] of the picked neurons."""
        response = self._sums.response(activations, self._pick)
        cosines = self._filters @ (embeddings - self._mean).T
        bins = ((_SPAN - cosines) * (_BINS / (2 * _SPAN))).long().clamp(0, _BINS - 1)  # the highest come first
        self._count.scatter_add_(1, bins, torch.ones(bins.shape))
        leaders = self._place.shape[1]
        size = max(1, _BLOCK_BYTES // (16 * leaders * max(1, len(embeddings))))
        for start in range(0, len(response), size):
            part = slice(start, start + size)
            fired = response[part, None].expand(-1, leaders, -1)
            self._mass[part].scatter_add_(2, bins[self._place[part]], fired)

    def finish(self) -> torch.Tensor:
        """Return the average precision of every leader, [m, K] in [0, 1]; 0 for a neuron that never fires."""
        result = torch.empty(self._place.shape)
        above = self._count.cumsum(1) - 0.5 * self._count + 0.5
        for start in range(0, len(result), _ROWS):
            part = slice(start, start + _ROWS)
            mass, seen = self._mass[part], above[self._place[part]].clamp(min=0.5)
            fired = mass.cumsum(2)
            result[part] = (mass * (fired - 0.5 * mass) / seen).sum(2) / fired[..., -1].clamp(min=1e-9)
        return result.clamp(max=1.0)


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)
