"""Statistics of every neuron of a layer, gathered shard by shard in bounded memory. Pure numerics, no I/O.

The same activations in the same shards give the same numbers, whether one process saw them or several did.
"""

from __future__ import annotations

import pyarrow as pa
import torch

from csp_index import schema
from csp_index.records import LayerKey

SAMPLE = 4096  # images kept for the quantiles, which are exact up to so many images
_ID_SPAN = 1 << 32


class NeuronStatistics:
    """Running mean, standard deviation, extremes, firing rate, quantiles and top images of M neurons."""

    def __init__(self, neurons: int, top: int = 100) -> None:
        """Start empty for M `neurons`, keeping the `top` highest activating images of each."""
        self.images = 0
        self._top = top
        self._mean = torch.zeros(neurons, dtype=torch.float64)
        self._squares = torch.zeros(neurons, dtype=torch.float64)  # sum of squared distances from the mean
        self._min = torch.full((neurons,), torch.inf)
        self._max = torch.full((neurons,), -torch.inf)
        self._firing = torch.zeros(neurons, dtype=torch.int64)
        self._keys = torch.zeros(neurons, 0, dtype=torch.int64)
        self._sample = torch.zeros(neurons, 0)
        self._priority = torch.zeros(0, dtype=torch.int64)

    def update(self, activations: torch.Tensor) -> None:
        """Take in the next images' activations [M, n], float32 and finite, in image order."""
        count = activations.shape[1]
        if count == 0:
            return
        self._take_moments(activations)
        self._min = torch.minimum(self._min, activations.amin(1))
        self._max = torch.maximum(self._max, activations.amax(1))
        self._firing += (activations > 0).sum(1)
        ids = torch.arange(self.images, self.images + count)
        keys = torch.cat([self._keys, rank_keys(activations, ids)], 1)
        self._keys = keys.topk(min(self._top, keys.shape[1]), dim=1).values
        self._take_sample(activations, ids)
        self.images += count

    def _take_moments(self, activations: torch.Tensor) -> None:
        # Chan's parallel update: exact enough for any offset, unlike a running sum of squares.
        count = activations.shape[1]
        values = activations.double()
        mean = values.mean(1)
        total = self.images + count
        shift = mean - self._mean
        self._squares += (values - mean[:, None]).square().sum(1) + shift.square() * (self.images * count / total)
        self._mean += shift * (count / total)

    def _take_sample(self, activations: torch.Tensor, ids: torch.Tensor) -> None:
        # The images of lowest hash are a uniform sample that does not depend on how the images were cut into shards.
        priority = torch.cat([self._priority, mix(ids)])
        sample = torch.cat([self._sample, activations], 1)
        if len(priority) > SAMPLE:
            keep = priority.topk(SAMPLE, largest=False, sorted=False).indices.sort().values
            priority, sample = priority[keep], sample[:, keep]
        self._priority, self._sample = priority, sample

    def to_arrow(self, key: LayerKey) -> pa.Table:
        """Return the rows of the `neurons` table."""
        neurons = len(self._mean)
        values, ids = split_keys(self._keys)
        points = torch.tensor(schema.QUANTILES, dtype=torch.float64)
        ordered = self._sample.sort(1).values
        place = (points * (ordered.shape[1] - 1)).round().long()
        quantiles = ordered[:, place]
        quantiles[:, 0], quantiles[:, -1] = self._min, self._max
        columns = {
            "model": pa.array([key.model] * neurons),
            "layer": pa.array([key.layer] * neurons),
            "neuron": pa.array(range(neurons), pa.int32()),
            "images": pa.array([self.images] * neurons, pa.int64()),
            "mean": pa.array(self._mean.numpy()),
            "std": pa.array((self._squares / max(self.images, 1)).sqrt().numpy()),
            "min": pa.array(self._min.numpy()),
            "max": pa.array(self._max.numpy()),
            "firing_rate": pa.array((self._firing.double() / max(self.images, 1)).numpy()),
            "quantiles": as_lists(quantiles),
            "top_images": as_lists(ids),
            "top_activations": as_lists(values),
        }
        return pa.table(columns, schema=schema.table_schema(schema.NEURONS))


def rank_keys(activations: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return int64 keys [M, n] that order by activation, then by lower image id: no two are equal.

    The high half is the float's bits made order-preserving, the low half counts ids downwards.
    """
    bits = (activations + 0.0).view(torch.int32).long()  # + 0.0 turns -0.0 into 0.0, so that the two tie
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ordered * _ID_SPAN + (_ID_SPAN - 1 - ids)


def split_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the activations (float32) and image ids (int64) of rank keys.

    >>> values, ids = split_keys(rank_keys(torch.tensor([[0.5, -2.0]]), torch.tensor([3, 4])))
    >>> values.tolist(), ids.tolist()
    ([[0.5, -2.0]], [[3, 4]])
    """
    ids = _ID_SPAN - 1 - (keys & (_ID_SPAN - 1))
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return bits.int().view(torch.float32), ids


def mix(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return a well-mixed non-negative int64 hash of int64 values (the finaliser of splitmix64, with wrap-around)."""
    offset = ((seed + 1) * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63  # as a signed 64-bit number
    mixed = values + offset
    mixed = (mixed ^ (mixed >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return (mixed ^ (mixed >> 31 & 0x1FFFFFFFF)) & 0x7FFFFFFFFFFFFFFF


def as_lists(rows: torch.Tensor) -> pa.ListArray:
    """Return a tensor [R, n] as an Arrow list array of R lists, without copying row by row."""
    count, width = rows.shape
    offsets = pa.array(range(0, count * width + 1, width) if width else [0] * (count + 1), pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(rows.contiguous().reshape(-1).numpy()))
