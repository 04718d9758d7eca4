"""Sums over the dataset that depend on images, labels, and the scale of a softmax alone: the same for all neurons.

P(t|x) = softmax_t(scale T(t).e(x)) is the share of label t in image x. With the logarithms of its denominators known, a
share is one product and one exponential, for any label and image alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from csp_index.tensors.library import torch

_BLOCK_BYTES = 16 * 2**20  # of the products of a block of images with all labels
_TINY = float(np.finfo(np.float32).tiny)


@dataclass(slots=True)
class EmbeddingSums:
    """Sums over `images` embeddings e [D]: `embedding` [D] of e and `products` [D, D] of e e^T; float64."""

    images: int
    embedding: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of_width(cls, width: int) -> EmbeddingSums:
        """Return the sums over no image."""
        return cls(0, _zeros(width), _zeros(width, width))

    def add(self, embeddings: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images."""
        self.images += len(embeddings)
        self.embedding += embeddings.sum(0, dtype=torch.float64)
        self.products += embeddings.T @ embeddings

    @property
    def mean(self) -> torch.Tensor:
        """The mean embedding [D]."""
        return self.embedding / max(1, self.images)

    @property
    def covariance(self) -> torch.Tensor:
        """The covariance of the embeddings [D, D]."""
        return self.products / max(1, self.images) - torch.outer(self.mean, self.mean)


@dataclass(frozen=True, slots=True)
class DatasetSums:
    """Sums over `images` images, for C labels and embeddings of D dimensions.

    `totals` [images] float32: log sum_t exp(scale T(t).e(x)) of each image, in the order of the images. `share` and
    `root` [C] float64: sums of P and of sqrt(P). `embedding` [D] and `products` [D, D] float64: sums of e and e e^T.
    """

    totals: torch.Tensor
    share: torch.Tensor
    root: torch.Tensor
    embedding: torch.Tensor
    products: torch.Tensor
    _factors: dict[float, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def images(self) -> int:
        """How many images the sums go over."""
        return len(self.totals)

    @property
    def label_share(self) -> torch.Tensor:
        """The mean share of each label, [C] float64."""
        return self.share / max(1, self.images)

    @property
    def embeddings(self) -> EmbeddingSums:
        """The sums over the embeddings alone."""
        return EmbeddingSums(self.images, self.embedding, self.products)

    @property
    def mean(self) -> torch.Tensor:
        """The mean embedding [D] float64."""
        return self.embeddings.mean

    @property
    def covariance(self) -> torch.Tensor:
        """The covariance of the embeddings [D, D] float64."""
        return self.embeddings.covariance

    def solve(self, ridge: float, rows: torch.Tensor) -> torch.Tensor:
        """Return (Cov(e) + ridge mean variance I)^-1 applied to every row [R, D] float64."""
        if ridge not in self._factors:
            self._factors[ridge] = torch.linalg.lu_factor(self._regular(ridge))
        solution: torch.Tensor = torch.linalg.lu_solve(*self._factors[ridge], rows.T).T
        return solution

    def _regular(self, ridge: float) -> torch.Tensor:
        covariance = self.covariance
        penalty = (ridge * covariance.trace() / len(covariance)).clamp(min=_TINY)
        return covariance + penalty * torch.eye(len(covariance), dtype=torch.float64)

    def and_of(self, more: DatasetSums) -> DatasetSums:
        """Return the sums over these images and then `more`, for the same labels and scale."""
        return DatasetSums(
            torch.cat([self.totals, more.totals]),
            self.share + more.share,
            self.root + more.root,
            self.embedding + more.embedding,
            self.products + more.products,
        )


def dataset_sums(tiles: Iterable[torch.Tensor], texts: torch.Tensor, scale: float) -> DatasetSums:
    """Return the sums over the embeddings [n, D] of all tiles for texts [C, D]; memory [images], [C], [D, D]."""
    candidates, width = texts.shape
    share, root, embedded = _zeros(candidates), _zeros(candidates), EmbeddingSums.of_width(width)
    totals: list[torch.Tensor] = []
    # a nearly flat softmax differs in digits that float32 has of exp - 1 only
    flat = candidates > 0 and scale * float(torch.linalg.vector_norm(texts, dim=1).max()) < 1
    rows = max(1, _BLOCK_BYTES // (4 * max(1, candidates)))
    block = texts.new_empty(rows, candidates)  # one memory for all: freed and taken again, it would pile up
    for tile in tiles:
        embedded.add(tile)
        of_tile = torch.empty(len(tile))
        for start in range(0, len(tile), rows):
            part = tile[start : start + rows]
            powers = torch.mm(part, texts.T, out=block[: len(part)]).mul_(scale)
            if flat:
                wide = candidates + powers.expm1_().sum(1).double()
                of_tile[start : start + rows] = wide.log()
                share += (wide.reciprocal().float() @ powers).double() + wide.reciprocal().sum()
                root += wide.rsqrt().float() @ powers.add_(1).sqrt_()
                continue
            highest = powers.amax(1)
            sums = powers.sub_(highest[:, None]).exp_().sum(1)
            of_tile[start : start + rows] = highest + sums.log()
            share += sums.reciprocal() @ powers
            root += sums.rsqrt() @ powers.sqrt_()
        totals.append(of_tile)
    joined = torch.cat(totals) if totals else torch.zeros(0)
    return DatasetSums(joined, share, root, embedded.embedding, embedded.products)


def label_share(vectors: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the sum over images of softmax_t(scale T(t).e(x)) for image embeddings [n, D], as float64 [C]."""
    return dataset_sums([vectors], texts, scale).share


def log_totals(vectors: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    """Return log sum_t exp(scale T(t).e(x)) of image embeddings [n, D] for texts [C, D], [n] float32."""
    parts = vectors.split(max(1, _BLOCK_BYTES // (4 * max(1, len(texts)))))
    return torch.cat([(part @ texts.T).mul_(scale).logsumexp(1) for part in parts])


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.float64)
