"""Batches of prepared images on the devices of the models, cut at the ends of shards.

Knows nothing about decoding or about what is written. Where a batch ends does not depend on how images were decoded, so
the models see the same batches in every pass over the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Generic, TypeVar

import torch

from csp_index.images.decode import ImageFailure
from csp_index.images.loader import Prepared, stacked
from csp_index.indexing.model_columns import Part

T = TypeVar("T")

_ENOUGH = 8  # images on which a preprocessing fails, to tell that it fails on all


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighboring images without their pixels, the input of each part for all of them, and the failures among them.

    `pixels` is empty where no image can be used. `last` says that the shard ends here.
    """

    images: list[Prepared]
    failures: list[ImageFailure]
    pixels: tuple[torch.Tensor, ...]
    last: bool


def batches(images: Iterator[Prepared | ImageFailure], parts: Sequence[Part], limits: Iterable[int]) -> Iterator[Batch]:
    """Yield the images in batches; each shard gets as many usable images as `limits` says, the last what is left.

    The batch size is the smallest that any part asks for.
    """
    for slice_ in slices(images, min(part.model.batch_size for part in parts), limits):
        columns = zip(*(item.pixels for item in slice_.items), strict=True)
        pixels = tuple(_moved(stacked(column), part.model.device) for part, column in zip(parts, columns, strict=False))
        yield Batch([replace(item, pixels=()) for item in slice_.items], slice_.failures, pixels, slice_.last)


@dataclass(frozen=True, slots=True)
class Slice(Generic[T]):
    """Neighboring usable images, the failures among them, and whether the shard ends here."""

    items: list[T]
    failures: list[ImageFailure]
    last: bool


def slices(images: Iterator[T | ImageFailure], size: int, limits: Iterable[int]) -> Iterator[Slice[T]]:
    """Yield the images, at most `size` usable ones at a time; each shard gets as many as `limits` says.

    A slice without a usable image has the failures of at least `_ENOUGH` images on which a preprocessing fails, or it
    is the last: so a preprocessing that always fails is noticed before the whole source is read.
    """
    for limit in limits:
        left = limit
        while left:
            count = min(size, left)
            items, failures, ended = _take(images, count)
            left -= len(items)
            yield Slice(items, failures, ended or not left)
            if ended:
                return


def _take(images: Iterator[T | ImageFailure], count: int) -> tuple[list[T], list[ImageFailure], bool]:
    """Return the next `count` usable images, the failures before the last of them, and whether the images end."""
    items, failures = list[T](), list[ImageFailure]()
    for item in images:
        if isinstance(item, ImageFailure):
            failures.append(item)
        else:
            items.append(item)
        if len(items) == count or (not items and sum(one.by_model for one in failures) >= max(count, _ENOUGH)):
            return items, failures, False
    return items, failures, True


def _moved(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on the device, complete; a model on CUDA keeps running the previous batch meanwhile."""
    if device.type != "cuda":
        return pixels
    side = _side_stream(device)
    with torch.cuda.stream(side):
        moved = pixels.pin_memory().to(device, non_blocking=True)
    side.synchronize()  # only this thread waits, not the one that runs the models
    moved.record_stream(torch.cuda.default_stream(device))  # its memory is not reused before the models are done
    return moved


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
