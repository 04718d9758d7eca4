"""The same pass on Ray: workers decode, run the models and write rows; this process forms shards and marks them.

Images are cut into batches and shards by the code of the local engine, without those that cannot be used, so the tables
are equal. No reader sees what the workers write until it is appended here, in the order of the shards: all shards that
are complete are appended together, one commit per table, their marks last. A kill loses the shards in progress, and the
same command resumes. The number of images in progress is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice, takewhile, tee
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from csp_index.errors import ModelError, SettingError
from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared
from csp_index.indexing import commit
from csp_index.indexing.batches import slices
from csp_index.indexing.indexer import Assign, Engine, PassState, Target
from csp_index.indexing.map_watch import joined_maps
from csp_index.indexing.model_columns import Part, forget_failures
from csp_index.indexing.model_outputs import check_preprocessing
from csp_index.indexing.ray_cluster import Chunk, WorkerPool, connected
from csp_index.indexing.ray_worker import BatchReport, WorkerOutput, WriteOrder, WrittenShard
from csp_index.indexing.shard_forming import ComputedBatch, ComputedShard, shards_of
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo

_AHEAD = 2  # chunks of images decoded per worker before they are needed
_WAITING = 4  # batches per worker whose report is not read yet


@contextmanager
def ray_engine(address: str | None) -> Iterator[Engine]:
    """Connect to a cluster or start one (see `ray_cluster.connected`); its workers end with the context."""
    with connected(address), ExitStack() as ending:
        yield Engine("ray", partial(RayExecutor, ending))


def chosen_engine(
    name: str, address: str | None, decode_workers: int | None, *, named: bool = True
) -> AbstractContextManager[Engine | None]:
    """Return the engine with a name, None for `local`. Errors: SettingError for options that do not go together.

    `named` says that images and models are named, and no objects, which other machines could not read.
    """
    if name == "ray":
        if not named:
            raise SettingError("engine ray takes images and models by name: index Python objects with engine local")
        if decode_workers is not None:
            raise SettingError("decode_workers is for engine local: on Ray every worker decodes")
        return ray_engine(address)
    if name != "local":
        raise SettingError(f"engine {name!r} is unknown: expected local or ray")
    if address is not None:
        raise SettingError(f"ray_address {address} is given to engine local: add engine ray (--engine ray)")
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Item:
    """A readable image, whose pixels are one row of a chunk."""

    image: Prepared
    chunk: Chunk
    row: int


@dataclass(frozen=True, slots=True)
class SubmittedBatch:
    """A batch of a planned shard, the failures to read among it, and where its report and its outputs will be.

    Both are None where no image of it can be used.
    """

    images: list[Prepared]
    failures: list[ImageFailure]
    last: bool
    report: Any
    outputs: Any


@dataclass(frozen=True, slots=True)
class PendingShard:
    """A shard that is being written, and where its fragments will be listed.

    `fragments` is None where no image of it can be used.
    """

    images: ComputedShard[Any]
    target: Target
    fragments: Any


class RayExecutor:
    """Processes shards on the workers of a cluster."""

    def __init__(self, ending: ExitStack, state: PassState, parts: Sequence[Part]) -> None:
        """Prepare to process `parts`; workers start when there is something to do, and end with `ending`."""
        self._ending, self._state, self._parts = ending, state, parts
        self._started: WorkerPool | None = None
        self._pending: deque[PendingShard] = deque()

    @property
    def _pool(self) -> WorkerPool:
        if self._started is None:
            self._started = WorkerPool(self._parts, self._state.store.address, self._state.draft)
            self._ending.callback(self._started.close)
        return self._started

    def run(self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], assign: Assign) -> None:
        """Process shards of `limits` usable images each, in order; the last one gets what is left."""
        planned, sizes = tee(limits)
        for images in shards_of(self._computed(refs, parts, planned), sizes):
            target = assign(images.prepared, images.failures)
            if target is not None:
                self._write_later(images, target)
        self._commit(everything=True)

    def _computed(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int]
    ) -> Iterator[ComputedBatch[Any]]:
        """Yield the batches in order, once the models are through with them; the workers compute others meanwhile."""
        proven = self._state.is_proven(parts)
        for batch in self._oldest(self._submitted(refs, parts, limits)):
            result = self._result(batch, proven=proven)
            proven = proven or bool(result.images)
            yield result

    def _oldest(self, submitted: Iterable[SubmittedBatch]) -> Iterator[SubmittedBatch]:
        """Yield the batches in order, each when it is computed or enough others wait for it."""
        waiting: deque[SubmittedBatch] = deque()
        for batch in submitted:
            waiting.append(batch)
            while waiting and (len(waiting) > _WAITING * self._pool.ready or self._is_computed(waiting[0])):
                yield waiting.popleft()
        yield from waiting

    def _is_computed(self, batch: SubmittedBatch) -> bool:
        return batch.report is None or self._pool.is_done(batch.report)

    def _result(self, batch: SubmittedBatch, *, proven: bool) -> ComputedBatch[Any]:
        """Wait for a batch. Raises ModelError if the models took no image of it, and none before."""
        self._state.advance(len(batch.images) + len(batch.failures))
        check_preprocessing(len(batch.images), batch.failures, proven=proven)
        if batch.report is None:
            return ComputedBatch([], None, batch.failures, batch.last)
        report: BatchReport = self._pool.get(batch.report)
        if report.broken is not None and not proven:
            raise ModelError(report.broken)
        images = [batch.images[row] for row in report.rows]
        return ComputedBatch(images, batch.outputs, [*batch.failures, *report.failures], batch.last)

    def _submitted(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int]
    ) -> Iterator[SubmittedBatch]:
        """Yield the batches of shards of `limits` readable images each, as they are submitted."""
        numbers = [self._parts.index(part) for part in parts]
        size = min(part.model.batch_size for part in parts)
        for batch in slices(self._decoded(iter(refs), numbers, size), size, limits):
            report = outputs = None
            if batch.items:
                pieces = [_piece(chunk, items) for chunk, items in groupby(batch.items, key=attrgetter("chunk"))]
                report, outputs = self._pool.compute(numbers, [item.image.ref.uri for item in batch.items], pieces)
            images = [item.image for item in batch.items]
            yield SubmittedBatch(images, batch.failures, batch.last, report, outputs)

    def _decoded(self, refs: Iterator[ImageRef], numbers: Sequence[int], size: int) -> Iterator[Item | ImageFailure]:
        """Yield the images in order; the workers decode a bounded number ahead."""
        ahead: deque[Chunk] = deque()
        while True:
            while not ahead or len(ahead) < _AHEAD * self._pool.ready:
                if not (chunk_refs := list(islice(refs, size))):
                    break
                ahead.append(self._pool.decode(chunk_refs, numbers))
            if not ahead:
                return
            chunk, row = ahead.popleft(), 0
            for image in self._pool.get(chunk.report):
                if isinstance(image, ImageFailure):
                    yield image
                else:
                    yield Item(image, chunk, row)
                    row += 1

    def _write_later(self, images: ComputedShard[Any], target: Target) -> None:
        """Submit the writing of a shard's rows; append the shards that are complete by now."""
        fragments = None
        if images.prepared:
            tables = {schema.IMAGES: schema.table_schema(schema.IMAGES)} if target.new else {}
            for name, columns in (tables | {info.table: commit.value_schema(info) for info in target.infos}).items():
                self._state.store.create(name, columns)
            rows = tuple((start, stop) for _, start, stop in images.pieces)
            order = WriteOrder(target.mark, tuple(images.prepared) if target.new else None, target.infos, rows)
            fragments = self._pool.write(order, [outputs for outputs, _, _ in images.pieces])
        self._pending.append(PendingShard(images, target, fragments))
        self._commit()

    def _commit(self, everything: bool = False) -> None:
        """Append the complete shards that are next in order, together; with `everything`, wait for all others."""
        while self._pending:
            if everything and self._pending[0].fragments is not None:
                self._pool.get(self._pending[0].fragments)
            complete = list(takewhile(self._is_written, self._pending))
            if not complete and not everything:
                return
            self._append(complete)
            for _ in complete:
                self._pending.popleft()
        if everything and self._started is not None:
            self._started.settle()

    def _is_written(self, pending: PendingShard) -> bool:
        return pending.fragments is None or self._pool.is_done(pending.fragments)

    def _append(self, group: Sequence[PendingShard]) -> None:
        state = self._state
        state.note_failures([failure for pending in group for failure in pending.images.failures])
        group = [pending for pending in group if pending.fragments is not None]
        if not group:
            return
        fragments: dict[str, list[str]] = {}
        written: list[WrittenShard] = self._pool.get([pending.fragments for pending in group])
        for shard in written:
            for name, paths in shard.fragments.items():
                fragments.setdefault(name, []).extend(paths)
        for name, paths in fragments.items():
            state.store.append_fragments(name, paths)
        forget_failures(state.store, {image.ref.uri for pending in group for image in pending.images.prepared})
        for pending in group:
            self._count_in(pending)
        marks = [(shard.digests, pending.target.mark) for shard, pending in zip(written, group, strict=True)]
        commit.mark_all(state.store, marks, state.run)
        for pending in group:
            state.added += pending.target.mark.rows * pending.target.new

    def _count_in(self, pending: PendingShard) -> None:
        """Count the activations of a written shard into the statistics, and write its maps."""
        state, mark, pieces = self._state, pending.target.mark, pending.images.pieces
        layers = [info for info in pending.target.infos if isinstance(info, LayerInfo)]
        outputs: list[WorkerOutput] = self._pool.get([output for output, _, _ in pieces]) if layers else []
        places = [(start, stop) for _, start, stop in pieces] if layers else []
        for info in layers:
            rows = [one.values[info.what][slice(*place)] for one, place in zip(outputs, places, strict=True)]
            commit.count_in(state.store, info, state.statistics, mark, torch.from_numpy(np.concatenate(rows)))
            if info.what in state.frames:
                maps = [(one.maps[info.what], *place) for one, place in zip(outputs, places, strict=True)]
                state.keep_maps(info, mark, joined_maps(maps))


def _piece(chunk: Chunk, items: Iterable[Item]) -> tuple[Chunk, int, int]:
    rows = [item.row for item in items]
    return chunk, rows[0], rows[-1] + 1
