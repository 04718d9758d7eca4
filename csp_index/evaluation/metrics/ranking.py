"""Rows sorted once for many metrics: ties, ranks, the top images, AUROC; and counts of masks.

Works on one block of rows [M, N]; the caller (`detection`) has checked shapes and types, and masks non-finite rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Sorted:
    """Rows in descending order: the values, the images they belong to, and the last position of each value's tie."""

    values: torch.Tensor
    order: torch.Tensor
    ends: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor) -> Sorted:
        """Sort rows [M, N]; within a tie the lower image comes first."""
        values, order = torch.sort(x, dim=1, descending=True, stable=True)
        position = torch.arange(x.shape[1], device=x.device)
        last = torch.ones(x.shape, dtype=torch.bool, device=x.device)
        last[:, :-1] = values[:, 1:] != values[:, :-1]
        return cls(values, order, _next_marked(position, last))

    def ranks(self) -> torch.Tensor:
        """Return ascending average ranks from 1 in the images' own order, float32 (exact below 2^23) or float64."""
        size = self.values.shape[1]
        first = torch.ones_like(self.ends, dtype=torch.bool)
        first[:, 1:] = self.values[:, 1:] != self.values[:, :-1]
        position = torch.arange(size, device=self.ends.device)
        starts = torch.where(first, position, 0).cummax(1).values if size else self.ends
        exact = torch.float32 if size < 2**22 else torch.float64
        ranks = size - (starts + self.ends).to(exact) / 2
        return torch.empty_like(ranks).scatter_(1, self.order, ranks)

    def top(self, x: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Return the mask of `binarise_top` for rows x, each with its share in `alpha` [M]."""
        mask = torch.zeros(x.shape, dtype=torch.bool, device=x.device)
        if not mask.numel():
            return mask
        size = (alpha * x.shape[1] - 1e-9).ceil().clamp(min=1)[:, None]  # 0.07 * 100 is a little more than 7
        most = int(size.max())
        high, low = self.values[:, :1], self.values[:, -1:]
        varied = (high > low) & x.isfinite().all(1, keepdim=True)
        within = torch.arange(most, device=x.device) < size
        return mask.scatter_(1, self.order[:, :most], within & varied & ((self.values[:, :most] > 0) | (low < 0)))


@dataclass(frozen=True, slots=True)
class Counts:
    """The overlap of two masks [M, N]: counts and the metrics that follow, float64 [M]; NaN where undefined."""

    both: torch.Tensor
    predicted: torch.Tensor
    present: torch.Tensor
    images: int

    @classmethod
    def of(cls, predicted: torch.Tensor, present: torch.Tensor) -> Counts:
        """Count two masks."""
        both = (predicted & present).sum(1).double()
        return cls(both, predicted.sum(1).double(), present.sum(1).double(), present.shape[1])

    @property
    def f1(self) -> torch.Tensor:
        """2 tp / (2 tp + fp + fn)."""
        total = self.predicted + self.present
        return ratio(2 * self.both, total, total > 0)

    @property
    def iou(self) -> torch.Tensor:
        """Intersection over union."""
        union = self.predicted + self.present - self.both
        return ratio(self.both, union, union > 0)

    @property
    def precision(self) -> torch.Tensor:
        """The share of predicted images that are present."""
        return ratio(self.both, self.predicted, self.predicted > 0)

    @property
    def recall(self) -> torch.Tensor:
        """The share of present images that are predicted."""
        return ratio(self.both, self.present, self.present > 0)

    @property
    def balanced_accuracy(self) -> torch.Tensor:
        """The mean recall of present and absent images."""
        absent = self.images - self.present
        silent = absent - (self.predicted - self.both)
        return (self.recall + ratio(silent, absent, absent > 0)) / 2


def _next_marked(position: torch.Tensor, marked: torch.Tensor) -> torch.Tensor:
    """Return, for each position of a row, the nearest marked position at or after it."""
    if not marked.shape[1]:
        return position.expand(marked.shape)
    beyond = torch.where(marked, position, marked.shape[1])
    return beyond.flip(1).cummin(1).values.flip(1)


def ranks(x: torch.Tensor) -> torch.Tensor:
    """Return ascending average ranks [M, N]; a mask equals its own ranks, up to scale and shift."""
    return x if x.dtype == torch.bool else Sorted.of(x).ranks()


def auroc(ranked: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the AUROC [M] of ranks [M, N] against a mask; NaN with one class only (Mann and Whitney's U)."""
    positive = present.sum(1).double()
    pairs = positive * (present.shape[1] - positive)
    above = (ranked * present).sum(1, dtype=torch.float64) - positive * (positive + 1) / 2
    return ratio(above, pairs, pairs > 0)


def average_precision(ordered: Sorted, present: torch.Tensor) -> torch.Tensor:
    """Return the average precision [M] of sorted rows against a mask.

    That is the mean, over present images, of the precision at the highest threshold that includes the image, and with
    it all of its tie. NaN where no image is present.
    """
    hits = present.gather(1, ordered.order)
    total = hits.cumsum(1, dtype=torch.float32 if present.shape[1] < 2**24 else torch.float64)
    share = total.gather(1, ordered.ends).double() / (ordered.ends + 1)
    positive = present.sum(1).double()
    return ratio((share * hits).sum(1), positive, positive > 0)


def ratio(above: torch.Tensor, below: torch.Tensor, defined: torch.Tensor) -> torch.Tensor:
    """Return above / below in float64, NaN where not defined."""
    return torch.where(defined, above / torch.where(defined, below, 1.0), torch.nan)
