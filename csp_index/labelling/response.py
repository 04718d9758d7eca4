"""How the response of neurons to the whole dataset varies with each label: sums over images, pure tensor functions.

The response is y = min(max(a, 0) / h, 1), h half the mean activation of the neuron's activating images: it counts that
a neuron fires, not how strongly. It has these views, each [M, C]: where a linear model of the response on the
embeddings points (*linear*), how the response varies with the label's share of each image (*agreement*), or what the
labels' shares are on the firing images (*firing*); in a second pass for a few leading labels, how well a filter for the
label finds the firing images (*precision*).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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

    `share` [C] float64: mean over the images of P = softmax_t(scale T(t).e(x)). `linear` [M, C]: dot product of a text,
    minus the mean text, with the unit vector of a ridge regression of the response on the image embeddings. `agreement`
    [M, C] in [-1, 1]: correlation over the images of the response and sqrt(P). `precision` [M, C] in [0, 1], after the
    second pass: average precision of the response over the images in the order of (e(x) - mean).f_t, f_t = (Cov(e) +
    ridge I)^-1 (T(t) - mean T); 0 for labels that were not among the leaders. A method needs either `linear` and
    `agreement` or `firing`. `leading` [M, C] are the scores that chose the leaders.
    """

    linear: torch.Tensor | None = None
    agreement: torch.Tensor | None = None
    precision: torch.Tensor | None = None
    firing: Firing | None = None
    share: torch.Tensor | None = None
    leading: torch.Tensor | None = None

    def of_neurons(self, pick: slice | torch.Tensor) -> Response:
        """Return the rows of some neurons."""
        return self._map(lambda part: part[pick])

    def of_candidates(self, selected: torch.Tensor, more: int = 0) -> Response:
        """Return the columns of these candidates, and `more` columns of zeros."""
        return self._map(lambda part: pad(part[:, selected], (0, more)))

    def repeated(self, times: int) -> Response:
        """Return every neuron's row `times` times, one after another, for other example sets: without `leading`."""
        return replace(self, leading=None)._map(lambda part: part.repeat_interleave(times, 0))

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Response:
        parts = self.linear, self.agreement, self.precision, self.leading
        linear, agreement, precision, leading = (None if part is None else change(part) for part in parts)
        f = self.firing
        firing = None if f is None else Firing(change(f.log), change(f.root), change(f.share))
        return Response(linear, agreement, precision, firing, leading=leading)


def weighted_sums(weights: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return weights @ rows for weights [M, n] of which most may be 0, and rows [n, C]."""
    if int(torch.count_nonzero(weights)) * _DENSE > weights.numel():
        return weights @ rows
    neurons, images = weights.nonzero(as_tuple=True)
    first = torch.searchsorted(neurons, torch.arange(len(weights)))
    return embedding_bag(images, rows, first, mode="sum", per_sample_weights=weights[neurons, images])


class ResponseSums:
    """Sums over the images, added one tile at a time; memory [M, C] and [D, D]."""

    def __init__(self, activations: torch.Tensor, texts: torch.Tensor, scale: float, firing: bool = False) -> None:
        """Start from the activations [M, K] of activating images (0 where absent) and the texts [C, D].

        `firing` says that the labels' shares on the firing images are needed, and not the views of all images.
        """
        count = (activations > 0).sum(1)
        self._half = 0.5 * activations.clamp(min=0).sum(1) / count.clamp(min=1)
        self._texts, self._scale, self._firing = texts, scale, firing
        neurons, (candidates, width) = len(activations), texts.shape
        self._images = 0
        self._e, self._ee, self._rr = _zeros(width), _zeros(width, width), _zeros(candidates)
        if firing:
            self._fired, self._fired_total, self._fired_e = _zeros(neurons), _zeros(neurons), _zeros(neurons, width)
            self._fired_root, self._fired_share = torch.zeros(2, neurons, candidates)
        else:
            self._y, self._yy, self._ye = _zeros(neurons), _zeros(neurons), _zeros(neurons, width)
            self._r, self._yr = _zeros(candidates), _zeros(neurons, candidates)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images and the neurons' activations [M, n] on them."""
        response = self.response(activations)
        size = max(1, _BLOCK_BYTES // (8 * max(1, len(self._texts))))
        parts = zip(embeddings.split(size), response.split(size, dim=1), activations.split(size, dim=1), strict=True)
        for e, y, a in parts:
            logits = self._scale * (e @ self._texts.T)
            totals = logits.logsumexp(1)
            share = logits.sub_(totals[:, None]).exp_()
            self._images += len(e)
            self._e += e.sum(0, dtype=torch.float64)
            self._ee += e.T @ e
            self._rr += share.sum(0, dtype=torch.float64)
            if self._firing:
                self._add_firing(a.masked_fill(y < 1, 0.0), e, totals, share)
            else:
                self._add_all(y, e, share.sqrt())

    def _add_firing(self, w: torch.Tensor, e: torch.Tensor, totals: torch.Tensor, share: torch.Tensor) -> None:
        self._fired += w.sum(1, dtype=torch.float64)
        self._fired_e += w @ e
        self._fired_total += w @ totals
        self._fired_share += weighted_sums(w, share)
        self._fired_root += weighted_sums(w, share.sqrt_())

    def _add_all(self, y: torch.Tensor, e: torch.Tensor, root: torch.Tensor) -> None:
        self._y += y.sum(1, dtype=torch.float64)
        self._yy += y.square().sum(1, dtype=torch.float64)
        self._ye += y @ e
        self._r += root.sum(0, dtype=torch.float64)
        self._yr += y @ root

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
        return self._of_firing() if self._firing else self._of_all()

    def _of_firing(self) -> Response:
        fired = self._fired.clamp(min=_TINY)[:, None]
        mean, totals = (self._fired_e / fired).float(), (self._fired_total[:, None] / fired).float()
        fired = fired.float()
        log = self._scale * (mean @ self._texts.T) - totals  # log P is linear in e but for the total, so means suffice
        return Response(
            firing=Firing(log, self._fired_root / fired, self._fired_share / fired),
            share=self._rr / max(1, self._images),
        )

    def _of_all(self) -> Response:
        images = max(1, self._images)
        y, r, share = self._y / images, self._r / images, self._rr / images
        cross = self._ye / images - torch.outer(y, self.mean)
        direction = normalize(self._solve(_RIDGE, cross), dim=1).float()
        linear = direction @ (self._texts - self._texts.mean(0)).T
        spread_y = (self._yy / images - y.square()).clamp(min=0).sqrt()
        spread_r = (share - r.square()).clamp(min=0).sqrt()
        agreement = torch.empty(self._yr.shape)
        for start in range(0, len(y), _ROWS):
            pick = slice(start, start + _ROWS)
            joint = self._yr[pick] / images - torch.outer(y[pick], r)
            spread = (spread_y[pick, None] * spread_r).clamp(min=1e-12)
            agreement[pick] = (joint / spread).clamp(-1, 1).float()
        return Response(linear, agreement, share=share)


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
