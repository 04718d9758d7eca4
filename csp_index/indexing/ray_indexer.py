"""The same pass on Ray: workers decode, run the models and write rows; this process forms shards and marks them.

Images are cut into batches and shards as in `batches.py`, unreadable ones left out, so that the tables are equal. What
the workers wrote is nothing until it is appended here, in the order of the shards: as many shards as are complete go
in together, one commit a table, their marks last. So a kill loses the shards under way, and the same command goes on.
Only a bounded number of images is under way at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice, repeat, takewhile
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from csp_index.errors import SettingError
from csp_index.images.decode import ImageFailure, ImageRef, ImageSource
from csp_index.images.loader import Prepared
from csp_index.indexing import commit
from csp_index.indexing.indexer import Engine, Pass, check_indexed
from csp_index.indexing.model_columns import KnownUris, Part, forget_failures, write_failures
from csp_index.indexing.ray_cluster import Chunk, Crew, WriteOrder, joined
from csp_index.records import Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.runs import Run
from csp_index.store.tables import Store

_AHEAD = 2  # chunks of images decoded for each worker before they are needed


@contextmanager
def ray_engine(address: str | None) -> Iterator[Engine]:
    """Join or start a cluster (see `cluster.joined`) and give what makes passes on it; their workers end with it."""
    with joined(address), ExitStack() as ending:
        yield Engine("ray", partial(RayPass, ending))


def chosen_engine(
    name: str, address: str | None, decode_workers: int | None, *, named: bool = True
) -> AbstractContextManager[Engine | None]:
    """Return what makes passes: on Ray, or None for this process; options that do not go together are refused.

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
    """A readable image: its pixels are a row of those of a chunk."""

    image: Prepared
    chunk: Chunk
    row: int


@dataclass(frozen=True, slots=True)
class Planned:
    """One shard's worth of images, and where the outputs of its batches will be."""

    prepared: list[Prepared] = field(default_factory=list)
    failures: list[ImageFailure] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pending:
    """A shard on its way: its columns, whether its images are new, and where its fragments will be listed.

    `fragments` is None where no image of it can be read.
    """

    planned: Planned
    mark: Shard
    infos: tuple[Column, ...]
    new: bool
    fragments: Any

    @property
    def names(self) -> list[str]:
        """What is marked with the shard."""
        return [schema.IMAGES] * self.new + [info.what for info in self.infos]


class RayPass(Pass):
    """A pass whose work is done by the workers of a cluster."""

    def __init__(
        self, ending: ExitStack, store: Store, parts: Sequence[Part], run: Run, progress: Progress, workers: int | None
    ) -> None:
        """Prepare a pass; workers start when there is something to do, and end with `ending`."""
        super().__init__(store, parts, run, progress, workers)
        self._ending = ending
        self._started: Crew | None = None
        self._pending: deque[Pending] = deque()

    @property
    def _crew(self) -> Crew:
        if self._started is None:
            self._started = Crew(self.parts, self.store.address)
            self._ending.callback(self._started.close)
        return self._started

    def _fill(self, marks: Sequence[Shard], parts: Sequence[Part], have: dict[str, int]) -> None:
        expected: deque[list[str]] = deque()

        def refs() -> Iterator[ImageRef]:
            for mark in marks:
                rows = self._indexed(mark)
                expected.append(rows["sha256"])
                yield from (ImageRef(uri) for uri in rows["uri"])

        for mark, planned in zip(marks, self._planned(refs(), parts, [mark.rows for mark in marks]), strict=False):
            check_indexed(planned.prepared, planned.failures, expected.popleft())
            infos = (info for part in parts for info in part.infos if have[info.what] <= mark.number)
            self._write_later(planned, mark, tuple(infos), new=False)
        self._commit(everything=True)

    def extend(self, source: ImageSource, shard_size: int) -> None:
        """Add the source's images that the index does not know, a full shard at a time."""
        known = KnownUris(self.store.read(schema.IMAGES, ["uri"])["uri"])
        self._done, self._todo = 0, sum(ref.uri not in known for ref in source.refs())
        number, first = len(catalog.shards(self.store, schema.IMAGES)), catalog.image_count(self.store)
        refs = (ref for ref in source.refs() if ref.uri not in known)
        infos = tuple(info for part in self.parts for info in part.infos)
        for planned in self._planned(refs, self.parts, repeat(shard_size)):
            mark = Shard(number, first, len(planned.prepared), self.run.settings_hash)
            self._write_later(planned, mark, infos, new=True)
            number, first = number + 1, first + mark.rows
        self._commit(everything=True)

    def _planned(self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int]) -> Iterator[Planned]:
        """Yield shards of `limits` readable images each, whose batches are under way; the last has what there is."""
        places = [self.parts.index(part) for part in parts]
        size = min(part.model.batch_size for part in parts)
        images = self._decoded(iter(refs), places, size)
        for limit in limits:
            planned = Planned()
            while len(planned.prepared) < limit:
                wanted = min(size, limit - len(planned.prepared))
                batch = _take(images, wanted, planned.failures)
                if batch:
                    pieces = [_piece(chunk, items) for chunk, items in groupby(batch, key=attrgetter("chunk"))]
                    planned.outputs.append(self._crew.compute(places, batch[0].image.ref.uri, pieces))
                    planned.prepared.extend(item.image for item in batch)
                    self._show()
                if len(batch) < wanted:
                    break
            if planned.prepared or planned.failures:
                yield planned
            if len(planned.prepared) < limit:
                return

    def _decoded(self, refs: Iterator[ImageRef], places: Sequence[int], size: int) -> Iterator[Item | ImageFailure]:
        """Yield the images in order; the workers decode a bounded number ahead."""
        ahead: deque[Chunk] = deque()
        while True:
            while not ahead or len(ahead) < _AHEAD * self._crew.ready:
                if not (taken := list(islice(refs, size))):
                    break
                ahead.append(self._crew.decode(taken, places))
            if not ahead:
                return
            chunk, row = ahead.popleft(), 0
            for image in self._crew.get(chunk.report):
                if isinstance(image, ImageFailure):
                    yield image
                else:
                    yield Item(image, chunk, row)
                    row += 1

    def _show(self) -> None:
        self._done += self._crew.computed()
        self._progress(self._done, max(self._todo, self._done), "images")

    def _write_later(self, planned: Planned, mark: Shard, infos: tuple[Column, ...], *, new: bool) -> None:
        """Have a shard's rows written once they are computed; append what is complete by now."""
        fragments = None
        if planned.prepared:
            tables = {schema.IMAGES: schema.table_schema(schema.IMAGES)} if new else {}
            for name, columns in (tables | {info.table: commit.value_schema(info) for info in infos}).items():
                self.store.create(name, columns)
            order = WriteOrder(mark, tuple(planned.prepared) if new else None, infos)
            fragments = self._crew.write(order, planned.outputs)
        self._pending.append(Pending(planned, mark, infos, new, fragments))
        self._commit()

    def _commit(self, everything: bool = False) -> None:
        """Append the complete shards that are next in order, together; `everything` waits for the others too."""
        while self._pending:
            if everything and self._pending[0].fragments is not None:
                self._crew.get(self._pending[0].fragments)
            complete = list(takewhile(self._is_written, self._pending))
            if not complete and not everything:
                return
            self._append(complete)
            for _ in complete:
                self._pending.popleft()
        if everything and self._started is not None:
            self._started.settle()
            self._show()

    def _is_written(self, pending: Pending) -> bool:
        return pending.fragments is None or self._crew.is_there(pending.fragments)

    def _append(self, group: Sequence[Pending]) -> None:
        failures = [failure for pending in group for failure in pending.planned.failures]
        write_failures(self.store, failures, self.run.run_id)
        self.failed += len(failures)
        self._done += len(failures)
        group = [pending for pending in group if pending.fragments is not None]
        if not group:
            return
        fragments: dict[str, list[str]] = {}
        for found in self._crew.get([pending.fragments for pending in group]):
            for name, some in found.items():
                fragments.setdefault(name, []).extend(some)
        for name, some in fragments.items():
            self.store.append_fragments(name, some)
        forget_failures(self.store, {image.ref.uri for one in group if one.new for image in one.planned.prepared})
        commit.mark_all(self.store, [(pending.names, pending.mark) for pending in group], self.run)
        for pending in group:
            self._count_in(pending)
            self.added += pending.mark.rows * pending.new

    def _count_in(self, pending: Pending) -> None:
        layers = [info for info in pending.infos if isinstance(info, LayerInfo)]
        batches = self._crew.get(pending.planned.outputs) if layers else []
        for info in layers:
            values = torch.from_numpy(np.concatenate([batch[info.what] for batch in batches]))
            commit.count_in(self.store, info, self.statistics, pending.mark, values)


def _take(images: Iterator[Item | ImageFailure], wanted: int, failures: list[ImageFailure]) -> list[Item]:
    """Return the next `wanted` readable images, or as many as there are; note the others."""
    batch: list[Item] = []
    for item in images:
        if isinstance(item, ImageFailure):
            failures.append(item)
        else:
            batch.append(item)
        if len(batch) == wanted:
            break
    return batch


def _piece(chunk: Chunk, items: Iterable[Item]) -> tuple[Chunk, int, int]:
    rows = [item.row for item in items]
    return chunk, rows[0], rows[-1] + 1
