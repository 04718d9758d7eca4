"""Veils: what hides the places of a picture where a neuron does not fire, as images with opacity to lay over it."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from PIL import Image

from csp_index.images.decode import decode_stored

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of the picture's width and height

_GRAY: Final = 225
_DENSE: Final = 0.78  # of a veil's opacity where nothing fires


def veil_over(heat: np.ndarray, box: Box, size: tuple[int, int]) -> Image.Image:
    """Return the veil of (width, height), gray with opacity; `heat` [h, w] in [0, 1] covers the picture's part `box`.

    As in reports, the square root of the heat is what is left of the picture.
    """
    width, height = size
    left, right = (round(box[side] * width) for side in (0, 2))
    top, bottom = (round(box[side] * height) for side in (1, 3))
    small = Image.fromarray(heat.astype(np.float32))
    shown = small.resize((max(1, right - left), max(1, bottom - top)), Image.Resampling.BICUBIC)
    opacity = np.rint(255 * _DENSE * (1 - np.sqrt(np.asarray(shown).clip(0, 1)))).astype(np.uint8)
    canvas = Image.new("L", size, round(255 * _DENSE))
    canvas.paste(Image.fromarray(opacity), (left, top))
    return Image.merge("LA", (Image.new("L", size, _GRAY), canvas))


def veiled(picture: bytes, heat: np.ndarray, box: Box) -> bytes:
    """Return an encoded picture (a thumbnail) with a veil over it, as PNG. Raises SourceError if it is none."""
    image = decode_stored(picture)
    lay_veil(image, heat, box)
    return encoded(image)


def lay_veil(image: Image.Image, heat: np.ndarray, box: Box) -> None:
    """Lay the veil over an RGB image itself."""
    image.paste((_GRAY,) * 3, (0, 0), veil_over(heat, box, image.size).getchannel("A"))


def encoded(image: Image.Image) -> bytes:
    """Return an image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
