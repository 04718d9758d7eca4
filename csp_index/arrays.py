"""Arrays made elsewhere come in: embeddings [N, D] and activations [N, M], memory-mapped .npy files; row i is image i.

Everything is checked before anything is written. The arrays then go through the same shards as a pass over images.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from csp_index import catalog, schema, settings, shards
from csp_index.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.errors import ArrayError, one_line
from csp_index.records import IndexSummary, LayerKey, ScoringOptions
from csp_index.runs import Run, record_run, settings_hash
from csp_index.statistics import NeuronStatistics
from csp_index.store import Store

ENCODER = "arrays"  # the encoder's name where none is given
_ROWS = 4096  # rows checked at a time


def load_array(path: str | Path, what: str) -> np.ndarray:
    """Return a 2-D array of finite numbers, memory-mapped; ArrayError says what is wrong with it."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise ArrayError(f"{what} {path} does not exist: expected a .npy file") from None
    except (OSError, ValueError, EOFError) as exc:
        raise ArrayError(f"{what} {path} cannot be read as .npy: {one_line(exc)}") from exc
    if not isinstance(array, np.ndarray) or array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        got = f"shape {array.shape}, {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ArrayError(f"{what} {path} has {got}: expected a filled array of numbers with 2 dimensions")
    for start in range(0, len(array), _ROWS):
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity and is told
            bad = ~np.isfinite(array[start : start + _ROWS].astype(np.float32)).all(1)
        if bad.any():
            raise ArrayError(
                f"{what} {path} holds NaN or infinity, first in row {start + int(bad.argmax())}: "
                "expected finite numbers"
            )
    return array


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
    progress: Callable[[int, int, str], None] | None = None,
) -> IndexSummary:
    """Add a layer, and with the first one its images, from arrays; `store` opens or creates the index after the checks.

    Embeddings are stored as unit vectors: rows already of unit length (to 1e-4) as they are, others scaled. A further
    layer over the same images comes without embeddings, or with the same ones. Errors: ArrayError.
    """
    started = time.monotonic()
    if not encoder.strip():
        raise ArrayError("the encoder's name is empty: name what the embeddings came from")
    ScoringOptions(logit_scale=logit_scale)  # a scale that no method can use is refused now
    kept = settings.text("activation_dtype", dtype)
    values = load_array(activations, "activations")
    vectors = load_array(embeddings, "embeddings") if embeddings else None
    names = _read_uris(uris) if uris else None
    _check_lengths(values, vectors, names)
    if kept == "float16":
        _check_half(values)
    columns = _columns(LayerKey.parse(layer), values, encoder, vectors, logit_scale, kept)
    opened = store()
    held = catalog.image_count(opened)
    if vectors is None and not catalog.encoders(opened):
        raise ArrayError("a new index needs embeddings beside activations: give --embeddings")
    chosen = {"layer": layer, "dtype": kept, "images": len(values), "arrays": [i.identity for i, _ in columns]}
    chosen |= {"encoder": encoder, "uris": hashlib.sha256("\n".join(names or []).encode()).hexdigest()}
    with opened.write_lock():
        _check_images(opened, len(values), names, chosen)
        infos = shards.reconcile(opened, [info for info, _ in columns], dtype)
        with record_run(opened, "import", chosen, {i.what: i.identity for i in infos}) as run:
            shards.recover(opened, infos)
            shards.register(opened, infos, run)
            size = settings.number("shard_size", shard_size)
            arrays = [(info, array) for info, (_, array) in zip(infos, columns, strict=True)]
            _write(opened, arrays, names, size, run, progress or (lambda done, todo, what: None))
    total = catalog.image_count(opened)
    count = len(catalog.shards(opened, schema.IMAGES))
    return IndexSummary(run.run_id, total, total - held, 0, count, time.monotonic() - started, (layer,), (encoder,))


def _columns(
    key: LayerKey, values: np.ndarray, encoder: str, vectors: np.ndarray | None, logit_scale: float | None, dtype: str
) -> list[tuple[Column, np.ndarray]]:
    """Return what the arrays are to the index, the encoder first."""
    found: list[tuple[Column, np.ndarray]] = []
    if vectors is not None:
        identity = {"weights": _digest(vectors), "library": "arrays"}
        table = schema.embeddings_table(encoder)
        found.append((EncoderInfo(encoder, vectors.shape[1], logit_scale, identity, table), vectors))
    identity = {"weights": _digest(values), "library": "arrays"}
    table = schema.activations_table(str(key))
    found.append((LayerInfo(key, values.shape[1], "none", "arrays", None, dtype, identity, table), values))
    return found


def _write(
    store: Store,
    columns: Sequence[tuple[Column, np.ndarray]],
    names: Sequence[str] | None,
    size: int,
    run: Run,
    progress: Callable[[int, int, str], None],
) -> None:
    """Write the shards that are missing, then the neurons' statistics."""
    images = len(columns[0][1])
    statistics: dict[str, NeuronStatistics] = {}
    for shard in _plan(store, images, size):
        missing = [(i, array) for i, array in columns if len(catalog.shards(store, i.what)) <= shard.number]
        new = shard.first_image >= catalog.image_count(store)
        if new:
            store.append(schema.IMAGES, _image_rows(shard, names))
        rows = [(info, _rows(array, shard, isinstance(info, EncoderInfo))) for info, array in missing]
        for info, part in rows:
            shards.write_values(store, info, shard, part)
        if new or missing:
            shards.mark(store, [schema.IMAGES] * new + [info.what for info, _ in rows], shard, run)
        for info, part in rows:
            shards.count_in(store, info, statistics, shard, part)
        progress(shard.first_image + shard.rows, images, "images")
    shards.finish_statistics(store, [info for info, _ in columns if isinstance(info, LayerInfo)], statistics)


def _check_lengths(values: np.ndarray, vectors: np.ndarray | None, names: Sequence[str] | None) -> None:
    for what, found in (("embeddings", vectors), ("uris", names)):
        if found is not None and len(found) != len(values):
            raise ArrayError(
                f"{what} have {len(found)} rows and activations {len(values)}: expected the same images in both"
            )
    if vectors is not None:
        for start in range(0, len(vectors), _ROWS):
            zero = ~np.asarray(vectors[start : start + _ROWS], dtype=np.float32).any(1)
            if zero.any():
                raise ArrayError(f"embeddings are all zero in row {start + int(zero.argmax())}: a direction is needed")


def _check_half(values: np.ndarray) -> None:
    limit = np.finfo(np.float16).max
    for start in range(0, len(values), _ROWS):
        large = (np.abs(values[start : start + _ROWS]) > limit).any(1)
        if large.any():
            row = start + int(large.argmax())
            raise ArrayError(f"activations exceed {limit:g}, the largest float16, first in row {row}: use float32")


def _read_uris(path: str | Path) -> list[str]:
    try:
        names = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ArrayError(f"uris {path} cannot be read: {exc}") from exc
    if len(set(names)) != len(names) or "" in names:
        raise ArrayError(f"uris {path} repeat or are empty: expected one line an image, each different")
    return names


def _check_images(store: Store, rows: int, names: Sequence[str] | None, chosen: Mapping[str, object]) -> None:
    """Refuse rows that are not the images the index holds; the first shards of this very import, cut short, are."""
    held = catalog.image_count(store)
    if held not in (0, rows):
        runs = store.read(schema.RUNS, ["run_id", "state", "settings_hash"]).to_pylist()
        last = max(runs, key=lambda run: str(run["run_id"]), default=None)
        same = last and last["state"] != "done" and last["settings_hash"] == settings_hash(chosen)
        if held > rows or not same:
            cut = " of an import cut short: run that one again first" if last and last["state"] != "done" else ""
            raise ArrayError(
                f"activations have {rows} rows but the index holds {held} images{cut or ': expected a row each'}"
            )
    if names is None or held == 0:
        return
    stored = store.read(schema.IMAGES, ["image_id", "uri"], f"image_id < {held}").sort_by("image_id")["uri"].to_pylist()
    for place, (uri, name) in enumerate(zip(stored, names, strict=False)):
        if uri != name:
            raise ArrayError(f"uris name {name!r} in row {place}, the index {uri!r}: expected the same images in order")


def _plan(store: Store, images: int, size: int) -> Iterator[Shard]:
    """Yield the shards the index has, then new ones over the images it lacks."""
    marks = catalog.shards(store, schema.IMAGES)
    yield from marks
    first = marks[-1].first_image + marks[-1].rows if marks else 0
    for place, start in enumerate(range(first, images, size)):
        yield Shard(len(marks) + place, start, min(size, images - start), "")


def _rows(array: np.ndarray, shard: Shard, unit: bool) -> torch.Tensor:
    rows = np.array(array[shard.first_image : shard.first_image + shard.rows], dtype=np.float32)
    if unit:
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        off = np.abs(lengths - 1.0) > 1e-4
        rows = np.where(off, rows / lengths, rows).astype(np.float32)
    return torch.from_numpy(rows)


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


def _digest(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    for start in range(0, len(array), _ROWS):
        digest.update(np.ascontiguousarray(array[start : start + _ROWS]).tobytes())
    return digest.hexdigest()
