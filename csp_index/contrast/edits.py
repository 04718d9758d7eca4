"""Edits that remove something from a region of a picture: occlude, blur, noise, recolour, inpaint, by strength.

Knows nothing about networks or indexes. Every edit of the same picture, region, strength and seed is the same.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Final, Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from csp_index.errors import SettingError

Edit = Literal["occlude", "blur", "noise", "recolour", "inpaint"]
EDITS: Final[tuple[Edit, ...]] = get_args(Edit)

STRENGTHS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Shares of the picture to edit, in the order of trials; noise grows with the share."""

LARGEST: Final = 448
"""Pixels of the shorter side above which a picture is reduced before it is edited; no model sees more."""

_LOSSLESS: Final = 256 * 256  # pixels up to which a picture is stored without loss
_QUALITY: Final = 95
_FEATHER: Final = 1 / 64  # of the shorter side: an edge as sharp as a knife's is a shape of its own
_BLUR: Final = 1 / 12  # of the shorter side: the blur's deviation
_NOISE: Final = 160.0  # grey levels: the noise's deviation at strength 1
_INPAINT: Final = 3.0  # pixels: the neighbourhood that inpainting looks at

# picture [H, W, 3] float32, mask [H, W], strength, seed -> picture
Paint = Callable[[np.ndarray, np.ndarray, float, int], np.ndarray]


def usable_edits(named: str) -> tuple[Edit, ...]:
    """Return the edits that a text names, separated by commas; without OpenCV `inpaint` is left out.

    Raises SettingError for an unknown edit, and if none is left.

    >>> usable_edits("blur, occlude")
    ('blur', 'occlude')
    """
    words = [word.strip() for word in named.split(",") if word.strip()]
    unknown = [word for word in words if word not in EDITS]
    if unknown:
        raise SettingError(f"edit {unknown[0]!r} is unknown (has: {', '.join(EDITS)})")
    result = tuple(edit for word in dict.fromkeys(words) for edit in EDITS if edit == word)
    left = tuple(edit for edit in result if edit != "inpaint" or find_spec("cv2") is not None)
    if not left:
        raise SettingError(
            "no edit is left: name some of occlude, blur, noise, recolour; inpaint needs csp_index[inpaint]"
        )
    return left


def edited(picture: Image.Image, edit: Edit, mask: np.ndarray, strength: float, seed: int) -> Image.Image:
    """Return a copy of an RGB picture with the region `mask` [height, width] edited; its edge is soft."""
    pixels = np.asarray(picture, dtype=np.float32)
    painted = _PAINTS[edit](pixels, mask, strength, seed)
    side = min(picture.size)
    soft = Image.fromarray((255 * mask).astype(np.uint8)).filter(ImageFilter.GaussianBlur(_FEATHER * side))
    weight = np.maximum(np.asarray(soft, dtype=np.float32) / 255, mask)[..., None]
    return Image.fromarray(np.clip(np.rint(pixels + weight * (painted - pixels)), 0, 255).astype(np.uint8))


def reduced(picture: Image.Image) -> Image.Image:
    """Return the picture, or a smaller copy of one whose shorter side exceeds LARGEST."""
    scale = LARGEST / min(picture.size)
    if scale >= 1:
        return picture
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def as_stored(picture: Image.Image) -> tuple[bytes, Image.Image]:
    """Return the bytes of a large picture as JPEG, b"" for a small one, and the picture as it will look once stored.

    A small picture does not change; `encoded` returns its bytes.
    """
    if picture.width * picture.height <= _LOSSLESS:
        return b"", picture
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue(), Image.open(buffer, formats=["JPEG"]).convert("RGB")


def stored(picture: Image.Image) -> tuple[bytes, Image.Image]:
    """Return the bytes of a picture to store, PNG if small, else JPEG, and the picture as it then looks."""
    cached, seen = as_stored(picture)
    return cached or encoded(seen), seen


def encoded(picture: Image.Image) -> bytes:
    """Return a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _occlude(pixels: np.ndarray, mask: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Fill with the mean colour of the rest of the picture."""
    rest = pixels[~mask] if not mask.all() else pixels.reshape(-1, 3)
    return np.broadcast_to(rest.mean(0), pixels.shape)


def _blur(pixels: np.ndarray, mask: np.ndarray, strength: float, seed: int) -> np.ndarray:
    radius = _BLUR * min(mask.shape)
    soft = Image.fromarray(pixels.astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(soft, dtype=np.float32)


def _noise(pixels: np.ndarray, mask: np.ndarray, strength: float, seed: int) -> np.ndarray:
    drawn: np.ndarray = np.random.default_rng(seed).normal(0.0, _NOISE * strength, pixels.shape)
    return pixels + drawn.astype(np.float32)


def _recolour(pixels: np.ndarray, mask: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Give every pixel the opposite colour: shapes and textures stay."""
    return 255.0 - pixels


def _inpaint(pixels: np.ndarray, mask: np.ndarray, strength: float, seed: int) -> np.ndarray:
    """Continue the surroundings into the region (Telea, 2004)."""
    import cv2

    painter: Any = cv2.inpaint
    result = painter(pixels.astype(np.uint8), mask.astype(np.uint8), _INPAINT, cv2.INPAINT_TELEA)
    return np.asarray(result, dtype=np.float32)


_PAINTS: dict[Edit, Paint] = {
    "occlude": _occlude,
    "blur": _blur,
    "noise": _noise,
    "recolour": _recolour,
    "inpaint": _inpaint,
}
