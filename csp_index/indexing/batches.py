"""Batches of prepared images on the devices of the models, cut at the ends of shards.

Knows nothing about decoding or about what is written. Where a batch ends does not depend on how images were decoded, so
the models see the same batches in every pass over the same images.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from csp_index.images.decode import ImageFailure
from csp_index.images.loader import Prepared, stacked
from csp_index.indexing.model_columns import Part


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighboring images without their pixels, the input of each part for all of them, and the failures among them.

    `pixels` is empty where no image could be read. `last` says that the shard ends here.
    """

    images: list[Prepared]
    failures: list[ImageFailure]
    pixels: tuple[torch.Tensor, ...]
    last: bool


def batches(images: Iterator[Prepared | ImageFailure], parts: Sequence[Part], limits: Iterable[int]) -> Iterator[Batch]:
    """Yield the images in batches; each shard gets as many readable images as `limits` says, the last what is left.

    The batch size is the smallest that any part asks for.
    """
    size = min(part.model.batch_size for part in parts)
    for limit in limits:
        left = limit
        while left:
            count = min(size, left)
            batch = _take(images, parts, count)
            left -= len(batch.images)
            ended = len(batch.images) < count
            yield replace(batch, last=ended or not left)
            if ended:
                return


def _take(images: Iterator[Prepared | ImageFailure], parts: Sequence[Part], count: int) -> Batch:
    readable, failures = list[Prepared](), list[ImageFailure]()
    for item in images:
        if isinstance(item, ImageFailure):
            failures.append(item)
        else:
            readable.append(item)
        if len(readable) == count:
            break
    columns = zip(*(item.pixels for item in readable), strict=True)
    pixels = tuple(_moved(stacked(column), part.model.device) for part, column in zip(parts, columns, strict=False))
    return Batch([replace(item, pixels=()) for item in readable], failures, pixels, last=False)


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
