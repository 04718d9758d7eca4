"""The one pass: images -> encoders and networks -> store, shard by shard.

A shard's rows are written first and its marks last, in one commit; whatever has no mark is deleted before the next pass
goes on. So a kill at any moment loses at most the shard under way, and the tables of a resumed pass equal those of an
undisturbed one.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from operator import itemgetter

import numpy as np
import pyarrow as pa
import torch

from csp_index import catalog, schema, settings, shards
from csp_index.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.encoders import Encoder
from csp_index.errors import CspIndexError, NetworkError, SourceError, one_line
from csp_index.images import ImageFailure, ImageRead, read_images, thumbnail
from csp_index.networks import Network
from csp_index.records import IndexSummary, LayerKey
from csp_index.runs import Run, record_run
from csp_index.sources import ImageRef, ImageSource
from csp_index.statistics import NeuronStatistics
from csp_index.store import Store

Progress = Callable[[int, int, str], None]  # images done, images to do, what is going on

_AHEAD = 32  # images prepared while the models run


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One model of the pass and the columns of shards it fills."""

    model: Encoder | Network
    infos: tuple[Column, ...]

    def compute(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return one [B, W] tensor for each of the part's columns, by its name in the shard marks."""
        try:
            if isinstance(self.model, Network):
                found = self.model.activations(pixels)
                return {info.what: found[info.key.layer] for info in self.infos if isinstance(info, LayerInfo)}
            return {self.infos[0].what: self.model.embed_images(pixels)}
        except CspIndexError:
            raise
        except Exception as exc:  # it is somebody else's model
            told = f"{type(exc).__name__}: {one_line(exc)}"
            raise NetworkError(f"{self.infos[0].what} fails on {len(pixels)} images: {told}; check the model") from exc


@dataclass(frozen=True, slots=True)
class Prepared:
    """A decoded image, ready for every model: the image itself is gone."""

    ref: ImageRef
    sha256: str
    width: int
    height: int
    thumbnail: bytes
    pixels: tuple[torch.Tensor, ...]


def add_images(
    store: Store,
    source: ImageSource | None,
    encoders: Sequence[Encoder],
    networks: Sequence[Network],
    *,
    shard_size: int | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> IndexSummary:
    """Bring every given encoder and network up to date with the index, then add the source's new images.

    Without a source only the missing shards are filled. Errors: SettingError where a model differs from the one the
    index was built with, SourceError where an indexed image that a new model needs cannot be read any more.
    """
    started = time.monotonic()
    chosen: dict[str, object] = {
        "source": source.name if source else None,
        "shard_size": settings.number("shard_size", shard_size),
        "encoders": [e.spec for e in encoders],
        "networks": {n.name: sorted(n.layers) for n in networks},
        "dtype": settings.text("activation_dtype", dtype),
    }
    models = {e.spec: e.identity for e in encoders} | {n.name: n.identity for n in networks}
    with store.write_lock():
        infos: list[Column] = [
            *(_encoder_info(e) for e in encoders),
            *(i for n in networks for i in _layer_infos(n, str(chosen["dtype"]))),
        ]
        infos = shards.reconcile(store, infos, dtype)
        with record_run(store, "index", chosen, models) as run:
            parts = _parts(encoders, networks, infos)
            shards.recover(store, infos)
            shards.register(store, infos, run)
            work = Pass(store, parts, run, progress or _silent)
            work.catch_up()
            if source is not None:
                work.extend(source, settings.number("shard_size", shard_size))
            shards.finish_statistics(store, [i for i in infos if isinstance(i, LayerInfo)], work.statistics)
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


class Pass:
    """The pass itself: which shards are missing for which part, and the loop that fills them."""

    def __init__(self, store: Store, parts: Sequence[Part], run: Run, progress: Progress) -> None:
        """Prepare a pass over `parts`; nothing is read yet."""
        self.store, self.parts, self.run, self.progress = store, parts, run, progress
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
            if not parts:
                continue
            wanted = [mark for mark, _ in group]
            stream = _decode((ImageRef(uri, {}) for mark in wanted for uri in self._indexed(mark)["uri"]), parts)
            for mark in wanted:
                done = self._compute(islice(stream, mark.rows), parts, mark.rows)
                expected = self._indexed(mark)["sha256"]
                if done.failures or [p.sha256 for p in done.prepared] != expected:
                    raise SourceError(_unreadable(done, expected))
                self._write(
                    mark, None, {what: rows for what, rows in done.outputs.items() if have[what] <= mark.number}
                )

    def _indexed(self, mark: Shard) -> dict[str, list[str]]:
        where = f"image_id >= {mark.first_image} AND image_id < {mark.first_image + mark.rows}"
        columns = ["image_id", "uri", "sha256"]
        found: dict[str, list[str]] = self.store.read(schema.IMAGES, columns, where).sort_by("image_id").to_pydict()
        return found

    def extend(self, source: ImageSource, shard_size: int) -> None:
        """Add the source's images that the index does not know, a full shard at a time."""
        known = KnownUris(self.store.read(schema.IMAGES, ["uri"])["uri"])
        self._done, self._todo = 0, sum(ref.uri not in known for ref in source.refs())
        stream = _decode((ref for ref in source.refs() if ref.uri not in known), self.parts)
        while done := self._compute(stream, self.parts, shard_size):
            self._write_failures(done.failures)
            if not done.prepared:
                break
            number = len(catalog.shards(self.store, schema.IMAGES))
            mark = Shard(number, catalog.image_count(self.store), len(done.prepared), self.run.settings_hash)
            self._write(mark, done.prepared, done.outputs)
            self.added += mark.rows

    def _compute(self, stream: Iterator[Prepared | ImageFailure], parts: Sequence[Part], limit: int) -> Computed:
        """Take images from the stream until `limit` could be read or it ends, and run the parts batch by batch."""
        computed = Computed([], [], {})
        batches: dict[str, list[torch.Tensor]] = {}
        size = min((part.model.batch_size for part in parts), default=_AHEAD)
        waiting: list[Prepared] = []
        for item in stream:
            self._done += 1
            if isinstance(item, ImageFailure):
                computed.failures.append(item)
            else:
                waiting.append(item)
            full = len(computed.prepared) + len(waiting) == limit
            if len(waiting) == size or full:
                self._forward(waiting, parts, batches, computed)
                waiting = []
            if full:
                break
        if waiting:
            self._forward(waiting, parts, batches, computed)
        computed.outputs.update({what: torch.cat(rows) for what, rows in batches.items()})
        return computed

    def _forward(
        self, batch: list[Prepared], parts: Sequence[Part], batches: dict[str, list[torch.Tensor]], computed: Computed
    ) -> None:
        for place, part in enumerate(parts):
            for what, rows in part.compute(torch.stack([item.pixels[place] for item in batch])).items():
                if not bool(torch.isfinite(rows).all()):
                    raise SourceError(
                        f"{what} gave values that are not finite, first near {batch[0].ref.uri}: check the model"
                    )
                batches.setdefault(what, []).append(rows)
        computed.prepared.extend(Prepared(i.ref, i.sha256, i.width, i.height, i.thumbnail, ()) for i in batch)
        self.progress(self._done, max(self._todo, self._done), "images")

    def _write(self, mark: Shard, prepared: list[Prepared] | None, outputs: dict[str, torch.Tensor]) -> None:
        if prepared is not None:
            self.store.append(schema.IMAGES, _image_rows(mark, prepared))
            self._forget_failures({item.ref.uri for item in prepared})
        infos = {info.what: info for part in self.parts for info in part.infos}
        for what, values in outputs.items():
            shards.write_values(self.store, infos[what], mark, values)
        names = ([schema.IMAGES] if prepared is not None else []) + list(outputs)
        shards.mark(self.store, names, mark, self.run)
        for what, values in outputs.items():
            shards.count_in(self.store, infos[what], self.statistics, mark, values)

    def _forget_failures(self, uris: set[str]) -> None:
        """Take mended images off the list of failures."""
        mended = uris.intersection(self.store.read(schema.FAILURES, ["uri"])["uri"].to_pylist())
        if mended:
            self.store.delete(schema.FAILURES, f"uri IN ({','.join(map(catalog.sql_text, sorted(mended)))})")

    def _write_failures(self, failures: Sequence[ImageFailure]) -> None:
        if not failures:
            return
        self.failed += len(failures)
        when = datetime.now(UTC)
        rows = [{"uri": f.uri, "reason": f.reason, "when": when, "run_id": self.run.run_id} for f in failures]
        self.store.upsert(
            schema.FAILURES, ["uri"], pa.Table.from_pylist(rows, schema=schema.table_schema(schema.FAILURES))
        )


@dataclass(slots=True)
class Computed:
    """What one shard's worth of images came to; true where there was anything to read."""

    prepared: list[Prepared]
    failures: list[ImageFailure]
    outputs: dict[str, torch.Tensor]

    def __bool__(self) -> bool:
        return bool(self.prepared or self.failures)


class KnownUris:
    """The URIs of the indexed images, eight bytes an image."""

    def __init__(self, uris: pa.ChunkedArray) -> None:
        """Remember the hashes of the given URIs."""
        hashes = (hash(uri.as_py()) for chunk in uris.chunks for uri in chunk)
        self._hashes = np.sort(np.fromiter(hashes, dtype=np.int64))

    def __contains__(self, uri: str) -> bool:
        place = int(np.searchsorted(self._hashes, hash(uri)))
        return place < len(self._hashes) and bool(self._hashes[place] == hash(uri))


def _decode(refs: Iterable[ImageRef], parts: Sequence[Part]) -> Iterator[Prepared | ImageFailure]:
    """Yield every image, decoded and preprocessed for the parts, or its failure, in order; threads work ahead."""
    workers, size = settings.number("decode_threads"), settings.number("thumbnail_size")
    pulled: deque[ImageRef] = deque()

    def uris() -> Iterator[str]:
        for ref in refs:
            pulled.append(ref)
            yield ref.uri

    def prepare(ref: ImageRef, item: ImageRead) -> Prepared:
        pixels = tuple(part.model.preprocess(item.image) for part in parts)
        return Prepared(ref, item.sha256, item.width, item.height, thumbnail(item.image, size), pixels)

    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[ImageFailure | Future[Prepared]] = deque()
        for item in read_images(uris(), threads=workers):
            ref = pulled.popleft()
            ahead.append(item if isinstance(item, ImageFailure) else pool.submit(prepare, ref, item))
            if len(ahead) > _AHEAD:
                yield _ready(ahead.popleft())
        while ahead:
            yield _ready(ahead.popleft())


def _ready(item: ImageFailure | Future[Prepared]) -> Prepared | ImageFailure:
    return item if isinstance(item, ImageFailure) else item.result()


def _encoder_info(encoder: Encoder) -> EncoderInfo:
    return EncoderInfo(
        encoder.spec, encoder.width, encoder.logit_scale, dict(encoder.identity), schema.embeddings_table(encoder.spec)
    )


def _layer_infos(network: Network, dtype: str) -> list[LayerInfo]:
    infos = []
    for name, output in network.layers.items():
        key = LayerKey(network.name, name)
        identity = network.identity_of(name)
        table = schema.activations_table(str(key))
        spec, file = network.spec, network.weights
        infos.append(LayerInfo(key, output.neurons, output.pool, spec, file, dtype, identity, table))
    return infos


def _parts(encoders: Sequence[Encoder], networks: Sequence[Network], infos: Sequence[Column]) -> list[Part]:
    following = iter(infos)
    parts = [Part(encoder, (next(following),)) for encoder in encoders]
    return parts + [Part(network, tuple(islice(following, len(network.layers)))) for network in networks]


def _image_rows(mark: Shard, prepared: Sequence[Prepared]) -> pa.Table:
    rows = []
    for place, item in enumerate(prepared):
        split = item.ref.metadata.get("split")
        row = {"image_id": mark.first_image + place, "shard": mark.number, "uri": item.ref.uri, "sha256": item.sha256}
        row |= {"width": item.width, "height": item.height, "thumbnail": item.thumbnail}
        row |= {"split": None if split is None else str(split), "metadata": json.dumps(item.ref.metadata, default=str)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.table_schema(schema.IMAGES))


def _unreadable(done: Computed, expected: Sequence[str]) -> str:
    if done.failures:
        first = done.failures[0]
        count = len(done.failures)
        return f"{count} indexed images cannot be read any more, first {first.uri}: {first.reason}; restore them"
    changed = next(p.ref.uri for p, sha in zip(done.prepared, expected, strict=True) if p.sha256 != sha)
    return f"{changed} changed since it was indexed: restore it, or index the changed images into a new database"


def _silent(done: int, todo: int, what: str) -> None:
    """Show no progress."""
