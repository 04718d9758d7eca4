"""Coarse activation maps: where in an image a neuron fires, in seven bits of a byte per place. Pure tensor functions.

A map has the values before pooling, reduced to at most 14 x 14 places as the neuron is pooled: by the mean of the
places where its activation is a mean, by their maximum where it is a maximum. Places that do not fire are 0.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from csp_index.models.layers.pooling import Grid, Pool, as_maps

MOST_SIDE: Final = 14
"""Rows and columns of a coarse map, at most."""

_LEVELS: Final = 255
_PIECE: Final = 1 << 23  # values of maps that are reduced at once


class Watch(Protocol):
    """Sees the maps of a layer while a network runs, before what follows may change them."""

    def __call__(self, layer: str, values: Tensor, maps: Tensor | None) -> None:
        """Take a layer's pooled values [B, M] and its maps [B, M, H, W], a view; None where it has no places."""


def map_grid(shape: tuple[int, ...], pool: Pool, prefix_tokens: int = 0, grid: Grid | None = None) -> Grid | None:
    """Return the rows and columns of the maps in one image's output of `shape`; None if its neurons have no places.

    >>> map_grid((64, 7, 7), "mean"), map_grid((197, 768), "token-mean", 1), map_grid((197, 768), "cls", 1)
    ((7, 7), (14, 14), None)
    """
    maps = as_maps(torch.empty((1, *shape), device="meta"), pool, prefix_tokens, grid)
    return None if maps is None else (int(maps.shape[2]), int(maps.shape[3]))


def coarse_grid(grid: Grid) -> Grid:
    """Return the rows and columns of the coarse map of a map.

    >>> coarse_grid((56, 7))
    (14, 7)
    """
    return min(grid[0], MOST_SIDE), min(grid[1], MOST_SIDE)


def coarse_maps(maps: Tensor, rows: Tensor, neurons: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Return coarse maps [C, h, w], uint8, and their scales [C]: the value of a place is scale x byte / 255.

    Each is of an image, one of `rows` [C], and a neuron, one of `neurons` [C], of `maps` [B, M, H, W]. The scale is the
    largest value of the coarse map, 0 (and the map 0) where no place fires.
    """
    coarse = coarse_grid((maps.shape[2], maps.shape[3]))
    size = max(1, _PIECE // (maps.shape[2] * maps.shape[3]))
    pieces = [
        _reduced(maps[some, own].float(), coarse, by_maximum="max" in pool)
        for some, own in zip(rows.split(size), neurons.split(size), strict=True)
    ]
    return as_levels(torch.cat(pieces) if pieces else maps.new_zeros(0, *coarse, dtype=torch.float32))


def coarse_means(maps: Tensor) -> Tensor:
    """Return maps [C, h, w] reduced to at most 14 x 14 places, by means."""
    return _reduced(maps, coarse_grid((maps.shape[1], maps.shape[2])), by_maximum=False)


def as_levels(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Return maps [C, h, w] as bytes, and their scales [C]: negative values are 0, the largest is 255.

    Others are the nearest odd number, or 0 if less than a half: seven bits, into which the compression of the store
    brings even noise. So 14 x 14 places, with image and scale, take less than 200 bytes, whatever is in them.
    """
    fires = maps.clamp(min=0)
    scales = fires.flatten(1).amax(1) if len(fires) else fires.new_zeros(0)
    values = fires * (_LEVELS / scales.clamp(min=torch.finfo(torch.float32).tiny))[:, None, None]
    values = values.nan_to_num(posinf=_LEVELS).clamp(max=_LEVELS)
    return torch.where(values < 0.5, 0, 2 * (values / 2).floor() + 1).to(torch.uint8), scales


def _reduced(maps: Tensor, size: Grid, *, by_maximum: bool) -> Tensor:
    if tuple(maps.shape[1:]) == size:
        return maps
    return functional.adaptive_max_pool2d(maps, size) if by_maximum else functional.adaptive_avg_pool2d(maps, size)
