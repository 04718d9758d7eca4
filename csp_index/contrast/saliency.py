"""Where on a picture a neuron looks: the region that drives it, for pictures of any size and preprocessing.

Where the layer has places (maps, tokens), the neuron's own map tells; elsewhere gradient x input does. Either lives
on the network's input; `footprint` tells which part of the picture that input shows, so that a region found there
can be marked on the picture. Knows nothing about indexes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from PIL import Image

from csp_index.errors import ModelError
from csp_index.models.networks import LoadedNetwork

Preprocess = Callable[[Image.Image], torch.Tensor]
Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the picture

#: Where between a picture's mean colour (0) and the picture (1) gradients are taken if that at 1 is zero: a neuron at
#: its ceiling may have reached it close to either end.
WAY: Final = (1 / 64, 1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
_SMOOTH: Final = 1 / 32  # of the side of a gradient's map: what is finer is noise
_MIDDLE: Final = 1 / 4  # of the side: how wide the middle of a picture is
_STRAIGHT: Final = 0.02  # of the picture's side: how far a preprocessing may be from a plain cut and scaling


def footprint(preprocess: Preprocess, size: tuple[int, int]) -> Box:
    """Return which part of a picture of (width, height) a network's input shows.

    Found by sending ramps through the preprocessing: whatever it scales and cuts, each value tells where it came from.
    The whole picture, where the input is something else than a cut and scaled picture.
    """
    width, height = size
    whole = (0.0, 0.0, float(width), float(height))
    black, white = (preprocess(Image.new("RGB", size, colour)) for colour in ("black", "white"))
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.rint((np.arange(width) + 0.5) * 255 / width)
    ramp[..., 1] = np.rint((np.arange(height) + 0.5) * 255 / height)[:, None]
    result = preprocess(Image.fromarray(ramp))
    if result.dim() != 3 or result.shape[0] != 3:
        return whole
    share = ((result - black) / (white - black)).double().numpy()
    across, down = _line(share[0].mean(0)), _line(share[1].mean(1))
    if across is None or down is None:
        return whole
    return across[0] * width, down[0] * height, across[1] * width, down[1] * height


def driving_maps(network: LoadedNetwork, layer: str, pixels: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
    """Return how much each place of a network's input drives a neuron, [B, h, w], not negative; `neurons` [B].

    `pixels` [B, 3, H, W] are preprocessed pictures. From the layer's own map, where it has one: what stands above the
    map's median. Else from the gradient by the input times the input's distance from its mean colour; where that is
    zero throughout, as for a neuron at its ceiling, the mean of the gradients on the way there. Where nothing tells,
    the middle of the picture. Raises ModelError where the input is no picture.
    """
    if pixels.dim() != 4 or pixels.shape[1] != 3:
        raise ModelError(
            f"an input of {network.name} has shape {list(pixels.shape[1:])}, which is no picture [3, H, W]: "
            "choose another contrast than perturbation"
        )
    maps = network.maps(pixels, layer, neurons)
    if maps is not None:
        result = (maps - maps.flatten(1).median(1).values[:, None, None]).clamp(min=0)
    else:
        result = _gradient_maps(network, layer, pixels, neurons)
    blank = result.flatten(1).amax(1) <= 0
    result[blank] = _middle(*result.shape[1:])
    return result


def _gradient_maps(network: LoadedNetwork, layer: str, pixels: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
    from scipy.ndimage import gaussian_filter  # labelling without editing does not wait for it

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


def region(heat: torch.Tensor, box: Box, size: tuple[int, int], share: float) -> np.ndarray:
    """Return which pixels [height, width] of a picture of (width, height) make up its hottest `share`, 0 to 1.

    `heat` [h, w] lies over the part `box` of the picture. A picture all of one heat has its upper left part taken.
    """
    width, height = size
    left, top, right, bottom = (round(side) for side in box)
    over = Image.fromarray(heat.float().numpy()).resize(
        (max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC
    )
    canvas = Image.new("F", size, float(np.asarray(over).min()) - 1.0)
    canvas.paste(over, (left, top))
    values = np.asarray(canvas).ravel()
    hottest = np.argsort(-values, kind="stable")[: max(1, round(share * values.size))]
    mask = np.zeros(values.size, dtype=bool)
    mask[hottest] = True
    result: np.ndarray = mask.reshape(height, width)
    return result


def _line(share: np.ndarray) -> tuple[float, float] | None:
    """Return where a row of places, each told as a share of the picture's side, begins and ends; None if not even."""
    if len(share) < 2 or not np.isfinite(share).all():
        return None
    places = np.arange(len(share))
    slope, offset = np.polyfit(places, share, 1)
    straight = np.abs(share - (slope * places + offset)).max() <= _STRAIGHT
    return (float(offset - 0.5 * slope), float(offset + (len(share) - 0.5) * slope)) if straight and slope > 0 else None


def _middle(height: int, width: int) -> torch.Tensor:
    """Return a map [height, width] that is hottest in the middle."""
    down, across = (torch.linspace(-1, 1, side) / (2 * _MIDDLE) for side in (height, width))
    return torch.exp(-(down[:, None].square() + across.square()))
