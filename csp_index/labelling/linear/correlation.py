"""Correlations of neurons with the presence of texts over all images: sums over images, pure tensor functions.

What depends on images and texts alone comes first (`TextStatistics`). One pass gives the correlation of every neuron
with every text; a second one, for a short list of texts per neuron, what regressions on them need. Nothing of the size
images x texts is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.labelling.response.dataset_sums import EmbeddingSums
from csp_index.tensors.library import torch

_IMAGES = 2048  # in a block at most
_PRESENCE_BYTES = 16 * 2**20  # of the presence of a block of texts in a block of images
_USED_BYTES = 64 * 2**20  # of the presence of all listed texts in a block of images
_LISTED_BYTES = 2 * 2**20  # of the presence of the listed texts of a block of neurons, which the cache should hold
_ROWS = 256  # neurons finished at once
_FLAT = 1e-9  # a deviation that is only rounding


@dataclass(frozen=True, slots=True)
class Moments:
    """Means and standard deviations over the images the answer rests on, float64 [M]; 1 where nothing varies."""

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor) -> Moments:
        """Return the moments of values [M, n], n >= 1."""
        wide = values.double()
        return cls.known(wide.mean(1), wide.std(1, correction=0))

    @classmethod
    def known(cls, mean: torch.Tensor, deviation: torch.Tensor) -> Moments:
        """Return moments [M] that were computed elsewhere; no deviation becomes 1."""
        return cls(mean.double(), torch.where(deviation > _FLAT, deviation.double(), 1.0))

    def standardized(self, values: torch.Tensor) -> torch.Tensor:
        """Return values [M, n] minus the mean, in deviations."""
        return (values - self.mean[:, None].float()).mul_(self.deviation[:, None].reciprocal().float())


class TextPresence:
    """The presence of C texts in images, computed a block at a time."""

    def __init__(self, texts: torch.Tensor, sigmoids: PresenceSigmoids) -> None:
        """Start from the texts [C, D] and their sigmoids [C]."""
        self._rows = texts * sigmoids.slope[:, None]
        self._bias = (sigmoids.slope * sigmoids.shift)[:, None]

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, embeddings: torch.Tensor, pick: slice = slice(None)) -> torch.Tensor:
        """Return the presence [c, n] of the picked texts in images [n, D]."""
        return torch.addmm(self._bias[pick], self._rows[pick], embeddings.T).sigmoid_()


@dataclass(frozen=True, slots=True)
class TextStatistics:
    """What depends on the images and the texts alone: the texts' sigmoids [C], and mean and deviation of presence.

    Of `images` images; `mean` and `deviation` [C] float64, the deviation 0 where presence is the same in all images.
    """

    images: int
    sigmoids: PresenceSigmoids
    mean: torch.Tensor
    deviation: torch.Tensor

    @property
    def presence(self) -> Moments:
        """The moments of the texts' presence, [C]."""
        return Moments.known(self.mean, self.deviation)


def text_statistics(tiles: Callable[[], Iterable[torch.Tensor]], texts: torch.Tensor) -> TextStatistics:
    """Return the statistics of texts [C, D] from two passes over the embeddings [n, D] of all tiles, n >= 1."""
    embedded = EmbeddingSums.of_width(texts.shape[1])
    for tile in tiles():
        embedded.add(tile)
    sigmoids = _sigmoids(embedded, texts)
    presence = TextPresence(texts, sigmoids)
    c, cc = (torch.zeros(len(texts), dtype=torch.float64) for _ in range(2))
    for tile in tiles():
        for part in _blocks(len(tile), _IMAGES):
            for pick in _blocks(len(texts), _PRESENCE_BYTES // (4 * _IMAGES)):
                values = presence.of(tile[part], pick)
                c[pick] += values.sum(1)
                cc[pick] += torch.linalg.vector_norm(values, dim=1).double().square()
    mean = c / max(1, embedded.images)
    deviation = (cc / max(1, embedded.images) - mean.square()).clamp(min=0).sqrt()
    return TextStatistics(embedded.images, sigmoids, mean, deviation)


def _sigmoids(embedded: EmbeddingSums, texts: torch.Tensor) -> PresenceSigmoids:
    wide = texts.double()
    spread = ((wide @ embedded.covariance) * wide).sum(1).clamp(min=0).sqrt()
    return PresenceSigmoids.of_moments(wide @ embedded.mean, spread)


class CorrelationSums:
    """The first pass: correlations of M neurons with the presence of C texts; memory [M, C].

    With `only_varying`, images on which all activations are 0 may be left out.
    """

    def __init__(
        self, moments: Moments, texts: torch.Tensor, statistics: TextStatistics, *, only_varying: bool = False
    ) -> None:
        """Start from the neurons' moments [M], the texts [C, D] and their statistics over the same images."""
        self._texts, self._statistics = TextPresence(texts, statistics.sigmoids), statistics
        none = torch.zeros_like(moments.mean)
        self._moments = Moments(none, moments.deviation) if only_varying else moments
        self._left_out = moments.mean / moments.deviation if only_varying else none
        self._ac = torch.zeros(len(moments.mean), len(texts))

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor) -> None:
        """Add the embeddings [n, D] of the next images and the neurons' activations [M, n] on them.

        Sums over a block are float32: float64 ones take twenty times as long.
        """
        standard = self._moments.standardized(activations)
        for part in _blocks(len(embeddings), _IMAGES):
            for texts in _blocks(len(self._texts), _PRESENCE_BYTES // (4 * _IMAGES)):
                self._ac[:, texts].addmm_(standard[:, part], self._texts.of(embeddings[part], texts).T)

    def finish(self) -> torch.Tensor:
        """Return the correlations [M, C] in [-1, 1]; 0 for a text whose presence is the same in all images."""
        images, presence = max(1, self._statistics.images), self._statistics.presence
        scale = 1 / (images * presence.deviation)
        scale = scale.masked_fill(self._statistics.deviation <= _FLAT, 0.0)
        for start in range(0, len(self._ac), _ROWS):
            rows = slice(start, start + _ROWS)
            if self._left_out[rows].any():
                less = images * self._left_out[rows, None] * presence.mean
                self._ac[rows] = (self._ac[rows] - less).float()
            self._ac[rows].mul_(scale.float()).clamp_(-1, 1)
        return self._ac


@dataclass(frozen=True, slots=True)
class PartSums:
    """Of one part of the images: counts, and sums of products of standardized activations and listed presences.

    `images` is their number; `a`, `aa` [M] sums of activations and of their squares; `c` [M, L] sums of presences,
    `ac` [M, L] of products with the activations, `cc` [M, L, L] of products of two presences. All float32 sums of
    standardized values, so they keep their digits.
    """

    images: int
    a: torch.Tensor
    aa: torch.Tensor
    c: torch.Tensor
    ac: torch.Tensor
    cc: torch.Tensor

    def centered(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return covariances of some neurons, float64: aa [m], ac [m, L], cc [m, L, L]."""
        count = max(1, self.images)
        a, c = self.a[rows].double() / count, self.c[rows].double() / count
        aa = self.aa[rows].double() / count - a.square()
        ac = self.ac[rows].double() / count - a[:, None] * c
        return aa, ac, self.cc[rows].double() / count - c[:, :, None] * c[:, None, :]


class ListedSums:
    """The second pass: for the L listed texts of each of M neurons, sums over two parts of the images.

    Memory [M, L, L] for each part, and the presence of the used texts in a block of images.
    """

    def __init__(
        self,
        moments: Moments,
        texts: torch.Tensor,
        statistics: TextStatistics,
        listed: torch.Tensor,
    ) -> None:
        """Start from what the first pass had, and the listed texts' places [M, L]."""
        sigmoids, presence = statistics.sigmoids, statistics.presence
        used, self._place = listed.unique(return_inverse=True)
        self._moments = moments
        own = PresenceSigmoids(sigmoids.slope[used], sigmoids.shift[used])
        self._texts = TextPresence(texts[used], own)
        self._presence = Moments(presence.mean[used], presence.deviation[used])
        neurons, count = listed.shape
        self._images = [0, 0]
        self._a, self._aa = torch.zeros(2, neurons, dtype=torch.float64), torch.zeros(2, neurons, dtype=torch.float64)
        self._c = torch.zeros(2, len(used), dtype=torch.float64)
        self._ac = torch.zeros(2, neurons, count)
        self._cc = torch.zeros(2, neurons, count, count)

    def add(self, embeddings: torch.Tensor, activations: torch.Tensor, second: torch.Tensor) -> None:
        """Add the next images, [n, D] and [M, n]; `second` [n] bool says which are of the second part."""
        standard = self._moments.standardized(activations)
        for number, side in enumerate((~second, second)):
            images = side.nonzero()[:, 0]
            self._images[number] += len(images)
            own, fired = embeddings[images], standard[:, images]
            self._a[number] += fired.sum(1)
            self._aa[number] += fired.square().sum(1)
            for part in _blocks(len(images), max(16, _USED_BYTES // (4 * len(self._texts)))):
                self._add(number, self._presence.standardized(self._texts.of(own[part])), fired[:, part])

    def _add(self, number: int, presence: torch.Tensor, fired: torch.Tensor) -> None:
        self._c[number] += presence.sum(1)
        size = max(1, _LISTED_BYTES // (4 * self._place.shape[1] * max(1, presence.shape[1])))
        for start in range(0, len(self._place), size):
            pick = slice(start, start + size)
            listed = presence[self._place[pick]]
            self._cc[number, pick].baddbmm_(listed, listed.mT)
            self._ac[number, pick, :, None].baddbmm_(listed, fired[pick, :, None])

    def parts(self) -> tuple[PartSums, PartSums]:
        """Return the sums of the first and of the second part."""
        first, second = (
            PartSums(
                self._images[number],
                self._a[number],
                self._aa[number],
                self._c[number][self._place],
                self._ac[number],
                self._cc[number],
            )
            for number in (0, 1)
        )
        return first, second


def correlations(embeddings: torch.Tensor, activations: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Return the scores of `linear-1` [M, C] for arrays in memory: correlations of activations with presences.

    `embeddings` [N, D] and `texts` [C, D] are unit vectors, `activations` is [M, N].
    """
    statistics = text_statistics(lambda: [embeddings], texts)
    first = CorrelationSums(Moments.of(activations), texts, statistics)
    first.add(embeddings, activations)
    return first.finish()


def _blocks(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)
