"""One item of a dataset as a picture and its metadata.

An item is a PIL image, a tensor or an array; a tuple of one and a target; or a dictionary of one and other columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from csp_index.errors import SourceError
from csp_index.images.memory_images import MemoryImage

_IMAGE_KEYS = ("image", "img", "picture", "pixel_values", "jpg", "png", "webp")
CHANNELS = (1, 3, 4)
_MOST_VALUES = 64  # of a list that is kept as metadata; a face has 40 attributes
_SLACK = 1e-3  # of the range [0, 1]: resized images overshoot a little

Simple = str | int | float | bool | None


def memory_image(item: object, classes: Sequence[object] | None = None) -> MemoryImage:
    """Return an item's picture and metadata: a target as `target`, with its name in `classes` as `label`.

    Raises a SourceError that says what was expected.
    """
    if isinstance(item, Mapping):
        return _of_columns(item)
    if isinstance(item, (tuple, list)):
        if not item:
            raise SourceError("the item is empty: expected an image or (image, target)")
        return MemoryImage(picture(item[0]), _target(item[1], classes) if len(item) > 1 else {})
    return MemoryImage(picture(item))


def picture(value: object) -> Image.Image:
    """Return a PIL image unchanged, a tensor or an array as a PIL image of 8 bits: gray, RGB or RGBA.

    Floats must lie in [0, 1]; integers must be uint8, whatever their values. Three axes are [C, H, W] or [H, W, C];
    where both are possible, tensors are the first and arrays the second. Two axes are a gray image. Raises SourceError
    for anything else.
    """
    if isinstance(value, Image.Image):
        return value
    if isinstance(value, torch.Tensor):
        return _of_array(
            value.detach().cpu().float().numpy() if value.is_floating_point() else value.cpu().numpy(), True
        )
    if isinstance(value, np.ndarray):
        return _of_array(value, False)
    raise SourceError(
        f"the item is a {type(value).__name__}: expected a PIL image, a tensor or an array, (image, target), or a "
        "dictionary with an 'image'"
    )


def _of_array(values: np.ndarray[Any, Any], tensor: bool) -> Image.Image:
    shape = values.shape
    if values.ndim == 4:
        raise SourceError(f"the item has shape {list(shape)}, a batch: expected one image at a time")
    if values.ndim == 3:
        first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
        if not first and not last:
            raise SourceError(
                f"the item has shape {list(shape)}: expected [C, H, W] or [H, W, C] with 1, 3 or 4 channels"
            )
        values = values.transpose(1, 2, 0) if first and (tensor or not last) else values
        values = values[:, :, 0] if values.shape[2] == 1 else values
    elif values.ndim != 2:
        raise SourceError(f"the item has shape {list(shape)}: expected an image of two or three axes")
    if not values.size:
        raise SourceError(f"the item has shape {list(shape)}: it has no pixels")
    return Image.fromarray(np.ascontiguousarray(_eight_bits(values)))


def _eight_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if not np.issubdtype(values.dtype, np.floating):
        raise SourceError(f"the image has values of type {values.dtype}: convert to uint8, or pass floats in [0, 1]")
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):
        advice = "divide by the largest value" if low >= 0 else "take Normalize out, each network brings its own"
        raise SourceError(
            f"the image has values from {low:.3g} to {high:.3g}: expected floats in [0, 1] or uint8; {advice}"
        )
    return np.asarray(np.rint(values.clip(0, 1) * 255), dtype=np.uint8)


def _of_columns(item: Mapping[Any, Any]) -> MemoryImage:
    key = next((name for name in _IMAGE_KEYS if item.get(name) is not None), None)
    if key is None:
        key = next((name for name, value in item.items() if isinstance(value, Image.Image)), None)
    if key is None:
        raise SourceError(
            f"the item has no image (has: {', '.join(map(str, item))}): expected one under 'image', or a PIL image"
        )
    columns = {str(name): simple(value) for name, value in item.items() if name != key}
    return MemoryImage(picture(item[key]), {name: value for name, value in columns.items() if value is not None})


def _target(target: object, classes: Sequence[object] | None) -> dict[str, object]:
    value = simple(target)
    if value is None:
        return {}
    named = classes and isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(classes)
    return {"target": value, **({"label": str(classes[value])} if classes and named else {})}  # type: ignore[index]


def simple(value: object) -> Simple | list[Simple]:
    """Return a value as metadata, or None: metadata are texts, numbers, booleans and short lists of these."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.tolist() if getattr(value, "ndim", 0) <= 1 else None
    if isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, (list, tuple)) and 0 < len(value) <= _MOST_VALUES:
        parts = [simple(part) for part in value]
        return None if any(part is None or isinstance(part, list) for part in parts) else parts  # type: ignore[return-value]
    return None
