"""Prepared images put together to batches on the devices of the models, cut at the ends of shards.

Knows nothing about decoding or about what is written. Where a batch ends does not hang on how images were decoded, so
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
    """Neighbouring images without their pixels, the input of each part for all of them, and what could not be read.

    ``pixels`` is empty where no image could be read. ``last`` says that the shard ends here.
    """

    images: list[Prepared]
    failures: list[ImageFailure]
    pixels: tuple[torch.Tensor, ...]
    last: bool


def batches(images: Iterator[Prepared | ImageFailure], parts: Sequence[Part], limits: Iterable[int]) -> Iterator[Batch]:
    """Yield the images in batches; shard after shard gets as many as `limits` says, the last one what there is.

    A batch is as large as the part that wants the smallest.
    """
    size = min(part.model.batch_size for part in parts)
    for limit in limits:
        left = limit
        while left:
            wanted = min(size, left)
            batch = _take(images, parts, wanted)
            left -= len(batch.images)
            ended = len(batch.images) < wanted
            yield replace(batch, last=ended or not left)
            if ended:
                return


def _take(images: Iterator[Prepared | ImageFailure], parts: Sequence[Part], wanted: int) -> Batch:
    taken, failures = list[Prepared](), list[ImageFailure]()
    for item in images:
        if isinstance(item, ImageFailure):
            failures.append(item)
        else:
            taken.append(item)
        if len(taken) == wanted:
            break
    columns = zip(*(item.pixels for item in taken), strict=True)
    pixels = tuple(_moved(stacked(column), part.model.device) for part, column in zip(parts, columns, strict=False))
    return Batch([replace(item, pixels=()) for item in taken], failures, pixels, last=False)


def _moved(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the tensor on the device, complete; a model on CUDA meanwhile goes on with the batch before."""
    if device.type != "cuda":
        return pixels
    side = _side_stream(device)
    with torch.cuda.stream(side):
        moved = pixels.pin_memory().to(device, non_blocking=True)
    side.synchronize()  # this thread waits, not the one that runs the models
    moved.record_stream(torch.cuda.default_stream(device))  # so that its memory is not reused before they are done
    return moved


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
