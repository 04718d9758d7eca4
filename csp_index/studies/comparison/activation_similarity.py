"""Correlations of two layers over their shared images, streamed, and those of the two nulls over a sample of images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from csp_index.records import Progress
from csp_index.store import catalog
from csp_index.studies.comparison.correlation import CorrelationSums, ImageSample, Moments, correlations
from csp_index.studies.comparison.nulls import mixed_neurons, moved
from csp_index.studies.comparison.shared_images import SharedImages, Side, paired_tiles

_BYTES = 2**30  # of correlations in memory at once; of more, the images are read again for each block of neurons
_SAMPLE, _SAMPLE_BYTES = 4096, 2**28  # images of the nulls, at most, and their activations
_BLOCK = 1024  # rows of a null's correlations at once

Blocks = Callable[[], Iterator[np.ndarray]]


class ActivationSimilarity:
    """The correlations [M1, M2] of two layers and of their nulls, each in blocks of rows."""

    def __init__(self, first: Side, second: Side, shared: SharedImages, seed: int, progress: Progress) -> None:
        self._sides, self._shared, self._seed, self._progress = (first, second), shared, seed, progress
        self._moments = tuple(map(_moments, (first, second)))
        neurons = first.target.neurons + second.target.neurons
        size = min(_SAMPLE, max(2, _SAMPLE_BYTES // (4 * neurons)), len(shared))
        self._sample = ImageSample(len(shared), size, seed)

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the correlations; the first pass over the images also takes the sample of the nulls."""
        neurons, others = (side.target.neurons for side in self._sides)
        size = max(1, _BYTES // (4 * others))
        todo = -(-neurons // size) * len(self._shared)
        done = 0
        for start in range(0, neurons, size):
            chosen = np.arange(start, min(start + size, neurons))
            sums = CorrelationSums(self._moments[0].some(slice(start, start + size)), self._moments[1])
            whole = len(chosen) == neurons
            for one, two in paired_tiles(*self._sides, self._shared, None if whole else chosen):
                sums.add(one, two)
                if whole:
                    self._sample.add(one, two)
                done += one.shape[1]
                self._progress(done, todo, "images")
            yield sums.correlations()

    def nulls(self) -> tuple[Blocks, Blocks]:
        """Return the correlations where values belong to other images, and where neurons are random directions."""
        if not self._sample.is_full:  # the layers are so wide that no pass had all neurons
            for one, two in paired_tiles(*self._sides, self._shared):
                self._sample.add(one, two)
        first, second = self._sample.values()
        rng = np.random.default_rng([self._seed, 1])
        elsewhere, mixed = moved(second, rng), mixed_neurons(second, rng)
        return partial(_in_blocks, first, elsewhere), partial(_in_blocks, first, mixed)


def _in_blocks(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(first), _BLOCK):
        yield correlations(first[start : start + _BLOCK], second)


def _moments(side: Side) -> Moments:
    rows = catalog.neuron_rows(side.store, side.target)
    return Moments(rows["mean"].to_numpy(), rows["std"].to_numpy())
