"""Shards from batches that went through the models: each has as many images as planned, whatever models failed on.

A shard from which a model's failures are missing is filled up with the images that follow, so that the same images make
the same shards, whenever a pass is interrupted and wherever it runs. Knows nothing about what the values are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Generic, TypeVar

from csp_index.images.decode import ImageFailure
from csp_index.images.loader import Prepared

V = TypeVar("V")  # the values of a batch, a row per image


@dataclass(frozen=True, slots=True)
class ComputedBatch(Generic[V]):
    """The images of a batch that all models took, their values, all failures, and whether a planned shard ends here."""

    images: Sequence[Prepared]
    values: V
    failures: Sequence[ImageFailure]
    last: bool


@dataclass(slots=True)
class ComputedShard(Generic[V]):
    """The images of a shard, the failures on the way, and the pieces of its values: rows start .. stop - 1 of each."""

    prepared: list[Prepared] = field(default_factory=list)
    failures: list[ImageFailure] = field(default_factory=list)
    pieces: list[tuple[V, int, int]] = field(default_factory=list)

    def add(self, batch: ComputedBatch[V]) -> None:
        """Add the images of a batch."""
        self.prepared.extend(batch.images)
        self.failures.extend(batch.failures)
        if batch.images:
            self.pieces.append((batch.values, 0, len(batch.images)))

    def cut(self, size: int) -> tuple[ComputedShard[V], ComputedShard[V]]:
        """Return the first `size` images with all failures, and the others."""
        first, rest = ComputedShard[V](self.prepared[:size], self.failures), ComputedShard[V](self.prepared[size:])
        left = size
        for values, start, stop in self.pieces:
            middle = min(stop, start + left)
            left -= middle - start
            first.pieces += [(values, start, middle)] if middle > start else []
            rest.pieces += [(values, middle, stop)] if stop > middle else []
        return first, rest


def shards_of(batches: Iterable[ComputedBatch[V]], limits: Iterable[int]) -> Iterator[ComputedShard[V]]:
    """Yield shards of `limits` images each, as the batches were planned; the last one has what is left."""
    sizes = iter(limits)
    shard = ComputedShard[V]()
    for batch in batches:
        shard.add(batch)
        if not batch.last:
            continue
        size = next(sizes)
        if len(shard.prepared) >= size:
            full, shard = shard.cut(size)
            yield full
        else:
            sizes = chain([size], sizes)
    if shard.prepared or shard.failures:
        yield shard
