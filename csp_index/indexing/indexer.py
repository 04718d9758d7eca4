"""The one pass: images -> encoders and networks -> store, shard by shard.

A shard's rows and marks are kept together, at a checkpoint; what a killed pass wrote since then is undone before the
next one resumes. A shard is written while the next is computed, so a kill loses at most these two, and the tables of a
resumed pass equal those of an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby, repeat, tee
from operator import itemgetter
from typing import Protocol

import torch

from csp_index import settings
from csp_index.concurrency import Writer, ahead
from csp_index.errors import ModelError, SourceError
from csp_index.images.class_folders import class_notes_of
from csp_index.images.datasets import ImageStream
from csp_index.images.decode import ImageFailure, ImageRead, ImageRef, ImageSource, read_image, uris_of
from csp_index.images.loader import Prepared, decoded, workers_for
from csp_index.images.memory_images import read_image_of
from csp_index.images.passed_over import PassedOver, passed_over_by
from csp_index.images.sources import places_of
from csp_index.indexing import commit
from csp_index.indexing.batches import batches
from csp_index.indexing.commit import IndexSummary
from csp_index.indexing.latents import count_latents
from csp_index.indexing.model_columns import (
    KnownUris,
    Part,
    columns_of,
    forget_failures,
    image_rows,
    parts_of,
    write_failures,
)
from csp_index.indexing.model_outputs import Outputs, outputs_of
from csp_index.models.encoders import LoadedEncoder, TwoTowers
from csp_index.models.networks import LoadedNetwork
from csp_index.originals import ImageRoots, coming_from
from csp_index.records import Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.history.digests import shard_digest
from csp_index.store.runs import Run, record_run
from csp_index.store.statistics import NeuronStatistics
from csp_index.store.tables import Store

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PassState:
    """What a pass works on and how far it has come; the pass and its executor share it."""

    store: Store
    run: Run
    progress: Progress
    added: int = 0  # images that are new in the index
    failed: int = 0  # images that cannot be read
    done: int = 0  # images read or failed, of `total`
    total: int = 0
    passed_over: PassedOver = field(default_factory=PassedOver)  # files of the source that are no images, by reason
    statistics: dict[str, NeuronStatistics] = field(default_factory=dict)  # by the column's name in the marks

    def advance(self, images: int) -> None:
        """Count images as done and report the progress."""
        self.done += images
        self.progress(self.done, max(self.total, self.done), "images")

    def note_failures(self, failures: Sequence[ImageFailure]) -> None:
        """Store and count images that cannot be read."""
        write_failures(self.store, failures, self.run.run_id)
        self.failed += len(failures)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the results of one shard's images go: the shard, its columns, and whether the images are new."""

    mark: Shard
    infos: tuple[Column, ...]
    new: bool


#: From a shard's readable images and failures to the target of its results; raises to refuse them.
Assign = Callable[[Sequence[Prepared], Sequence[ImageFailure]], Target]


class Executor(Protocol):
    """Reads images, runs the models and writes the results."""

    def run(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], assign: Assign, *, all_of: bool
    ) -> None:
        """Process shards of `limits` readable images each, in order; the last one gets what is left.

        `assign` is called once per shard, before its results are written. With `all_of`, an image on which a model
        fails is an error, because it has its row already; else it is a failure. Returns when everything is stored.
        """


@dataclass(frozen=True, slots=True)
class Engine:
    """Another way to execute passes than in this process: its name, and what makes an executor for a pass."""

    name: str
    make: Callable[[PassState, Sequence[Part]], Executor]


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

    Without a source, only missing shards are filled. `decode_workers` processes decode the images; with 0, threads of
    this process do. `engine` executes the pass elsewhere. Errors: SettingError where a model differs from the one the
    index was built with, SourceError where an indexed image that a new model needs cannot be read any more.
    """
    started = time.monotonic()
    check_settings(shard_size, dtype, decode_workers)
    run_settings: dict[str, object] = {
        "source": source.name if source else None,
        "shard_size": settings.SHARD_SIZE.value(shard_size),
        "encoders": [e.spec for e in encoders],
        "networks": {n.name: sorted(n.layers) for n in networks},
        "dtype": settings.ACTIVATION_DTYPE.value(dtype),
    }
    workers = settings.DECODE_WORKERS.value(decode_workers)
    models = {e.spec: e.identity for e in encoders} | {n.name: n.identity for n in networks}
    with store.write_lock(), ExitStack() as ready:
        ready.enter_context(coming_from(store, places_of(source)))
        for model in (*encoders, *networks):
            if isinstance(model, LoadedNetwork | TwoTowers):
                ready.enter_context(model.in_use())
        infos = commit.reconcile(store, columns_of(encoders, networks, str(run_settings["dtype"])), dtype)
        command = f"index --engine {engine.name}" if engine else "index"
        with record_run(store, command, run_settings, models) as run:
            parts = parts_of(encoders, networks, infos)
            commit.register(store, infos, run)
            state = PassState(store, run, progress or _silent)
            executor = engine.make(state, parts) if engine else LocalExecutor(state, workers)
            indexing = Pass(state, parts, executor)
            indexing.catch_up()
            if source is not None:
                indexing.extend(source, settings.SHARD_SIZE.value(shard_size))
            commit.finish_statistics(store, [i for i in infos if isinstance(i, LayerInfo)], state.statistics)
        latents = count_latents(store, infos)
    return IndexSummary(
        run.run_id,
        catalog.image_count(store),
        state.added,
        state.failed,
        len(catalog.shards(store, schema.IMAGES)),
        time.monotonic() - started,
        tuple(str(i.key) for i in infos if isinstance(i, LayerInfo)),
        tuple(e.spec for e in encoders),
        dict(state.passed_over),
        latents,
    )


def check_settings(shard_size: int | None, dtype: str | None, decode_workers: int | None) -> None:
    """Refuse settings that a pass cannot run with, before anything is loaded."""
    settings.SHARD_SIZE.value(shard_size)
    settings.DECODE_THREADS.value()
    settings.THUMBNAIL_SIZE.value()
    settings.ACTIVATION_DTYPE.value(dtype)
    settings.DECODE_WORKERS.value(decode_workers)


class Pass:
    """Which shards are missing for which part, and which images are new; an executor processes them."""

    def __init__(self, state: PassState, parts: Sequence[Part], executor: Executor) -> None:
        """Prepare a pass over `parts`; nothing is read yet."""
        self._state, self._parts, self._executor = state, parts, executor

    def catch_up(self) -> None:
        """Fill the shards of images that are in the index already but lack some part."""
        store = self._state.store
        marks = catalog.shards(store, schema.IMAGES)
        have = {info.what: len(catalog.shards(store, info.what)) for part in self._parts for info in part.infos}
        lacking = [tuple(p for p in self._parts if any(have[i.what] <= mark.number for i in p.infos)) for mark in marks]
        self._state.total = sum(mark.rows for mark, parts in zip(marks, lacking, strict=True) if parts)
        for parts, group in groupby(zip(marks, lacking, strict=True), key=itemgetter(1)):
            if parts:
                self._fill([mark for mark, _ in group], parts, have)

    def _fill(self, marks: Sequence[Shard], parts: Sequence[Part], have: dict[str, int]) -> None:
        hashes: deque[list[str]] = deque()  # images are read ahead of the models, and checked behind them
        remaining, roots = iter(marks), ImageRoots(self._state.store)

        def refs() -> Iterator[ImageRef]:
            for mark in marks:
                rows = self._indexed(mark)
                hashes.append(rows["sha256"])
                yield from (ImageRef(roots.checked(uri)) for uri in rows["uri"])

        def assign(prepared: Sequence[Prepared], failures: Sequence[ImageFailure]) -> Target:
            check_indexed(prepared, failures, hashes.popleft())
            mark = next(remaining)
            infos = (info for part in parts for info in part.infos if have[info.what] <= mark.number)
            return Target(mark, tuple(infos), new=False)

        self._executor.run(refs(), parts, [mark.rows for mark in marks], assign, all_of=True)

    def _indexed(self, mark: Shard) -> dict[str, list[str]]:
        where = f"image_id >= {mark.first_image} AND image_id < {mark.first_image + mark.rows}"
        rows = self._state.store.read(schema.IMAGES, ["image_id", "uri", "sha256"], where)
        columns: dict[str, list[str]] = rows.sort_by("image_id").to_pydict()
        return columns

    def extend(self, source: ImageSource, shard_size: int) -> None:
        """Add the source's images that the index does not know, a full shard at a time."""
        state = self._state
        known = KnownUris(state.store.read(schema.IMAGES, ["uri"])["uri"])
        one_pass = isinstance(source, ImageStream)  # a stream cannot be counted first
        state.done, state.total = 0, 0 if one_pass else sum(uri not in known for uri in uris_of(source))
        state.passed_over = passed_over_by(source)
        for line in (*class_notes_of(source), *([str(state.passed_over)] if state.passed_over else [])):
            _log.warning("%s", line)
        number, first = len(catalog.shards(state.store, schema.IMAGES)), catalog.image_count(state.store)
        infos = tuple(info for part in self._parts for info in part.infos)

        def assign(prepared: Sequence[Prepared], failures: Sequence[ImageFailure]) -> Target:
            nonlocal number, first
            mark = Shard(number, first, len(prepared), state.run.settings_hash)
            number, first = number + bool(mark.rows), first + mark.rows
            return Target(mark, infos, new=True)

        self._executor.run(self._unknown(source, known), self._parts, repeat(shard_size), assign, all_of=False)

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
        rows = self._state.store.read(schema.IMAGES, ["sha256"], f"uri = {catalog.sql_text(ref.uri)}")
        if isinstance(read, ImageRead) and rows.num_rows and rows["sha256"][0].as_py() != read.sha256:
            raise SourceError(
                f"the image {ref.uri} is another one than in the index: give add_images(name=...) for another dataset, "
                "and take random changes out of its transform"
            )


class LocalExecutor:
    """Processes shards in this process. Three things run at once: decoding, the models, writing the last shard."""

    def __init__(self, state: PassState, workers: int | None) -> None:
        """Prepare to decode in `workers` processes: 0 is threads of this one, None depends on the work."""
        self._state, self._workers = state, workers
        self._proven = False  # an image went through all models, in this pass or an earlier one

    def run(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], assign: Assign, *, all_of: bool
    ) -> None:
        """Process shards of `limits` readable images each, in order; the last one gets what is left."""
        self._proven = self._proven or (not all_of and catalog.image_count(self._state.store) > 0)
        with Writer() as writer, closing(self._computed(refs, parts, limits, writer, all_of)) as shards:
            for images in shards:
                target = assign(images.prepared, images.failures)
                writer.put(partial(self._write, images, target))

    def _computed(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], writer: Writer, all_of: bool
    ) -> Generator[Computed, None, None]:
        """Yield shards of `limits` images each, computed batch by batch; end where the writer has failed.

        A shard from which a model's failures are missing is filled up with the images that follow, so that the same
        images make the same shards, whenever a pass is interrupted.
        """
        preprocess = [part.model.preprocess for part in parts]
        workers = workers_for(self._state.total, preprocess) if self._workers is None else self._workers
        planned, sizes = tee(limits)
        shard = Computed([], [], {})
        with (
            closing(decoded(refs, preprocess, workers=workers)) as images,
            closing(ahead(batches(images, parts, planned))) as prepared,
        ):
            for batch in prepared:
                outputs = outputs_of(parts, batch.images, batch.pixels, proven=self._proven)
                self._proven = self._proven or bool(outputs.images)
                if all_of and outputs.failures:
                    raise _fails_on_indexed(outputs.failures)
                shard.add(outputs, batch.failures)
                self._state.advance(len(batch.images) + len(batch.failures))
                writer.check()
                if batch.last and len(shard.prepared) >= (size := next(sizes)):
                    full, shard = shard.cut(size)
                    yield full
                elif batch.last:
                    sizes = chain([size], sizes)
            if shard.prepared or shard.failures:
                yield shard

    def _write(self, images: Computed, target: Target) -> None:
        store, mark = self._state.store, target.mark
        self._state.note_failures(images.failures)
        if not mark.rows:
            return
        digests: dict[str, str] = {}
        if target.new:
            rows = image_rows(mark, images.prepared)
            store.append(schema.IMAGES, rows)
            digests[schema.IMAGES] = shard_digest([rows])
            forget_failures(store, {item.ref.uri for item in images.prepared})
        outputs = images.outputs
        for info in target.infos:
            digests[info.what] = commit.write_values(store, info, mark, outputs[info.what])
        commit.mark(store, digests, mark, self._state.run)
        for info in target.infos:
            commit.count_in(store, info, self._state.statistics, mark, outputs[info.what])
        self._state.added += mark.rows * target.new


@dataclass(slots=True)
class Computed:
    """One shard's images, those that cannot be read, and the models' outputs [n, W] by column."""

    prepared: list[Prepared]
    failures: list[ImageFailure]
    rows: dict[str, list[torch.Tensor]]

    @property
    def outputs(self) -> dict[str, torch.Tensor]:
        """The outputs [n, W] by column."""
        return {what: torch.cat(values) for what, values in self.rows.items()}

    def add(self, outputs: Outputs, unreadable: Sequence[ImageFailure]) -> None:
        """Add what the models gave for a batch, and the images that could not be read."""
        self.prepared.extend(outputs.images)
        self.failures += [*unreadable, *outputs.failures]
        for what, values in outputs.values.items():
            self.rows.setdefault(what, []).append(values)

    def cut(self, size: int) -> tuple[Computed, Computed]:
        """Return the first `size` images with all failures, and the others."""
        if len(self.prepared) == size:
            return self, Computed([], [], {})
        whole = self.outputs
        first = {what: [values[:size]] for what, values in whole.items()}
        rest = {what: [values[size:]] for what, values in whole.items()}
        return Computed(self.prepared[:size], self.failures, first), Computed(self.prepared[size:], [], rest)


def _fails_on_indexed(failures: Sequence[ImageFailure]) -> ModelError:
    return ModelError(
        f"a model fails on {len(failures)} indexed images, first {failures[0].uri}: {failures[0].reason}; choose "
        "another layer, or index the other images into a new database"
    )


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
