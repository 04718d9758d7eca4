"""Where on a picture a neuron looks: the region that drives it, for pictures of any size and preprocessing.

A layer with positions (maps, tokens) gives the neuron's own map; for other layers the map is gradient x input. Both
are as coarse as those that indexing keeps, so that it makes no difference whether an index has them. They refer to the
network's input; `images.footprint` returns the part of the picture that this input shows, so that a region can be
marked on the picture. Knows nothing about indexes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from PIL import Image

from csp_index.errors import ModelError
from csp_index.images.footprint import Box
from csp_index.models.layers.coarse_maps import as_levels, coarse_maps, coarse_means
from csp_index.models.networks import LoadedNetwork

#: Points between a picture's mean colour (0) and the picture (1) where gradients are taken if the one at 1 is zero: a
#: saturated neuron may have reached its maximum close to either end.
WAY: Final = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
_SMOOTH: Final = 1 / 32  # of the side of a gradient map: finer structure is noise
_MIDDLE: Final = 1 / 4  # of the side: the width of the middle of a picture


def driving_maps(
    network: LoadedNetwork, layer: str, pixels: torch.Tensor, neurons: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coarse maps [B, h, w] of what drives a neuron, uint8, and their scales [B]; `neurons` [B].

    `pixels` [B, 3, H, W] are preprocessed pictures. If the layer has maps: the neuron's own, as `coarse_maps` returns
    them. Else the gradient times the input's distance from its mean colour; if that is zero everywhere, as for a
    saturated neuron, the mean gradient on the way there. The scale is 0 where all is zero. Raises ModelError if the
    input is not a picture.
    """
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise ModelError(
            f"an input of {network.name} has shape {list(pixels.shape[1:])}, which is no picture [3, H, W]: "
            "choose another contrast than perturbation"
        )
    if network.map_grid(layer) is None:
        return as_levels(coarse_means(_gradient_maps(network, layer, pixels, neurons)))
    maps = network.maps(pixels, layer, neurons)
    if maps is None:
        raise ModelError(f"layer {layer!r} of {network.name} gave no maps for these images: choose another layer")
    each = torch.arange(len(maps))
    return coarse_maps(maps[:, None], each, torch.zeros_like(each), network.layers[layer].pool)


def peaked(levels: torch.Tensor) -> torch.Tensor | None:
    """Return a coarse map [h, w] as shares of its largest level, above the map's median; None if all are the same."""
    shares = levels.float() / 255
    heat = (shares - shares.median()).clamp(min=0)
    return heat if heat.any() else None


def _gradient_maps(network: LoadedNetwork, layer: str, pixels: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
    from scipy.ndimage import gaussian_filter  # imported late: labelling without editing does not need it

    distance = pixels - pixels.mean((2, 3), keepdim=True)
    gradients = network.gradients(pixels, layer, neurons)
    flat = gradients.flatten(1).abs().amax(1) == 0
    if bool(flat.any()):
        start, way = (pixels - distance)[flat], distance[flat]
        points = [network.gradients(start + part * way, layer, neurons[flat]) for part in WAY]
        gradients[flat] = torch.stack(points).mean(0)
    signed = (gradients * distance).sum(1).numpy()
    smooth = torch.from_numpy(gaussian_filter(signed, (0, *(_SMOOTH * side for side in signed.shape[1:]))))
    return smooth.clamp(min=0)


def over_picture(heat: torch.Tensor, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Return a map [height, width] over a whole picture of (width, height), NaN where the map says nothing.

    `heat` [h, w] covers the part `box` of the picture.
    """
    left, top, right, bottom = (round(side) for side in box)
    over = Image.fromarray(heat.float().numpy()).resize(
        (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
    )
    canvas = Image.new("F", size, float("nan"))
    canvas.paste(over, (left, top))
    return np.array(canvas)


def region(heat: torch.Tensor, box: Box, size: tuple[int, int], share: float) -> np.ndarray:
    """Return the mask [height, width] of the hottest `share`, 0 to 1, of a picture of (width, height).

    `heat` [h, w] covers the part `box` of the picture. Of a uniformly hot picture, the upper left part is returned.
    """
    over = over_picture(heat, box, size)
    values = np.where(np.isnan(over), np.nanmin(over) - 1.0, over).ravel()
    hottest = np.argsort(-values, kind="stable")[: max(1, round(share * values.size))]
    mask = np.zeros(values.size, dtype=bool)
    mask[hottest] = True
    result: np.ndarray = mask.reshape(over.shape)
    return result


def middle(height: int, width: int) -> torch.Tensor:
    """Return a map [height, width] that is hottest in the middle."""
    down, across = (torch.linspace(-1, 1, side) / (2 * _MIDDLE) for side in (height, width))
    return torch.exp(-(down[:, None].square() + across.square()))
