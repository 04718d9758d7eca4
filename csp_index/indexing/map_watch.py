"""Which maps of a pass over images are worth keeping while the network runs: those of images that may be top images.

A neuron's map of an image is taken if the image may be among those that activate it most. What is taken is a superset:
which maps are stored is decided shard by shard, by the statistics (`kept_maps`). So neither the order of batches nor a
resumed pass changes what is stored. Knows nothing about the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from csp_index.models.layers.coarse_maps import coarse_maps
from csp_index.models.layers.pooling import Pool


@dataclass(frozen=True, slots=True, eq=False)
class BatchMaps:
    """Coarse maps of P pairs of an image and a neuron; an image is a row of the batch, or counted otherwise."""

    rows: np.ndarray  # [P] int64
    neurons: np.ndarray  # [P] int64
    scales: np.ndarray  # [P] float32
    maps: np.ndarray  # [P, h, w] uint8

    def of(self, rows: Sequence[int]) -> BatchMaps:
        """Return the maps of some rows (sorted), counted among these."""
        numbers = np.asarray(rows, dtype=np.int64)
        places = np.searchsorted(numbers, self.rows)
        kept = places < len(numbers)
        kept[kept] = numbers[places[kept]] == self.rows[kept]
        return BatchMaps(places[kept], self.neurons[kept], self.scales[kept], self.maps[kept])

    def numbered(self, numbers: np.ndarray) -> BatchMaps:
        """Return the maps with row i counted as `numbers`[i]."""
        return BatchMaps(numbers[self.rows], self.neurons, self.scales, self.maps)

    def between(self, start: int, stop: int, shift: int) -> BatchMaps:
        """Return the maps of rows start .. stop - 1, counted from `shift`."""
        kept = (self.rows >= start) & (self.rows < stop)
        return BatchMaps(self.rows[kept] - start + shift, self.neurons[kept], self.scales[kept], self.maps[kept])


def joined_maps(pieces: Sequence[tuple[BatchMaps, int, int]]) -> BatchMaps:
    """Return the maps of pieces of batches, rows start .. stop - 1 of each, at least one, counted over all of them."""
    parts, count = [], 0
    for maps, start, stop in pieces:
        parts.append(maps.between(start, stop, count))
        count += stop - start
    return joined(parts)


def no_maps() -> BatchMaps:
    """Return the maps of no pair."""
    none = np.zeros(0, np.int64)
    return BatchMaps(none, none, np.zeros(0, np.float32), np.zeros((0, 1, 1), np.uint8))


def joined(parts: Sequence[BatchMaps]) -> BatchMaps:
    """Return several maps together."""
    some = [part for part in parts if len(part.rows)]
    columns = ([getattr(part, name) for part in some] for name in ("rows", "neurons", "scales", "maps"))
    return BatchMaps(*map(np.concatenate, columns)) if some else no_maps()


@dataclass(frozen=True, slots=True)
class WatchedLayer:
    """A layer whose maps are kept: its pool, its neurons, and whether activations are stored in half precision."""

    pool: Pool
    neurons: int
    half: bool = False


class _Taker:
    """What a watch took of a batch, by layer."""

    def __init__(self) -> None:
        self._taken: dict[str, BatchMaps] = {}

    def taken(self) -> dict[str, BatchMaps]:
        """Return what was taken of the last batch, by layer, and forget it."""
        taken, self._taken = self._taken, {}
        return taken

    def _take(self, layer: str, maps: torch.Tensor, rows: torch.Tensor, neurons: torch.Tensor, pool: Pool) -> None:
        levels, scales = coarse_maps(maps, rows, neurons, pool)
        self._taken[layer] = BatchMaps(*(part.cpu().numpy() for part in (rows, neurons, scales, levels)))


class PairWatch(_Taker):
    """Takes the maps of named pairs of an image and a neuron."""

    def __init__(self, layers: Mapping[str, Pool]) -> None:
        """Take maps of layers, whose pools are given, once pairs are expected."""
        super().__init__()
        self.layers = layers
        self._pairs: Mapping[str, tuple[np.ndarray, np.ndarray]] = {}

    def expect(self, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Name the pairs of the next batch by layer: rows [P] and neurons [P]."""
        self._pairs = pairs

    def __call__(self, layer: str, values: torch.Tensor, maps: torch.Tensor | None) -> None:
        """Take the maps of the expected pairs."""
        if layer in self._pairs and maps is not None:
            rows, neurons = (torch.from_numpy(part).to(maps.device) for part in self._pairs[layer])
            self._take(layer, maps, rows, neurons, self.layers[layer])

    def learn(self, layer: str, values: torch.Tensor) -> None:
        """Learn nothing: the pairs are known."""


class TopWatch(_Taker):
    """Takes the maps of a network's layers that may be among the `most` highest activations of their neurons."""

    def __init__(self, layers: Mapping[str, WatchedLayer], most: int) -> None:
        """Start without knowing any activation: the first `most` images are all taken."""
        super().__init__()
        self.layers = layers
        self._highest = {name: torch.full((layer.neurons, most), -torch.inf) for name, layer in layers.items()}

    def __call__(self, layer: str, values: torch.Tensor, maps: torch.Tensor | None) -> None:
        """Take the maps of a batch whose activations [B, M] may enter the lists of the highest."""
        watched = self.layers.get(layer)
        if watched is None or maps is None:
            return
        low = self._highest[layer][:, -1].to(values.device)
        stored = _as_stored(values, watched)
        # Another process may have seen later images, to which an equal one is preferred. At 0 a neuron that never fires
        # would take every image; its maps are blank.
        chosen = (stored > low) | ((stored == low) & (stored != 0))
        rows, neurons = chosen.nonzero(as_tuple=True)
        self._take(layer, maps, rows, neurons, watched.pool)

    def learn(self, layer: str, values: torch.Tensor) -> None:
        """Put activations [B, M] of images that will be stored, finite, into the lists of the highest."""
        watched = self.layers.get(layer)
        if watched is None or not len(values):
            return
        highest, stored = self._highest[layer], _as_stored(values, watched)
        changed = (stored > highest[:, -1]).any(0).nonzero().flatten()
        both = torch.cat([highest[changed], stored[:, changed].T], 1)
        highest[changed] = both.topk(highest.shape[1], dim=1).values


def _as_stored(values: torch.Tensor, watched: WatchedLayer) -> torch.Tensor:
    return values.half().float() if watched.half else values
