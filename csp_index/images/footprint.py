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
_WIDE: Final = (720, 300)  # tells a square of the long side from one of the short side
_EQUAL: Final = 0.03  # of the side needed: how far pictures of one shape and two sizes may differ
_PICTURE: Final = 0.25  # of the largest difference of white and black: less is a margin, which shows no picture


def footprint(preprocess: Preprocess, size: tuple[int, int]) -> Box:
    """Return which part of a picture of (width, height) a network's input shows; of one with margins, more than all.

    Returns the whole picture if the input is not a cropped and scaled picture.
    """
    result = _scaled(preprocess, size)
    return (0.0, 0.0, float(size[0]), float(size[1])) if result is None else result[0]


def side_needed(preprocess: Preprocess) -> int | None:
    """Return the short side to which a preprocessing brings a whole picture, in pixels, before it crops.

    None for one that does more than scale, crop and normalize each pixel by itself, as one that adds margins, or whose
    scale depends on how large the picture is, as a crop at full resolution does.
    """
    sides = []
    for size in _TRIED:
        result = _scaled(preprocess, size)
        if result is None or _has_margins(result[0], size):
            return None
        (left, top, right, bottom), (width, height) = result
        scale = max(width / (right - left), height / (bottom - top))  # values of the input per pixel of the picture
        sides.append(scale * min(size))
    same = abs(sides[2] - sides[0]) <= _EQUAL * sides[0]
    return round(max(sides)) if same else None


def middle_square(preprocess: Preprocess) -> float | None:
    """Return the side of the square around a picture's middle that an input shows, as a share of the short side.

    0 where it shows the whole picture. Negative, as a share of the long side, where it adds margins until the picture
    fits in. None where it shows something else, or another share of larger pictures.
    """
    sides = []
    for size in (*_TRIED, _WIDE):
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
        whole = -max(size) if _has_margins(result[0], size) else min(size)
        sides.append((right - left + bottom - top) / (2 * whole))
    middle = sum(sides) / len(sides)
    return middle if max(sides) - min(sides) <= _EQUAL * abs(middle) else None


def _has_margins(box: Box, size: tuple[int, int]) -> bool:
    left, top, right, bottom = box
    return min(left, top, size[0] - right, size[1] - bottom) < -_EQUAL * min(size)


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
    contrast = (white - black).double().abs().numpy()
    shows = (contrast > _PICTURE * np.nanmax(contrast)).all(0)
    rows, columns = np.flatnonzero(shows.any(1)), np.flatnonzero(shows.any(0))
    if not shows[np.ix_(rows, columns)].all():
        return None
    share = ((result - black) / (white - black)).double().numpy()[:, rows][:, :, columns]
    across, down = _line(share[0].mean(0), columns, shows.shape[1]), _line(share[1].mean(1), rows, shows.shape[0])
    if across is None or down is None:
        return None
    box = across[0] * width, down[0] * height, across[1] * width, down[1] * height
    return box, (int(result.shape[2]), int(result.shape[1]))


def _line(share: np.ndarray, places: np.ndarray, length: int) -> tuple[float, float] | None:
    """Return where a row of `length` positions begins and ends, as shares of the picture's side.

    `share` are those of the positions at `places`, the others are margins. None if they are not evenly spaced.
    """
    if len(share) < 2 or not np.isfinite(share).all():
        return None
    slope, offset = np.polyfit(places, share, 1)
    straight = np.abs(share - (slope * places + offset)).max() <= _STRAIGHT
    if not straight or slope * len(share) < _VISIBLE:
        return None
    return float(offset - 0.5 * slope), float(offset + (length - 0.5) * slope)
