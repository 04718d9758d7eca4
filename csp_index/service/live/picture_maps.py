"""Where in a picture of the user's own the neurons of a network fire: seen while the network runs on it."""

from __future__ import annotations

from functools import cached_property

import torch

from csp_index.images.footprint import footprint
from csp_index.models.layers.coarse_maps import coarse_maps
from csp_index.models.networks import LoadedNetwork
from csp_index.service.live.queries import Heat


class PictureMaps:
    """Watches one picture go through a network: takes the coarse maps of all neurons of its layers."""

    def __init__(self, network: LoadedNetwork, size: tuple[int, int]) -> None:
        """Watch a picture of (width, height) pixels."""
        self._network, self._size = network, size
        self._maps: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def __call__(self, layer: str, values: torch.Tensor, maps: torch.Tensor | None) -> None:
        """Take a layer's maps [1, M, H, W], before what follows changes them."""
        if maps is not None:
            neurons = torch.arange(maps.shape[1], device=maps.device)
            pool = self._network.layers[layer].pool
            self._maps[layer] = coarse_maps(maps, torch.zeros_like(neurons), neurons, pool)

    def of(self, layer: str, neuron: int) -> Heat | None:
        """Return where a neuron fires; None of a layer without places, and where it fires nowhere."""
        levels, scales = self._maps.get(layer, (None, None))
        if levels is None or scales is None or not float(scales[neuron]):
            return None
        return Heat(levels[neuron].cpu().numpy(), float(scales[neuron]), self._box)

    @cached_property
    def _box(self) -> tuple[float, float, float, float]:
        left, top, right, bottom = footprint(self._network.preprocess, self._size)
        width, height = self._size
        return left / width, top / height, right / width, bottom / height
