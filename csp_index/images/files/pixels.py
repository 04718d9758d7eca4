"""Upright RGB from a picture that Pillow or another program has decoded, in little more memory than the result.

Knows nothing about files. Whatever needs more room than a pixel of the result is done in bands of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from csp_index.errors import SourceError
from csp_index.images.files.bare_files import ORIENTATION, turn_of
from csp_index.settings import MAX_PIXELS, MAX_SIDE_RATIO

DEEP_MODES = frozenset({"I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
"""Pillow's modes of gray values with more than eight bits."""

_BAND = 2**20  # pixels that are converted at a time
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_THEIR_SIDE = frozenset(_TURNS[turn] for turn in (5, 6, 7, 8))


def check_shape(width: int, height: int, max_pixels: int | None = None) -> None:
    """Raise SourceError for a picture of too many pixels, or one so narrow that to enlarge it would take gigabytes.

    A model's preprocessing often brings the short side to its own size: a strip of 100,000 x 1 becomes 22,400,000 x
    224. ``max_pixels`` is by default the setting of that name.
    """
    most = MAX_PIXELS.value() if max_pixels is None else max_pixels
    if width * height > most:
        raise SourceError(f"the image has {width} x {height} pixels, more than the limit of {most:,}")
    short, long = sorted((width, height))
    if long > short * MAX_SIDE_RATIO.value():
        raise SourceError(
            f"the image has {width} x {height} pixels: one side is more than {MAX_SIDE_RATIO.value():,} times the "
            f"other, the limit of the setting {MAX_SIDE_RATIO.name}; cut it into parts"
        )


def upright(image: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF or XMP data say; they are only read, so damage in them costs nothing."""
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image, size: tuple[int, int]) -> tuple[int, int]:
    """Return a size (width, height) of the picture as it is once the picture is `upright`.

    >>> upright_size(Image.new("RGB", (4, 2)), (40, 20))
    (40, 20)
    """
    return size[::-1] if _turn(image) in _ON_THEIR_SIDE else size


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return _TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # another tag is damaged
        exif = image.info.get("exif")
        return _TURNS.get(turn_of(exif)) if isinstance(exif, bytes) else None


def to_rgb(image: Image.Image) -> Image.Image:
    """Return RGB: transparency is blended onto white, values of more than eight bits are scaled (`gray_scale`)."""
    if image.mode in DEEP_MODES:
        return _deep_to_rgb(image)
    if image.has_transparency_data:
        return _in_bands(image, _on_white)
    return image.convert("RGB")


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the row after the last of each band of a picture."""
    rows = max(1, _BAND // max(1, width))
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _in_bands(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    result = Image.new("RGB", image.size)
    for start, end in bands(*image.size):
        result.paste(convert(image.crop((0, start, image.width, end))), (0, start))
    return result


def _on_white(image: Image.Image) -> Image.Image:
    see_through = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, see_through).convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        full = 65535.0
    else:
        top = max((float(_sound(values[start:end]).max(initial=0)) for start, end in bands(*image.size)), default=0.0)
        full = gray_scale(image.mode, top)
    result = Image.new("L", image.size)
    for start, end in bands(*image.size):
        eight_bits = np.rint(_sound(values[start:end]) * (255.0 / full)).astype(np.uint8)
        result.paste(Image.fromarray(eight_bits), (0, start))
    return result.convert("RGB")


def _sound(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return gray values as float64, 0 for those that are negative or not finite."""
    sound: np.ndarray[Any, Any] = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0).clip(min=0)
    return sound


def gray_scale(mode: str, top: float) -> float:
    """Return the gray value that becomes white, so that a dark image stays dark; black is 0.

    16-bit modes have a known range. Modes ``I`` and ``F`` do not: the range is the smallest of 0-1 (floats only),
    0-65535 for integers or 0-255 for floats, and the image's own maximum ``top``, that holds all values.
    """
    if mode == "F":
        return next((bound for bound in (1.0, 255.0, 65535.0) if top <= bound), top)
    return max(65535.0, top)
