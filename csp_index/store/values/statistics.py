"""Statistics of every neuron of a layer, computed shard by shard in bounded memory. Pure numerics, no I/O.

The same activations in the same shards give the same numbers, in one process or several.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from csp_index.ordering import mix, rank_keys, split_keys
from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.tensors.library import torch

SAMPLE = 4096  # images sampled for the quantiles, which are exact up to this number of images
_CANCELLED = 0.05  # share of a sum of squares below which a difference of two such sums loses digits
_BLOCK_BYTES = 1 << 19  # of a block of neurons in float64: fits in a core's cache


class NeuronStatistics:
    """Running mean, standard deviation, extremes, firing rate, quantiles and top images of M neurons."""

    def __init__(self, neurons: int, top: int = 100) -> None:
        """Start empty for M `neurons`, keeping the `top` highest activating images of each."""
        self.images = 0
        self._top = top
        self._mean = np.zeros(neurons)
        self._squares = np.zeros(neurons)  # sum of squared distances from the mean
        self._min = np.full(neurons, np.inf, np.float32)
        self._max = np.full(neurons, -np.inf, np.float32)
        self._firing = np.zeros(neurons, np.int64)
        self._keys = torch.zeros(neurons, 0, dtype=torch.int64)  # the rank keys of the top images, highest first
        self._sample = np.zeros((neurons, 0), np.float32)  # in no particular order
        self._priority = np.zeros(0, np.int64)

    def update(self, activations: torch.Tensor) -> None:
        """Add the next images' activations [M, n], float32 and finite, in image order."""
        count = activations.shape[1]
        if count == 0:
            return
        values = activations.contiguous().numpy()
        ids = torch.arange(self.images, self.images + count)
        first = self._fill_top(activations, ids)
        lowest = split_keys(self._keys[:, -1:])[0].numpy()  # [M, 1]: what a later image must exceed to be a top one
        slots, selected = self._make_room(ids)
        entered: list[np.ndarray] = []
        # A block of neurons at a time: it is read from memory once and stays in the cache for the other steps.
        size = max(1, _BLOCK_BYTES // (8 * count))
        wide = np.empty((min(size, len(values)), count))
        for start in range(0, len(values), size):
            block = slice(start, start + size)
            self._take_moments(block, values[block], wide[: len(values[block])])
            self._sample[block, slots] = values[block][:, selected]
            if first < count:
                entered.append(np.flatnonzero(values[block, first:] > lowest[block]) + start * (count - first))
        if entered:
            neuron, place = np.divmod(np.concatenate(entered), count - first)
            self._take_top(values, neuron, place + first)
        self.images += count

    def top_images(self, most: int) -> np.ndarray:
        """Return the ids [M, K] of the highest activating images so far, at most `most`, highest first."""
        ids: np.ndarray = split_keys(self._keys[:, :most])[1].numpy()
        return ids

    def _take_moments(self, block: slice, values: np.ndarray, wide: np.ndarray) -> None:
        # Chan's parallel update: exact enough for any offset, unlike a running sum of squares.
        count = values.shape[1]
        total = self.images + count
        np.copyto(wide, values)
        mean = wide.mean(1)
        raw = np.einsum("mn,mn->m", wide, wide)
        squares = raw - count * np.square(mean)  # of the distances from the mean, where they are not small beside it
        small = np.flatnonzero(squares < _CANCELLED * raw)
        if len(small):
            distances = wide[small] - mean[small, None]
            squares[small] = np.einsum("mn,mn->m", distances, distances)
        shift = mean - self._mean[block]
        self._squares[block] += squares + np.square(shift) * (self.images * count / total)
        self._mean[block] += shift * (count / total)
        np.minimum(self._min[block], values.min(1), out=self._min[block])
        np.maximum(self._max[block], values.max(1), out=self._max[block])
        self._firing[block] += np.count_nonzero(values > 0, axis=1)

    def _fill_top(self, activations: torch.Tensor, ids: torch.Tensor) -> int:
        """Add the first images to top lists that are not full; return how many. Fewer than all: they are full."""
        if self._keys.shape[1] == self._top:
            return 0
        keys = torch.cat([self._keys, rank_keys(activations[:, : self._top], ids[: self._top])], 1)
        self._keys = keys.topk(min(self._top, keys.shape[1]), dim=1).values
        return min(self._top, len(ids))

    def _take_top(self, values: np.ndarray, neuron: np.ndarray, place: np.ndarray) -> None:
        """Merge images, at columns `place` of `values` [M, n], into the top lists of the neurons `neuron` (sorted).

        Their activations exceed the lowest of the list; an equal one does not enter, because its id is higher.
        """
        if not len(neuron):
            return
        starts = np.flatnonzero(np.diff(neuron, prepend=-1))
        changed, counts = neuron[starts], np.diff(starts, append=len(neuron))
        column = np.arange(len(neuron)) - np.repeat(starts, counts)
        more = np.full((len(changed), counts.max()), np.iinfo(np.int64).min)
        new_keys = rank_keys(torch.from_numpy(values[neuron, place]), torch.from_numpy(place + self.images))
        more[np.repeat(np.arange(len(changed)), counts), column] = new_keys.numpy()
        keys = np.concatenate([self._keys.numpy()[changed], more], 1)
        keys.sort(axis=1)
        self._keys[torch.from_numpy(changed)] = torch.from_numpy(keys[:, : -self._top - 1 : -1].copy())

    def _make_room(self, ids: torch.Tensor) -> tuple[slice | np.ndarray, slice | np.ndarray]:
        """Return the columns of the sample to overwrite, and which of the new images go there."""
        # The images of lowest hash are a uniform sample that does not depend on how the images were cut into shards.
        filled = len(self._priority)
        priority = np.concatenate([self._priority, mix(ids).numpy()])
        if filled < SAMPLE:
            grown = np.empty((len(self._sample), min(len(priority), SAMPLE)), np.float32)
            grown[:, :filled] = self._sample
            self._sample = grown
        if len(priority) <= SAMPLE:
            self._priority = priority
            return slice(filled, None), slice(None)
        keep = np.argpartition(priority, SAMPLE - 1)[:SAMPLE]
        selected = np.sort(keep[keep >= filled])
        slots = np.setdiff1d(np.arange(SAMPLE), keep[keep < filled])
        self._priority = priority[:SAMPLE].copy()
        self._priority[slots] = priority[selected]
        return slots, selected - filled

    def to_arrow(self, key: LayerKey) -> pa.Table:
        """Return the rows of the `neurons` table."""
        neurons = len(self._mean)
        values, ids = split_keys(self._keys)
        place = np.rint(np.array(schema.QUANTILES) * (self._sample.shape[1] - 1)).astype(np.int64)
        quantiles = np.sort(self._sample, axis=1)[:, place]
        quantiles[:, 0], quantiles[:, -1] = self._min, self._max
        columns = {
            "model": pa.array([key.model] * neurons),
            "layer": pa.array([key.layer] * neurons),
            "neuron": pa.array(range(neurons), pa.int32()),
            "images": pa.array([self.images] * neurons, pa.int64()),
            "mean": pa.array(self._mean),
            "std": pa.array(np.sqrt(self._squares / max(self.images, 1))),
            "min": pa.array(self._min),
            "max": pa.array(self._max),
            "firing_rate": pa.array(self._firing / max(self.images, 1)),
            "quantiles": as_lists(torch.from_numpy(quantiles)),
            "top_images": as_lists(ids),
            "top_activations": as_lists(values),
        }
        return pa.table(columns, schema=schema.table_schema(schema.NEURONS))


def as_lists(rows: torch.Tensor) -> pa.ListArray:
    """Return a tensor [R, n] as an Arrow list array of R lists, without copying row by row."""
    count, width = rows.shape
    offsets = pa.array(range(0, count * width + 1, width) if width else [0] * (count + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(rows.contiguous().reshape(-1).numpy()))
