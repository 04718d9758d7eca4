"""The one pass: images -> encoders and networks -> store, shard by shard.

A shard's rows and marks are kept together, at a checkpoint; what a killed pass wrote since then is undone before the
next one resumes. A shard is written while the next is computed, so a kill loses at most these two, and the tables of a
resumed pass equal those of an uninterrupted one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, repeat, tee
from operator import itemgetter
from typing import Protocol

import torch

from csp_index import settings
from csp_index.concurrency import Writer, ahead
from csp_index.errors import SourceError
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
from csp_index.indexing.drafts import settle_draft, with_draft
from csp_index.indexing.kept_maps import Frames, drop_maps, finish_maps, kept_frames, write_shard_maps
from csp_index.indexing.latents import count_latents
from csp_index.indexing.map_watch import BatchMaps, joined_maps
from csp_index.indexing.missing_maps import make_missing_maps
from csp_index.indexing.model_columns import (
    KnownUris,
    Part,
    columns_of,
    forget_failures,
    image_rows,
    parts_of,
    write_failures,
)
from csp_index.indexing.model_outputs import Outputs, check_preprocessing, outputs_of
from csp_index.indexing.shard_forming import ComputedBatch, ComputedShard, shards_of
from csp_index.indexing.unusable_images import UnusableImages, indexed_ref
from csp_index.models.encoders import LoadedEncoder, TwoTowers
from csp_index.models.networks import LoadedNetwork
from csp_index.records import LayerKey, Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.history.digests import shard_digest
from csp_index.store.originals import ImageRoots, coming_from
from csp_index.store.runs import Run, record_run
from csp_index.store.tables import Store
from csp_index.store.values.class_names import store_class_names
from csp_index.store.values.statistics import NeuronStatistics

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PassState:
    """What a pass works on and how far it has come; the pass and its executor share it."""

    store: Store
    run: Run
    progress: Progress
    draft: int | None = None  # the least short side that JPEGs are decoded at; None: they are decoded whole
    added: int = 0  # images that are new in the index
    failed: int = 0  # images that cannot be used
    done: int = 0  # images read or failed, of `total`
    total: int = 0
    passed_over: PassedOver = field(default_factory=PassedOver)  # files of the source that are no images, by reason
    statistics: dict[str, NeuronStatistics] = field(default_factory=dict)  # by the column's name in the marks
    frames: Frames = field(default_factory=dict)  # of the layers whose activation maps are kept, by the same names

    def advance(self, images: int) -> None:
        """Count images as done and report the progress."""
        self.done += images
        self.progress(self.done, max(self.total, self.done), "images")

    def is_proven(self, parts: Sequence[Part]) -> bool:
        """Return whether every model of the pass took an image before: each of its columns has a shard."""
        return all(catalog.shards(self.store, info.what) for part in parts for info in part.infos)

    def keep_maps(self, info: LayerInfo, mark: Shard, maps: BatchMaps) -> None:
        """Write a shard's activation maps of a layer; its activations are counted into the statistics already."""
        write_shard_maps(self.store, info, self.frames[info.what], mark, maps, self.statistics[info.what])

    def note_failures(self, failures: Sequence[ImageFailure]) -> None:
        """Store and count images that cannot be used."""
        write_failures(self.store, failures, self.run.run_id)
        self.failed += len(failures)


@dataclass(frozen=True, slots=True)
class Target:
    """Where the results of one shard's images go: the shard, its columns, and whether the images are new."""

    mark: Shard
    infos: tuple[Column, ...]
    new: bool


#: From a shard's usable images and failures to the target of its results; None: nothing of it is to be stored.
Assign = Callable[[Sequence[Prepared], Sequence[ImageFailure]], Target | None]


class Executor(Protocol):
    """Reads images, runs the models and writes the results."""

    def run(self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], assign: Assign) -> None:
        """Process shards of `limits` usable images each, in order; the last one gets what is left.

        An image that cannot be read, or on which a model fails, is a failure; one that fails on every image of the
        first batch raises ModelError, unless it took images before. `assign` is called once per shard, before its
        results are written. Returns when everything is stored.
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
    draft: bool | None = None,
    maps: bool | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> IndexSummary:
    """Bring every given encoder and network up to date with the index, then add the source's new images.

    Without a source, only missing shards are filled. `decode_workers` processes decode the images; with 0, threads of
    this process do. `draft` lets large JPEGs be decoded at a reduced size; None keeps the choice of the index, which
    is not to do so where it is new. `maps` is whether activation maps are kept (see `kept_maps.kept_frames`), and if
    False deletes those of the given networks. `engine` executes the pass elsewhere. Errors: SettingError where a model
    differs from the one the index was built with; SourceError or ModelError where indexed images cannot be used for a
    new model, see `Pass.catch_up`.
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
        least = settle_draft(store, [*encoders, *networks], draft)
        run_settings |= {} if least is None else {catalog.DRAFT: least}
        columns = with_draft(columns_of(encoders, networks, str(run_settings["dtype"])), least)
        infos = commit.reconcile(store, columns, dtype)
        command = f"index --engine {engine.name}" if engine else "index"
        with record_run(store, command, run_settings, models) as run:
            frames = kept_frames(store, networks, infos, maps)
            if maps is False:
                drop_maps(store, infos)
            parts = parts_of(encoders, networks, infos, frames)
            commit.register(store, infos, run)
            for key, layer in ((LayerKey(n.name, one), n.layers[one]) for n in networks for one in n.layers):
                store_class_names(store, key, layer.classes, run.run_id)
            state = PassState(store, run, progress or _silent, least, frames=frames)
            executor = engine.make(state, parts) if engine else LocalExecutor(state, workers)
            indexing = Pass(state, parts, executor)
            indexing.catch_up()
            if source is not None:
                indexing.extend(source, settings.SHARD_SIZE.value(shard_size))
            layers = [info for info in infos if isinstance(info, LayerInfo)]
            commit.finish_layers(store, layers, state.statistics)
            if maps:
                make_missing_maps(store, networks, layers, frames, draft=least, progress=state.progress)
            merged = finish_maps(store, layers, frames)
        commit.drop_merged(store, infos, merged=merged)
        latents = count_latents(store, infos)
    return IndexSummary(
        run.run_id,
        catalog.image_count(store),
        state.added,
        state.failed,
        len(catalog.shards(store, schema.IMAGES)),
        time.monotonic() - started,
        tuple(str(info.key) for info in layers),
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
        self._unusable = UnusableImages()  # of those that are indexed

    def catch_up(self) -> None:
        """Fill the shards of images that are in the index already but lack some part.

        An image that cannot be used has no failure here, because it has its row already: nothing of its shard or of a
        later one is stored, all such images are listed in the table of failures, and the error counts them.
        """
        store = self._state.store
        marks = catalog.shards(store, schema.IMAGES)
        have = {info.what: len(catalog.shards(store, info.what)) for part in self._parts for info in part.infos}
        lacking = [tuple(p for p in self._parts if any(have[i.what] <= mark.number for i in p.infos)) for mark in marks]
        self._state.total = sum(mark.rows for mark, parts in zip(marks, lacking, strict=True) if parts)
        for parts, group in groupby(zip(marks, lacking, strict=True), key=itemgetter(1)):
            if parts:
                self._fill([mark for mark, _ in group], parts, have)
        if self._unusable.all():
            self._refuse([part for part in self._parts if any(part in parts for parts in lacking)], len(marks))

    def _fill(self, marks: Sequence[Shard], parts: Sequence[Part], have: dict[str, int]) -> None:
        remaining, roots = iter(marks), ImageRoots(self._state.store)

        def refs() -> Iterator[ImageRef]:
            for mark in marks:
                rows = self._indexed(mark)
                for uri, sha256 in zip(rows["uri"], rows["sha256"], strict=True):
                    yield indexed_ref(roots.checked(uri), sha256)

        def assign(prepared: Sequence[Prepared], failures: Sequence[ImageFailure]) -> Target | None:
            self._unusable.add(prepared, failures)
            if self._unusable.all():
                return None  # marks follow each other: a shard that fails has no successor
            mark = next(remaining)
            infos = (info for part in parts for info in part.infos if have[info.what] <= mark.number)
            return Target(mark, tuple(infos), new=False)

        self._executor.run(refs(), parts, [mark.rows for mark in marks], assign)

    def _refuse(self, lacking: Sequence[Part], shards: int) -> None:
        """Store why indexed images cannot be used, and raise the error that names them."""
        store, infos = self._state.store, [info for part in lacking for info in part.infos]
        stored = [len(catalog.shards(store, info.what)) for info in infos]
        self._state.note_failures(self._unusable.all())
        store.checkpoint()  # what is not committed is undone with the run
        columns = [info.what for info, count in zip(infos, stored, strict=True) if count < shards]
        raise self._unusable.error(columns, min(stored), shards, store.uri)

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

        self._executor.run(self._unknown(source, known), self._parts, repeat(shard_size), assign)

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

    def run(self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], assign: Assign) -> None:
        """Process shards of `limits` usable images each, in order; the last one gets what is left."""
        planned, sizes = tee(limits)
        with Writer() as writer, closing(self._computed(refs, parts, planned, writer)) as results:
            for shard in shards_of(results, sizes):
                target = assign(shard.prepared, shard.failures)
                if target is not None:
                    writer.put(partial(self._write, shard, target))

    def _computed(
        self, refs: Iterable[ImageRef], parts: Sequence[Part], limits: Iterable[int], writer: Writer
    ) -> Generator[ComputedBatch[Outputs], None, None]:
        """Yield the batches of shards of `limits` images each, computed; end where the writer has failed."""
        preprocess = [part.model.preprocess for part in parts]
        gpu = any(part.model.device.type != "cpu" for part in parts)
        workers = workers_for(self._state.total, preprocess, gpu=gpu) if self._workers is None else self._workers
        proven = self._state.is_proven(parts)
        with (
            closing(decoded(refs, preprocess, workers=workers, draft=self._state.draft)) as images,
            closing(ahead(batches(images, parts, limits))) as prepared,
        ):
            for batch in prepared:
                check_preprocessing(len(batch.images), batch.failures, proven=proven)
                outputs = outputs_of(parts, [item.ref.uri for item in batch.images], batch.pixels, proven=proven)
                proven = proven or bool(outputs.rows)
                self._state.advance(len(batch.images) + len(batch.failures))
                writer.check()
                images_of_batch = [batch.images[row] for row in outputs.rows]
                failures = [*batch.failures, *outputs.failures]
                yield ComputedBatch(images_of_batch, outputs, failures, batch.last)

    def _write(self, images: ComputedShard[Outputs], target: Target) -> None:
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
        outputs = {info.what: _joined(images.pieces, info.what) for info in target.infos}
        for info in target.infos:
            digests[info.what] = commit.write_values(store, info, mark, outputs[info.what])
            commit.count_in(store, info, self._state.statistics, mark, outputs[info.what])
            if isinstance(info, LayerInfo) and info.what in self._state.frames:
                maps = joined_maps([(batch.maps[info.what], start, stop) for batch, start, stop in images.pieces])
                self._state.keep_maps(info, mark, maps)
        commit.mark(store, digests, mark, self._state.run)
        self._state.added += mark.rows * target.new


def _joined(pieces: Sequence[tuple[Outputs, int, int]], what: str) -> torch.Tensor:
    """Return a column's values [n, W] from pieces of batches."""
    return torch.cat([outputs.values[what][start:stop] for outputs, start, stop in pieces])


def _silent(done: int, todo: int, what: str) -> None:
    """Show no progress."""
