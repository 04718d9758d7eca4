"""The one pass: images -> encoders and networks -> store, shard by shard.

A shard's rows are written first and its marks last, in one commit; whatever has no mark is deleted before the next pass
goes on. A shard is written while the next is computed: a kill at any moment loses at most these two, and the tables of
a resumed pass equal those of an undisturbed one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby, repeat
from operator import itemgetter

import torch

from csp_index import settings
from csp_index.concurrency import Writer, ahead
from csp_index.errors import ModelError, SourceError
from csp_index.images.datasets import ImageStream
from csp_index.images.decode import ImageFailure, ImageRead, ImageRef, ImageSource, read_image
from csp_index.images.loader import Prepared, decoded, workers_for
from csp_index.images.memory_images import read_image_of
from csp_index.indexing import commit
from csp_index.indexing.batches import Batch, batches
from csp_index.indexing.commit import IndexSummary
from csp_index.indexing.model_columns import (
    KnownUris,
    Part,
    columns_of,
    forget_failures,
    image_rows,
    parts_of,
    write_failures,
)
from csp_index.models.encoders import LoadedEncoder, TwoTowers
from csp_index.models.networks import LoadedNetwork
from csp_index.records import Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.runs import Run, record_run
from csp_index.store.statistics import NeuronStatistics
from csp_index.store.tables import Store


@dataclass(frozen=True, slots=True)
class Engine:
    """What makes the passes of another engine than this module's own."""

    name: str
    make: Callable[[Store, Sequence[Part], Run, Progress, int | None], Pass]


def add_images(
    store: Store,
    source: ImageSource | None,
    encoders: Sequence[LoadedEncoder],
    networks: Sequence[LoadedNetwork],
    *,
    shard_size: int | None = None,
    dtype: str | None = None,
    decode_workers: int | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> IndexSummary:
    """Bring every given encoder and network up to date with the index, then add the source's new images.

    Without a source only the missing shards are filled. `decode_workers` processes decode the images, with 0 threads of
    this one. `engine` makes the pass instead. Errors: SettingError where a model differs from the one the index was
    built with, SourceError where an indexed image that a new model needs cannot be read any more.
    """
    started = time.monotonic()
    check_settings(shard_size, dtype, decode_workers)
    chosen: dict[str, object] = {
        "source": source.name if source else None,
        "shard_size": settings.SHARD_SIZE.value(shard_size),
        "encoders": [e.spec for e in encoders],
        "networks": {n.name: sorted(n.layers) for n in networks},
        "dtype": settings.ACTIVATION_DTYPE.value(dtype),
    }
    workers = settings.DECODE_WORKERS.value(decode_workers)
    models = {e.spec: e.identity for e in encoders} | {n.name: n.identity for n in networks}
    with store.write_lock(), ExitStack() as ready:
        for model in (*encoders, *networks):
            if isinstance(model, LoadedNetwork | TwoTowers):
                ready.enter_context(model.in_use())
        infos = commit.reconcile(store, columns_of(encoders, networks, str(chosen["dtype"])), dtype)
        command = f"index --engine {engine.name}" if engine else "index"
        with record_run(store, command, chosen, models) as run:
            parts = parts_of(encoders, networks, infos)
            commit.recover(store, infos)
            commit.register(store, infos, run)
            work = (engine.make if engine else Pass)(store, parts, run, progress or _silent, workers)
            work.catch_up()
            if source is not None:
                work.extend(source, settings.SHARD_SIZE.value(shard_size))
            commit.finish_statistics(store, [i for i in infos if isinstance(i, LayerInfo)], work.statistics)
    return IndexSummary(
        run.run_id,
        catalog.image_count(store),
        work.added,
        work.failed,
        len(catalog.shards(store, schema.IMAGES)),
        time.monotonic() - started,
        tuple(str(i.key) for i in infos if isinstance(i, LayerInfo)),
        tuple(e.spec for e in encoders),
    )


def check_settings(shard_size: int | None, dtype: str | None, decode_workers: int | None) -> None:
    """Refuse what a pass could not be run with, before anything is made."""
    settings.SHARD_SIZE.value(shard_size)
    settings.DECODE_THREADS.value()
    settings.THUMBNAIL_SIZE.value()
    settings.ACTIVATION_DTYPE.value(dtype)
    settings.DECODE_WORKERS.value(decode_workers)


class Pass:
    """The pass itself: which shards are missing for which part, and the loop that fills them.

    Three things go on at once: images are decoded and put together to batches, the models run, the last shard is
    written.
    """

    def __init__(self, store: Store, parts: Sequence[Part], run: Run, progress: Progress, workers: int | None) -> None:
        """Prepare a pass over `parts`; nothing is read yet."""
        self.store, self.parts, self.run = store, parts, run
        self._progress, self._workers = progress, workers
        self.added = self.failed = 0
        self.statistics: dict[str, NeuronStatistics] = {}
        self._done = self._todo = 0

    def catch_up(self) -> None:
        """Fill the shards of images that are in the index already but lack some part."""
        marks = catalog.shards(self.store, schema.IMAGES)
        have = {info.what: len(catalog.shards(self.store, info.what)) for part in self.parts for info in part.infos}
        lacking = [tuple(p for p in self.parts if any(have[i.what] <= mark.number for i in p.infos)) for mark in marks]
        self._todo = sum(mark.rows for mark, parts in zip(marks, lacking, strict=True) if parts)
        for parts, group in groupby(zip(marks, lacking, strict=True), key=itemgetter(1)):
            if parts:
                self._fill([mark for mark, _ in group], parts, have)

    def _fill(self, marks: Sequence[Shard], parts: Sequence[Part], have: dict[str, int]) -> None:
        expected: deque[list[str]] = deque()  # what is read ahead of the models is checked when they are done

        def refs() -> Iterator[ImageRef]:
            for mark in marks:
                rows = self._indexed(mark)
                expected.append(rows["sha256"])
                yield from (ImageRef(uri) for uri in rows["uri"])

        with Writer() as writer, closing(self._computed(refs(), parts, [mark.rows for mark in marks], writer)) as found:
            for mark, done in zip(marks, found, strict=False):
                wanted = expected.popleft()
                check_indexed(done.prepared, done.failures, wanted)
                outputs = {what: rows for what, rows in done.outputs.items() if have[what] <= mark.number}
                writer.put(partial(self._write, mark, None, outputs))

    def _indexed(self, mark: Shard) -> dict[str, list[str]]:
        where = f"image_id >= {mark.first_image} AND image_id < {mark.first_image + mark.rows}"
        columns = ["image_id", "uri", "sha256"]
        found: dict[str, list[str]] = self.store.read(schema.IMAGES, columns, where).sort_by("image_id").to_pydict()
        return found

    def extend(self, source: ImageSource, shard_size: int) -> None:
        """Add the source's images that the index does not know, a full shard at a time."""
        known = KnownUris(self.store.read(schema.IMAGES, ["uri"])["uri"])
        once = isinstance(source, ImageStream)  # which cannot be counted first
        self._done, self._todo = 0, 0 if once else sum(ref.uri not in known for ref in source.refs())
        number, first = len(catalog.shards(self.store, schema.IMAGES)), catalog.image_count(self.store)
        refs = self._unknown(source, known)
        with Writer() as writer, closing(self._computed(refs, self.parts, repeat(shard_size), writer)) as found:
            for done in found:
                mark = Shard(number, first, len(done.prepared), self.run.settings_hash)
                writer.put(partial(self._add, mark, done))
                number, first = number + bool(mark.rows), first + mark.rows

    def _unknown(self, source: ImageSource, known: KnownUris) -> Iterator[ImageRef]:
        """Yield the images that are new. Raises SourceError where an object gives another picture for a known one."""
        compared = False
        for ref in source.refs():
            if ref.uri not in known:
                yield ref
            elif ref.read is not None and not compared:
                compared = True
                self._compare(ref)

    def _compare(self, ref: ImageRef) -> None:
        read = read_image(ref.uri, read_image_of(ref.read)) if ref.read is not None else None
        rows = self.store.read(schema.IMAGES, ["sha256"], f"uri = {catalog.sql_text(ref.uri)}")
        if isinstance(read, ImageRead) and rows.num_rows and rows["sha256"][0].as_py() != read.sha256:
            raise SourceError(
                f"the image {ref.uri} is another one than in the index: give add_images(name=...) for another dataset, "
                "and take random changes out of its transform"
            )

    def _add(self, mark: Shard, done: Computed) -> None:
        write_failures(self.store, done.failures, self.run.run_id)
        self.failed += len(done.failures)
        if mark.rows:
            self._write(mark, done.prepared, done.outputs)
            self.added += mark.rows

    def _computed(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], writer: Writer
    ) -> Generator[Computed, None, None]:
        """Yield shards of `limits` images each, computed batch by batch; end where the writer has failed."""
        preprocess = [part.model.preprocess for part in parts]
        workers = workers_for(self._todo, preprocess) if self._workers is None else self._workers
        done, rows = Computed([], [], {}), dict[str, list[torch.Tensor]]()
        with (
            closing(decoded(refs, preprocess, workers=workers)) as images,
            closing(ahead(batches(images, parts, limits))) as prepared,
        ):
            for batch in prepared:
                _forward(batch, parts, rows)
                done.prepared.extend(batch.images)
                done.failures.extend(batch.failures)
                self._done += len(batch.images) + len(batch.failures)
                self._progress(self._done, max(self._todo, self._done), "images")
                writer.check()
                if batch.last:
                    done.outputs.update({what: torch.cat(values) for what, values in rows.items()})
                    yield done
                    done, rows = Computed([], [], {}), {}

    def _write(self, mark: Shard, prepared: list[Prepared] | None, outputs: dict[str, torch.Tensor]) -> None:
        if prepared is not None:
            self.store.append(schema.IMAGES, image_rows(mark, prepared))
            forget_failures(self.store, {item.ref.uri for item in prepared})
        infos = {info.what: info for part in self.parts for info in part.infos}
        for what, values in outputs.items():
            commit.write_values(self.store, infos[what], mark, values)
        names = ([schema.IMAGES] if prepared is not None else []) + list(outputs)
        commit.mark(self.store, names, mark, self.run)
        for what, values in outputs.items():
            commit.count_in(self.store, infos[what], self.statistics, mark, values)


@dataclass(slots=True)
class Computed:
    """What one shard's worth of images came to."""

    prepared: list[Prepared]
    failures: list[ImageFailure]
    outputs: dict[str, torch.Tensor]


def _forward(batch: Batch, parts: Sequence[Part], rows: dict[str, list[torch.Tensor]]) -> None:
    for part, pixels in zip(parts, batch.pixels, strict=False):  # no pixels where no image could be read
        for what, values in part.compute(pixels).items():
            if not bool(torch.isfinite(values).all()):
                near = batch.images[0].ref.uri
                raise ModelError(f"{what} gave values that are not finite, first near {near}: check the model")
            rows.setdefault(what, []).append(values)


def check_indexed(prepared: Sequence[Prepared], failures: Sequence[ImageFailure], expected: Sequence[str]) -> None:
    """Refuse indexed images that cannot be read any more, or whose bytes are not those of the hashes `expected`."""
    if failures:
        raise SourceError(
            f"{len(failures)} indexed images cannot be read any more, first {failures[0].uri}: {failures[0].reason}; "
            "restore them"
        )
    if [image.sha256 for image in prepared] != expected:
        changed = next(image.ref.uri for image, sha in zip(prepared, expected, strict=True) if image.sha256 != sha)
        raise SourceError(
            f"{changed} changed since it was indexed: restore it, or index the changed images into a new database"
        )


def _silent(done: int, todo: int, what: str) -> None:
    """Show no progress."""
