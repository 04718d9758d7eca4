"""Images, embeddings and activations: marks, order, digests and values of their shards."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import SourceError
from csp_index.images.decode import decode_stored
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many, pieces_between
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.store.history.digests import ShardDigest
from csp_index.store.image_metadata import parse_metadata
from csp_index.store.tables import Store
from csp_index.store.values.sparse import wrong_places

_SHARDS = 8  # of a column whose digests are compared without `full`
_THUMBNAILS = 256  # that are decoded without `full`
_UNIT = 1e-3  # how far the length of an embedding may be from 1

Marks = dict[str, list[tuple[Shard, str | None]]]  # the shards of each column, with their digests


def check_columns(subject: Subject) -> Marks:
    """Check the marks, and all columns that they name; return the marks of the columns that are in order."""
    result = subject.result
    if schema.SHARDS in subject.damaged:
        subject.images = subject.store.count(schema.IMAGES)
        return {}
    marks: Marks = {}
    with reading(result.findings, schema.SHARDS):
        marks = _marks(subject)
    images = marks.get(schema.IMAGES, [])
    subject.images = images[-1][0].first_image + images[-1][0].rows if images else 0
    for column in subject.columns:
        ours = [(shard.first_image, shard.rows) for shard, _ in marks.get(column.what, [])]
        theirs = [(shard.first_image, shard.rows) for shard, _ in images[: len(ours)]]
        if ours != theirs and column.what in marks:
            subject.find(schema.SHARDS, "its shards are not those of the images", column.what, key=(column.what,))
            del marks[column.what]
    for what, info in _columns(subject).items():
        with reading(result.findings, schema.IMAGES if info is None else info.table):
            _check_column(subject, what, info, marks)
    _check_strays(subject, marks)
    _note_missing(subject)
    return marks


def _note_missing(subject: Subject) -> None:
    """Note columns that lack shards: an interrupted command, or a repair, leaves them to `csp-index index`."""
    if not subject.rests_on(schema.SHARDS, schema.IMAGES, schema.ENCODERS, schema.LAYERS):
        return
    counts = {info.what: catalog.image_count(subject.store, info.what) for info in subject.columns}
    counts |= {f"embeddings:{name}": counts.get(f"embeddings:{name}", 0) for name in subject.known_encoders}
    layers = [f"activations:{model}/{layer}" for model, layer in subject.known_layers]
    counts |= {what: counts.get(what, 0) for what in layers}
    for what, count in sorted(counts.items()):
        if count < subject.images:
            subject.result.notes.append(
                f"{what} has {count:,} of {subject.images:,} images: run `csp-index index` with the model it is of"
            )


def _columns(subject: Subject) -> dict[str, Column | None]:
    columns: dict[str, Column | None] = {schema.IMAGES: None}
    return columns | {info.what: info for info in subject.columns}


def _marks(subject: Subject) -> Marks:
    """Return the marks of every column whose shards follow each other."""
    marks: Marks = {}
    rows = subject.store.read(schema.SHARDS).to_pylist()
    for row in sorted(rows, key=lambda row: (row["what"], row["shard"])):
        shard = Shard(row["shard"], row["first_image"], row["rows"], row["settings_hash"])
        marks.setdefault(row["what"], []).append((shard, row.get("digest")))
    subject.result.count("marks", len(rows))
    for what, own in list(marks.items()):
        shards = [Shard(-1, 0, 0, ""), *(shard for shard, _ in own)]
        for before, shard in pairwise(shards):
            if shard.number != before.number + 1 or shard.first_image != before.first_image + before.rows:
                where = f"{what}, shard {shard.number}"
                subject.find(schema.SHARDS, "it does not follow the shard before it", where, key=(what,))
                del marks[what]
                break
    return marks


def _check_strays(subject: Subject, marks: Marks) -> None:
    """Find marks of columns that do not exist, and rows of encoders and layers that have no marks."""
    if schema.ENCODERS in subject.damaged or schema.LAYERS in subject.damaged:
        return
    for what in sorted(marks.keys() - _columns(subject).keys()):
        subject.find(schema.SHARDS, "no encoder or layer of this name is there", what, "restore")
    known = {info.table for info in subject.columns}
    if subject.images or any(finding.table == schema.SHARDS for finding in subject.result.findings):
        known.add(schema.IMAGES)
    for name in subject.store.table_names():
        of_shards = name.startswith(("embeddings_", *column_tables.ACTIVATIONS)) or name == schema.IMAGES
        if of_shards and name not in known and subject.store.count(name):
            subject.find(name, "it has rows, and no mark of a shard", remedy="mark again", key=(name,))


def _check_column(subject: Subject, what: str, info: Column | None, marks: Marks) -> None:
    """Check one column; leave its marks only if its rows are those that they name."""
    own = marks.get(what)
    table = schema.IMAGES if info is None else info.table
    if own is None or table in subject.damaged:
        marks.pop(what, None)
        return
    if not subject.store.has(table):
        subject.find(table, f"the table is missing, {len(own)} shards of it are marked", key=(what, 0))
        del marks[what]
        return
    ordered = _order(subject, what, info, own)
    if ordered < len(own):
        del marks[what]
    each = 1 if not isinstance(info, LayerInfo) else info.shard_rows
    names = [field.name for field in subject.store.dataset(table).schema]
    for place in subject.sample(ordered, _SHARDS):
        shard, digest = own[place]
        first, count = (int(place) * each, each) if isinstance(info, LayerInfo) else (shard.first_image, shard.rows)
        present, why = ShardDigest(), ""
        for rows in pieces_between(subject.store, table, names, first, count):
            present.add(rows)
            why = why or _wrong_values(rows, info, shard.rows)
        subject.result.count("shards")
        where = f"shard {shard.number} of {what}"
        if digest is not None and present.hexdigest() != digest:
            subject.find(table, "its rows are not those that were written", where, key=(what, shard.number))
            marks.pop(what, None)
        elif why:
            subject.find(table, why, where, key=(what, shard.number))
            marks.pop(what, None)
    if info is None:
        _check_images(subject)


def _order(subject: Subject, what: str, info: Column | None, own: list[tuple[Shard, str | None]]) -> int:
    """Return how many of the shards are complete and in order; find what is wrong with the next one."""
    total = own[-1][0].first_image + own[-1][0].rows
    ends = np.array([shard.first_image + shard.rows for shard, _ in own])
    if isinstance(info, LayerInfo):
        each, step, columns = info.shard_rows, info.row_neurons, ["shard", "neuron"]
        total = each * len(own)
        wrong = _first_difference(
            subject.store, info.table, columns, total, lambda row: [row // each, row % each * step]
        )
        place = wrong // each
    else:
        table, columns = (schema.IMAGES if info is None else info.table), ["image_id", "shard"]
        wrong = _first_difference(
            subject.store, table, columns, total, lambda row: [row, np.searchsorted(ends, row, side="right")]
        )
        place = int(np.searchsorted(ends, wrong, side="right"))
    table = schema.IMAGES if info is None else info.table
    rows = subject.store.count(table)
    subject.result.count("rows", rows)
    if wrong < total:
        what_is = f"it has {rows:,} rows, {total:,} are marked: row {wrong:,} is missing or out of order"
        subject.find(table, what_is, f"shard {own[place][0].number} of {what}", key=(what, own[place][0].number))
    elif rows > total:
        text = f"it has {rows:,} rows, {total:,} are marked"
        if subject.committed:
            subject.find(table, text, f"after shard {own[-1][0].number} of {what}", key=(what, len(own)))
        else:  # in format 2 these do not exist for readers
            subject.result.notes.append(f"{table}: {text}: a command that was cut off left them")
    return place if wrong < total else len(own)


def _first_difference(
    store: Store, table: str, columns: list[str], total: int, expected: Callable[[np.ndarray], list[np.ndarray]]
) -> int:
    """Return the first row number below `total` whose cells are not the expected ones, else `total`."""
    start = 0
    for batch in store.scan(table, columns):
        count = min(batch.num_rows, total - start)
        if count <= 0:
            return total
        same = np.ones(count, dtype=bool)
        for name, values in zip(columns, expected(np.arange(start, start + count)), strict=True):
            same &= batch.column(name).to_numpy(zero_copy_only=False)[:count] == values
        if not same.all():
            return start + int(same.argmin())
        start += count
    return min(start, total)


def _wrong_values(rows: pa.Table, info: Column | None, images: int) -> str:
    """Return what is wrong with the values of a shard of `images`, "" if nothing is."""
    if isinstance(info, EncoderInfo):
        return wrong_vectors(rows, column_tables.EMBEDDING, info.width, rows["image_id"].to_pylist())
    if isinstance(info, LayerInfo):
        column = rows["values"].combine_chunks()
        finite = np.isfinite(column.flatten().to_numpy(zero_copy_only=False))
        if not finite.all():
            row = int(np.searchsorted(np.cumsum(column.value_lengths().to_numpy()), (~finite).argmax(), "right"))
            named = f"a neuron of the {info.row_neurons} from" if info.is_sparse else "neuron"
            return f"activations of {named} {rows['neuron'][row]} are not finite"
        if info.is_sparse:
            return next(filter(None, (wrong_places(part, info, images) for part in rows.to_batches())), "")
    return ""


def wrong_vectors(rows: pa.Table, column: str, width: int, names: list[Any], *, unit: bool = True) -> str:
    """Return which of the vectors of a table are not finite, or not of unit length; "" if all are."""
    flat = rows[column].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width).astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", flat, flat))
    wrong = ~(np.abs(lengths - 1) < _UNIT) if unit else ~(np.isfinite(lengths) & (lengths > 0))
    if not wrong.any():
        return ""
    kind = "unit vectors" if unit else "vectors"
    rows_named = many([names[i] for i in np.flatnonzero(wrong)], "row")
    return f"{int(wrong.sum()):,} of its vectors are no finite {kind}: {rows_named}"


def _check_images(subject: Subject) -> None:
    """Check that addresses are unique, that metadata can be read, and that thumbnails decode."""
    store = subject.store
    uris = store.read(schema.IMAGES, ["uri"])["uri"]
    if pc.count_distinct(uris, mode="all").as_py() != len(uris) or uris.null_count:
        counts = pc.value_counts(uris).to_pylist()
        twice = [str(row["values"]) for row in counts if row["counts"] > 1 or row["values"] is None]
        subject.find(schema.IMAGES, f"addresses are there more than once: {many(twice, 'image')}", remedy="restore")
    places = subject.sample(len(uris), _THUMBNAILS)
    for part in np.array_split(places, max(1, len(places) // 256)):
        rows = store.dataset(schema.IMAGES).take(part, columns=["image_id", "shard", "thumbnail", "metadata"])
        for row in rows.to_pylist():
            subject.result.count("thumbnails", row["thumbnail"] is not None)
            where = f"image {row['image_id']}"
            if row["thumbnail"] is not None and not decodes(row["thumbnail"]):
                key = (schema.IMAGES, row["shard"])
                subject.find(schema.IMAGES, "its thumbnail cannot be decoded", where, "read again", key)
            with reading(subject.result.findings, schema.IMAGES):
                parse_metadata(row["metadata"], row["image_id"])


def decodes(data: object) -> bool:
    """Return whether a picture made here can be decoded."""
    try:
        decode_stored(data)
    except SourceError:
        return False
    return True
