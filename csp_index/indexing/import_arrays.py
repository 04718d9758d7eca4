"""Import of arrays: embeddings [N, D] and activations [N, M], memory-mapped .npy files; row i is image i.

Everything is checked before anything is written. The arrays then form the same shards as in a pass over images, several
shards per commit; a group of shards is written while its statistics are computed and threads read, transpose and hash
the next group.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from csp_index import settings
from csp_index.concurrency import unseen
from csp_index.errors import ArrayError, one_line
from csp_index.files.array_files import Demand, Survey, open_array, rows_of, survey
from csp_index.files.regular_files import read_text
from csp_index.indexing import commit
from csp_index.indexing.commit import IndexSummary
from csp_index.records import LayerKey, Progress, ScoringOptions
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.store.history.digests import shard_digest
from csp_index.store.runs import Run, record_run, settings_hash
from csp_index.store.tables import Store
from csp_index.store.values.statistics import NeuronStatistics

ENCODER = "arrays"  # the encoder's default name
_SPARSE = (
    0.2  # largest share of activations that are not 0 at which the others are left out: well below what breaks even
)
_GROUP_BYTES = 48 * 2**20  # of values per commit
_THREADS = min(4, os.cpu_count() or 1)  # that read, transpose and hash the next group
_TILE = 64  # rows and columns of an array that are transposed at a time


def import_arrays(
    store: Callable[[], Store],
    activations: str | Path,
    layer: str,
    *,
    embeddings: str | Path | None = None,
    uris: str | Path | None = None,
    encoder: str = ENCODER,
    logit_scale: float | None = None,
    shard_size: int | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> IndexSummary:
    """Add a layer, and with the first layer its images, from arrays; `store` opens or makes the index after the checks.

    Embeddings are stored as unit vectors: rows of unit length (to 1e-4) unchanged, others scaled. A further layer over
    the same images needs no embeddings, or the same ones. Errors: ArrayError.
    """
    started = time.monotonic()
    if not encoder.strip():
        raise ArrayError("the encoder's name is empty: name what the embeddings came from")
    ScoringOptions(logit_scale=logit_scale)  # refuses a scale that no method can use
    stored_dtype = settings.ACTIVATION_DTYPE.value(dtype)
    values = open_array(activations, "activations")
    vectors = open_array(embeddings, "embeddings") if embeddings else None
    names = _read_uris(uris) if uris else None
    _check_lengths(values, vectors, names)
    seen = survey(values, Demand("activations", activations, half=stored_dtype == "float16"))
    columns: list[tuple[Column, np.ndarray]] = [
        (_layer_info(LayerKey.parse(layer), values, seen, stored_dtype), values)
    ]
    if vectors is not None and embeddings:
        digest = survey(vectors, Demand("embeddings", embeddings, nonzero=True)).digest
        columns.insert(0, (_encoder_info(encoder, vectors, digest, logit_scale), vectors))
    opened = store()
    before = catalog.image_count(opened)
    if vectors is None and not catalog.encoders(opened):
        raise ArrayError("a new index needs embeddings as well as activations: give --embeddings")
    run_settings = {
        "layer": layer,
        "dtype": stored_dtype,
        "images": len(values),
        "arrays": [i.identity for i, _ in columns],
    }
    run_settings |= {"encoder": encoder, "uris": hashlib.sha256("\n".join(names or []).encode()).hexdigest()}
    with opened.write_lock():
        _check_images(opened, len(values), names, run_settings)
        infos = commit.reconcile(opened, [info for info, _ in columns], dtype)
        with record_run(opened, "import", run_settings, {i.what: i.identity for i in infos}) as run:
            commit.register(opened, infos, run)
            size = settings.SHARD_SIZE.value(shard_size)
            arrays = [(info, array) for info, (_, array) in zip(infos, columns, strict=True)]
            _write(opened, arrays, names, size, run, progress or unseen)
        commit.drop_merged(opened, infos)
    total = catalog.image_count(opened)
    count = len(catalog.shards(opened, schema.IMAGES))
    return IndexSummary(run.run_id, total, total - before, 0, count, time.monotonic() - started, (layer,), (encoder,))


def _encoder_info(name: str, vectors: np.ndarray, digest: str, logit_scale: float | None) -> EncoderInfo:
    identity = {"weights": digest, "library": catalog.ARRAYS}
    return EncoderInfo(name, vectors.shape[1], logit_scale, identity, column_tables.embeddings_table(name))


def _layer_info(key: LayerKey, values: np.ndarray, seen: Survey, dtype: str) -> LayerInfo:
    identity = {"weights": seen.digest, "library": catalog.ARRAYS}
    table = commit.layer_table(key, sparse=seen.nonzero <= _SPARSE * values.size)
    return LayerInfo(key, values.shape[1], "none", catalog.ARRAYS, None, dtype, identity, table)


@dataclass(frozen=True, slots=True)
class _Group:
    """Shards that are written in one commit: each lacks the same arrays."""

    shards: list[Shard]
    new: bool  # the images are new as well
    missing: list[tuple[Column, np.ndarray]]

    @property
    def end(self) -> int:
        """The number of images once the group is written."""
        return self.shards[-1].first_image + self.shards[-1].rows


@dataclass(frozen=True, slots=True)
class _Part:
    """One column's share of a shard: its values [n, W] as they are stored, their table rows and the digest of these."""

    info: Column
    shard: Shard
    values: torch.Tensor
    rows: pa.Table
    digest: str


def _write(
    store: Store,
    columns: Sequence[tuple[Column, np.ndarray]],
    names: Sequence[str] | None,
    size: int,
    run: Run,
    progress: Progress,
) -> None:
    """Write the shards that are missing, then the neurons' statistics."""
    images = len(columns[0][1])
    statistics: dict[str, NeuronStatistics] = {}
    writing: Future[None] | None = None
    written = None
    with ThreadPoolExecutor(_THREADS) as pool, ThreadPoolExecutor(1) as writer:
        for group, parts in _prepared(pool, _groups(store, columns, size)):
            if writing is not None and written is not None:
                writing.result()
                progress(written.end, images, "images")
            written, writing = group, writer.submit(_write_group, store, group, parts, names, run)
            for part in parts:
                commit.count_in(store, part.info, statistics, part.shard, part.values)
        if writing is not None and written is not None:
            writing.result()
            progress(written.end, images, "images")
    commit.finish_layers(store, [info for info, _ in columns if isinstance(info, LayerInfo)], statistics)


def _prepared(pool: Executor, groups: Iterable[_Group]) -> Iterator[tuple[_Group, list[_Part]]]:
    """Yield every group with its parts, in their order; the threads of `pool` prepare the next group meanwhile."""
    waiting: tuple[_Group, list[Future[_Part]]] | None = None
    for group in groups:
        started = [pool.submit(_part, info, shard, array) for info, array in group.missing for shard in group.shards]
        if waiting is not None:
            yield waiting[0], [part.result() for part in waiting[1]]
        waiting = group, started
    if waiting is not None:
        yield waiting[0], [part.result() for part in waiting[1]]


def _part(info: Column, shard: Shard, array: np.ndarray) -> _Part:
    values = _rows(array, shard, info)
    rows = commit.value_rows(info, shard, values)
    return _Part(info, shard, values, rows, shard_digest([rows]))


def _write_group(store: Store, group: _Group, parts: Sequence[_Part], names: Sequence[str] | None, run: Run) -> None:
    """Append a group's rows, table by table, then its marks."""
    digests: dict[int, dict[str, str]] = {shard.number: {} for shard in group.shards}
    if group.new:
        images = [_image_rows(shard, names) for shard in group.shards]
        store.append(schema.IMAGES, pa.concat_tables(images))
        for shard, rows in zip(group.shards, images, strict=True):
            digests[shard.number][schema.IMAGES] = shard_digest([rows])
    for info, _ in group.missing:
        store.append(info.table, pa.concat_tables([part.rows for part in parts if part.info is info]))
    for part in parts:
        digests[part.shard.number][part.info.what] = part.digest
    if group.new or group.missing:
        commit.mark_all(store, [(digests[shard.number], shard) for shard in group.shards], run)


def _groups(store: Store, columns: Sequence[tuple[Column, np.ndarray]], size: int) -> Iterator[_Group]:
    """Yield the shards in order, in groups that are each written in one commit."""
    stored = {info.what: len(catalog.shards(store, info.what)) for info, _ in columns}
    known = catalog.image_count(store)
    group: _Group | None = None
    for shard in list(_plan(store, len(columns[0][1]), size)):
        new = shard.first_image >= known
        missing = [(info, array) for info, array in columns if stored[info.what] <= shard.number]
        group_bytes = (
            4
            * sum(array.shape[1] for _, array in missing)
            * sum(s.rows for s in [*(group.shards if group else []), shard])
        )
        if group and (group_bytes > _GROUP_BYTES or (new, len(missing)) != (group.new, len(group.missing))):
            yield group
            group = None
        if group:
            group.shards.append(shard)
        else:
            group = _Group([shard], new, missing)
    if group:
        yield group


def _check_lengths(values: np.ndarray, vectors: np.ndarray | None, names: Sequence[str] | None) -> None:
    for what, rows in (("embeddings", vectors), ("uris", names)):
        if rows is not None and len(rows) != len(values):
            raise ArrayError(
                f"{what} have {len(rows)} rows and activations {len(values)}: expected the same images in both"
            )


def _read_uris(path: str | Path) -> list[str]:
    try:
        names = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ArrayError(f"uris {path} cannot be read: {one_line(exc)}") from exc
    if len(set(names)) != len(names) or "" in names:
        raise ArrayError(f"uris {path} repeat or are empty: expected one line per image, each different")
    return names


def _check_images(store: Store, rows: int, names: Sequence[str] | None, run_settings: Mapping[str, object]) -> None:
    """Refuse rows that are not the images of the index; the index may hold the first shards of this same import."""
    indexed = catalog.image_count(store)
    if indexed not in (0, rows):
        runs = store.read(schema.RUNS, ["run_id", "state", "settings_hash"]).to_pylist()
        last = max(runs, key=lambda run: str(run["run_id"]), default=None)
        same = last and last["state"] != "done" and last["settings_hash"] == settings_hash(run_settings)
        if indexed > rows or not same:
            fix = " of an interrupted import: repeat that import first" if last and last["state"] != "done" else ""
            raise ArrayError(
                f"activations have {rows} rows but the index holds {indexed} images{fix or ': expected one row each'}"
            )
    if names is None or indexed == 0:
        return
    stored = (
        store.read(schema.IMAGES, ["image_id", "uri"], f"image_id < {indexed}").sort_by("image_id")["uri"].to_pylist()
    )
    for row, (uri, name) in enumerate(zip(stored, names, strict=False)):
        if uri != name:
            raise ArrayError(f"uris name {name!r} in row {row}, the index {uri!r}: expected the same images in order")


def _plan(store: Store, images: int, size: int) -> Iterator[Shard]:
    """Yield the shards of the index, then new shards over the images it lacks."""
    marks = catalog.shards(store, schema.IMAGES)
    yield from marks
    first = marks[-1].first_image + marks[-1].rows if marks else 0
    for number, start in enumerate(range(first, images, size)):
        yield Shard(len(marks) + number, start, min(size, images - start), "")


def _rows(array: np.ndarray, shard: Shard, info: Column) -> torch.Tensor:
    """Return a shard's rows [n, W] as they are stored; activations have the store's memory layout, [W, n]."""
    rows = rows_of(array, shard.first_image, shard.first_image + shard.rows).astype(np.float32, copy=False)
    if isinstance(info, LayerInfo):
        return torch.from_numpy(_transposed(rows)).T
    near = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    doubtful = np.flatnonzero(~(np.abs(near - 1) < 0.9e-4))  # float32 decides the others
    lengths = np.linalg.norm(rows[doubtful].astype(np.float64), axis=1, keepdims=True)
    off = np.abs(lengths[:, 0] - 1.0) > 1e-4
    unit = np.array(rows)
    unit[doubtful[off]] = rows[doubtful[off]] / lengths[off]
    return torch.from_numpy(unit)


def _transposed(rows: np.ndarray) -> np.ndarray:
    """Return the transpose of rows [n, M], in C order; by tiles that fit in a core's cache, 0.8 times the time."""
    count, width = rows.shape
    columns = np.empty((width, count), rows.dtype)
    for left in range(0, width, _TILE):
        for top in range(0, count, _TILE):
            tile = rows[top : top + _TILE, left : left + _TILE]
            columns[left : left + _TILE, top : top + _TILE] = tile.T
    return columns


def _image_rows(shard: Shard, names: Sequence[str] | None) -> pa.Table:
    ids = range(shard.first_image, shard.first_image + shard.rows)
    columns: dict[str, object] = {
        "image_id": pa.array(ids, pa.int64()),
        "shard": pa.array([shard.number] * shard.rows, pa.int32()),
        "uri": pa.array([names[i] if names else f"array#{i}" for i in ids]),
    }
    table = schema.table_schema(schema.IMAGES)
    missing = {field.name: pa.nulls(shard.rows, field.type) for field in table if field.name not in columns}
    return pa.table({field.name: (columns | missing)[field.name] for field in table}, schema=table)
