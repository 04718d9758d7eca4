"""Coarse maps: reduced as the neuron is pooled, an odd byte per place, negative values 0."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index.models.layers import coarse_maps as module
from csp_index.models.layers.coarse_maps import coarse_grid, coarse_maps, coarse_means, map_grid
from csp_index.models.layers.pooling import pooled

GENERATOR = torch.Generator().manual_seed(0)
PAIRS = (torch.tensor([0, 2, 1, 2]), torch.tensor([4, 0, 3, 1]))


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_a_coarse_map_pools_to_what_the_whole_one_does(pool: str) -> None:
    maps = torch.rand(3, 5, 28, 42, generator=GENERATOR)
    levels, scales = coarse_maps(maps, *PAIRS, pool)
    assert levels.dtype == torch.uint8 and levels.shape == (4, 14, 14)
    values = levels.float() / 255 * scales[:, None, None]
    again = values.mean((1, 2)) if pool == "mean" else values.amax((1, 2))
    torch.testing.assert_close(again, pooled(maps, pool)[PAIRS], atol=float(scales.max()) / 255, rtol=0)


def test_small_maps_stay_and_negative_values_are_0(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(3, 5, 4, 6, generator=GENERATOR)
    maps[0, 4] = -maps[0, 4].abs()
    maps[2, 0] = 1e-42  # of which no reciprocal is finite
    levels, scales = coarse_maps(maps, *PAIRS, "mean")
    assert scales[0] == 0 and not levels[0].any(), "it fires nowhere"
    for level, scale, one in zip(levels[2:], scales[2:], maps[PAIRS][2:], strict=True):
        fires = one.clamp(min=0)
        assert float(scale) == float(fires.max())
        np.testing.assert_allclose(level / 255 * scale, fires, atol=float(scale) / 254)
        assert level.max() == 255 and ((level % 2 == 1) | (level == 0)).all()
    monkeypatch.setattr(module, "_PIECE", 24)
    again, same = coarse_maps(maps, *PAIRS, "mean")
    assert torch.equal(again, levels) and torch.equal(same, scales), "in pieces as at once"
    none = torch.zeros(0, dtype=torch.int64)
    assert coarse_maps(maps, none, none, "mean")[0].shape == (0, 4, 6)


def test_layers_with_and_without_places() -> None:
    assert coarse_grid((13, 56)) == (13, 14) and coarse_means(torch.ones(1, 224, 8)).shape == (1, 14, 8)
    assert map_grid((7, 9, 192), "mean-last") == (7, 9) and map_grid((98, 64), "token-max", 0, (14, 7)) == (14, 7)
    assert map_grid((2048,), "none") is None and map_grid((64, 1, 1), "mean") is None
