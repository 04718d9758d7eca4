"""Which part of a picture a preprocessing shows, and how large a picture it needs, seen from ramps that go through it.

After any scaling and cropping, each value of a ramp shows where it came from. Knows nothing about the libraries that
preprocessings come from.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

from csp_index.images.loader import Preprocess

Box = tuple[float, float, float, float]  # left, top, right, bottom, in pixels of the picture

_STRAIGHT: Final = (
    0.02  # of the picture's side: the largest deviation of a preprocessing from plain cropping and scaling
)
_VISIBLE: Final = 1 / 255  # of the picture's side: a ramp of eight bits shows no smaller part
_TRIED: Final = ((400, 300), (300, 400), (800, 600))  # pictures that show how large one a preprocessing needs
_EQUAL: Final = 0.03  # of the side needed: how far pictures of one shape and two sizes may differ


def footprint(preprocess: Preprocess, size: tuple[int, int]) -> Box:
    """Return which part of a picture of (width, height) a network's input shows.

    Returns the whole picture if the input is not a cropped and scaled picture.
    """
    result = _scaled(preprocess, size)
    return (0.0, 0.0, float(size[0]), float(size[1])) if result is None else result[0]


def side_needed(preprocess: Preprocess) -> int | None:
    """Return the short side to which a preprocessing brings a whole picture, in pixels, before it crops.

    None for one that does more than scale, crop and normalize each pixel by itself, or whose scale depends on how
    large the picture is, as a crop at full resolution does.
    """
    sides = []
    for size in _TRIED:
        result = _scaled(preprocess, size)
        if result is None:
            return None
        (left, top, right, bottom), (width, height) = result
        scale = max(width / (right - left), height / (bottom - top))  # values of the input per pixel of the picture
        sides.append(scale * min(size))
    same = abs(sides[2] - sides[0]) <= _EQUAL * sides[0]
    return round(max(sides)) if same else None


def middle_square(preprocess: Preprocess) -> float | None:
    """Return the side of the square in the middle of a picture that an input shows, as a share of the short side.

    0 where it shows the whole picture, None where it shows something else, or another share of larger pictures.
    """
    sides = []
    for size in _TRIED:
        result = _scaled(preprocess, size)
        if result is None:
            return None
        left, top, right, bottom = result[0]
        slack = _EQUAL * min(size)
        if max(abs(left), abs(top), abs(right - size[0]), abs(bottom - size[1])) <= slack:
            sides.append(0.0)
            continue
        if max(abs(left + right - size[0]), abs(top + bottom - size[1]), abs(right - left - bottom + top)) > slack:
            return None
        sides.append((right - left + bottom - top) / (2 * min(size)))
    middle = sum(sides) / len(sides)
    return middle if max(sides) - min(sides) <= _EQUAL * middle else None


def _scaled(preprocess: Preprocess, size: tuple[int, int]) -> tuple[Box, tuple[int, int]] | None:
    """Return the part of a picture of (width, height) that an input shows, and the input's width and height.

    None if the input is not a cropped and scaled picture.
    """
    width, height = size
    black, white = (preprocess(Image.new("RGB", size, color)) for color in ("black", "white"))
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = np.rint((np.arange(width) + 0.5) * 255 / width)
    ramp[..., 1] = np.rint((np.arange(height) + 0.5) * 255 / height)[:, None]
    result = preprocess(Image.fromarray(ramp))
    if result.dim() != 3 or result.shape[0] != 3:
        return None
    share = ((result - black) / (white - black)).double().numpy()
    across, down = _line(share[0].mean(0)), _line(share[1].mean(1))
    if across is None or down is None:
        return None
    box = across[0] * width, down[0] * height, across[1] * width, down[1] * height
    return box, (int(result.shape[2]), int(result.shape[1]))


def _line(share: np.ndarray) -> tuple[float, float] | None:
    """Return where a row of positions, as shares of the picture's side, begins and ends; None if not evenly spaced."""
    if len(share) < 2 or not np.isfinite(share).all():
        return None
    places = np.arange(len(share))
    slope, offset = np.polyfit(places, share, 1)
    straight = np.abs(share - (slope * places + offset)).max() <= _STRAIGHT
    if not straight or slope * len(share) < _VISIBLE:
        return None
    return float(offset - 0.5 * slope), float(offset + (len(share) - 0.5) * slope)
