"""Weighted means of the labels' shares of images, over a few images for each of many rows: pure tensor functions.

P(t|x) = exp(scale T(t).e(x) - total(x)) is the share of label t in image x (`dataset_sums`). A block of images and
labels at a time, small enough for a core's cache: products, one exponential, and sums with few weights that are not 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from csp_index.tensors.library import functional, torch
from csp_index.tensors.torch_threads import spread

_IMAGES = 2048  # of a block
_FEW_ROWS, _WIDE, _NARROW = 64, 512, 128  # labels of a block: for few rows and for many, whose sums read it often
_DENSE = 16  # a product with the whole block is faster than sums over entries if more than 1 weight in 16 is not 0


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of images for rows that are not 0: `rows` [E], `places` [E] of the images in a tile, `values` [E]."""

    rows: torch.Tensor
    places: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, dense: torch.Tensor) -> Weights:
        """Return the weights of a matrix [R, n]."""
        return cls.where(dense != 0, dense)

    @classmethod
    def where(cls, mask: torch.Tensor, dense: torch.Tensor) -> Weights:
        """Return the weights of a matrix [R, n] in the places of `mask` [R, n]."""
        flat = mask.view(-1).nonzero()[:, 0]
        rows = flat // max(1, mask.shape[1])
        return cls(rows, flat - rows * mask.shape[1], dense.reshape(-1)[flat])

    @classmethod
    def none(cls) -> Weights:
        """Return no weights."""
        return cls(torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64), torch.zeros(0))

    def and_of(self, more: Weights) -> Weights:
        """Return these weights and `more`."""
        return Weights(
            torch.cat([self.rows, more.rows]),
            torch.cat([self.places, more.places]),
            torch.cat([self.values, more.values]),
        )

    def sums(self, rows: int, vectors: torch.Tensor) -> torch.Tensor:
        """Return sum_i weight[r, i] vectors[i] over images with vectors [n, D], for every row, [rows, D]."""
        result = torch.zeros(rows, vectors.shape[1], dtype=vectors.dtype)
        for start, block in _blocks(self, rows, len(vectors)):
            block.add_to(result, vectors[start : start + _IMAGES])
        return result


class ShareMeans:
    """Sums of weight x P, and of weight x sqrt(P), for R rows and C labels, added a tile of images at a time.

    `share` and `root` are the sums so far, [R, C] float32; [R, 0] where they are not needed.
    """

    def __init__(self, rows: int, texts: torch.Tensor, scale: float, *, share: bool = True, root: bool = True) -> None:
        """Start without an image."""
        self._texts, self._half = texts, 0.5 * scale
        self._scaled = texts * self._half if len(texts) < _IMAGES else None  # else images are scaled, which are fewer
        self.share, self.root = (torch.zeros(rows, len(texts) * needed) for needed in (share, root))

    def add(self, embeddings: torch.Tensor, totals: torch.Tensor, weights: Weights) -> None:
        """Add images: their embeddings [n, D], totals [n], and the rows' weights."""
        rows = len(self.share)
        blocks = [
            (embeddings[start : start + _IMAGES], 0.5 * totals[start : start + _IMAGES, None], block)
            for start, block in _blocks(weights, rows, len(embeddings))
        ]
        texts = self._scaled
        if texts is None:
            texts, blocks = self._texts, [(self._half * vectors, total, block) for vectors, total, block in blocks]
        columns = _WIDE if rows <= _FEW_ROWS else _NARROW

        def add(first: int) -> None:
            part = slice(first, first + columns)
            labels = texts[part].T
            share, root = self.share[:, part].contiguous(), self.root[:, part].contiguous()
            for vectors, total, block in blocks:
                table = (vectors @ labels).sub_(total).exp_()
                if root.shape[1]:
                    block.add_to(root, table)
                if share.shape[1]:
                    block.add_to(share, table.square_())
            self.share[:, part], self.root[:, part] = share, root

        spread(add, range(0, len(self._texts), columns))


@dataclass(frozen=True, slots=True)
class _Dense:
    """Weights [R, n] of a block of images."""

    weights: torch.Tensor

    def add_to(self, sums: torch.Tensor, table: torch.Tensor) -> None:
        sums.addmm_(self.weights, table)


@dataclass(frozen=True, slots=True)
class _Sparse:
    """The weights of a block of images that are not 0, row by row."""

    rows: torch.Tensor  # those with any
    first: torch.Tensor  # int32: where each begins
    places: torch.Tensor  # int32
    values: torch.Tensor

    def add_to(self, sums: torch.Tensor, table: torch.Tensor) -> None:
        means = functional.embedding_bag(self.places, table, self.first, mode="sum", per_sample_weights=self.values)
        if len(means) == len(sums):
            sums.add_(means)
        else:
            sums.index_add_(0, self.rows, means)


def _blocks(weights: Weights, rows: int, images: int) -> list[tuple[int, _Dense | _Sparse]]:
    """Return the first place of every block of images with weights, and these."""
    number = weights.places // _IMAGES
    order = (number * rows + weights.rows).argsort(stable=True)
    ends = torch.bincount(number, minlength=-(-images // _IMAGES)).cumsum(0).tolist()
    blocks: list[tuple[int, _Dense | _Sparse]] = []
    begin = 0
    for block, end in enumerate(ends):
        if end > begin:
            pick, start = order[begin:end], block * _IMAGES
            row, place, value = weights.rows[pick], weights.places[pick] - start, weights.values[pick]
            size = min(_IMAGES, images - start)
            if (end - begin) * _DENSE > rows * size:
                dense = torch.zeros(rows, size, dtype=value.dtype).index_put_((row, place), value, accumulate=True)
                blocks.append((start, _Dense(dense)))
            else:
                distinct, counts = row.unique_consecutive(return_counts=True)
                first = (counts.cumsum(0) - counts).int()
                blocks.append((start, _Sparse(distinct, first, place.int(), value)))
        begin = end
    return blocks
