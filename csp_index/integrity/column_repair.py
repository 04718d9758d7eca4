"""Repairs of images, embeddings, activations, their marks and statistics, under the write lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from csp_index import settings
from csp_index.errors import CspIndexError, SourceError, one_line
from csp_index.images.decode import ImageRead, thumbnail
from csp_index.indexing.commit import finish_statistics, mark_rewritten_images
from csp_index.integrity.findings import Finding
from csp_index.integrity.row_repair import empty, keep_whole
from csp_index.integrity.subject import many, pieces_between, rows_between
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.history.digests import shard_digest
from csp_index.store.layout import holds_rows
from csp_index.store.originals import read_originals
from csp_index.store.tables import Store

_BATCH = 256  # rows that are copied at a time


def recompute(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Keep the sound shards of a column up to the first that is not, and take away the marks of the others.

    `csp-index index`, or the same import, then writes those again.
    """
    lines = []
    named = {finding.key[0] for finding in findings} | {finding.table for finding in findings}
    first_of = {f.key[0]: [g.key[1] for g in findings if g.key[0] == f.key[0]] for f in findings if len(f.key) == 2}
    for info in catalog.columns(store):
        if info.what not in named and info.table not in named:
            continue
        sound = _sound_shards(store, info)
        sound = min([sound, *first_of.get(info.what, [])])
        marked = len(catalog.shards(store, info.what))
        _keep_shards(store, info, sound)
        store.delete(schema.SHARDS, f"what = {catalog.sql_text(info.what)} AND shard >= {sound}")
        if isinstance(info, LayerInfo) and sound < marked:
            store.delete(schema.NEURONS, catalog.layer_filter(info))  # counted again with the shards
        if sound == marked:
            lines.append(f"{info.table}: all {marked} shards are as they were written; they are in new files now")
            continue
        again = "run `csp-index index DB`" + (f" with {_option(info)}" if sound == 0 else "")
        again = "import the arrays again" if info.is_imported else again
        lines.append(f"{info.table}: {marked - sound} of {marked} shards are marked as missing: {again}")
    return lines


def _option(info: Column) -> str:
    """Return how a model is named on the command line: without a shard the index has none of it."""
    if isinstance(info, LayerInfo):
        return f"--network {info.network} --layers {info.key.layer} --name {info.key.model}"
    return f"--encoder {info.name}"


def _sound_shards(store: Store, info: Column) -> int:
    """Return how many shards in a row, from the first, still have the rows that their digests are of."""
    if not store.has(info.table):
        return 0
    names = [field.name for field in store.dataset(info.table).schema]
    each = info.shard_rows if isinstance(info, LayerInfo) else None
    digests = _digests(store, info.what)
    for number, shard in enumerate(catalog.shards(store, info.what)):
        first, count = (number * each, each) if each else (shard.first_image, shard.rows)
        if digests.get(number) != _digest_or_none(store, info.table, names, first, count):
            return number
    return len(digests)


def _digest_or_none(store: Store, table: str, names: list[str], first: int, count: int) -> str:
    try:
        return shard_digest(pieces_between(store, table, names, first, count))
    except Exception:  # damaged bytes; whatever Lance and Arrow make of them
        return ""
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        return ""


def _digests(store: Store, what: str) -> dict[int, str | None]:
    rows = store.read(schema.SHARDS, ["shard", "digest"], f"what = {catalog.sql_text(what)}").to_pylist()
    return {row["shard"]: row["digest"] for row in rows}


def _keep_shards(store: Store, info: Column, count: int) -> None:
    """Write the rows of the first shards of a column anew, in their order, in place of all."""
    if not store.has(info.table):
        return
    shards = catalog.shards(store, info.what)[:count]
    rows = sum(info.shard_rows if isinstance(info, LayerInfo) else shard.rows for shard in shards)
    source = store.dataset(info.table)

    def batches() -> Iterator[pa.RecordBatch]:
        if rows:
            yield from source.scanner(limit=rows, batch_size=_BATCH, batch_readahead=2).to_batches()

    store.replace(info.table, pa.RecordBatchReader.from_batches(source.schema, batches()))


def mark_again(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Make lost or wrong marks again, from rows whose files are as they were written."""
    files = [finding.where for finding in findings if finding.table == schema.SHARDS and len(finding.key) == 1]
    files = [file for file in files if holds_rows(file)]
    if files:
        keep_whole(store, schema.SHARDS, files)
    store.create(schema.SHARDS, schema.table_schema(schema.SHARDS))
    present = {(row["what"], row["shard"]): row for row in store.read(schema.SHARDS).to_pylist()}
    rows, lines = [], []
    for what, table, each in _marked_tables(store):
        made = _made_marks(store, what, table, each, present)
        rows += [{**mark, "run_id": mark["run_id"] or run_id} for mark in made]
        fresh = sum(not mark["run_id"] for mark in made)
        lines.append(f"shards: {fresh} of {len(made)} marks of {what} are made again")
    store.replace(schema.SHARDS, pa.Table.from_pylist(rows, schema=schema.table_schema(schema.SHARDS)))
    return [line for line in lines if not line.startswith("shards: 0 of")] or ["shards: the marks are in order"]


def _marked_tables(store: Store) -> Iterator[tuple[str, str, int]]:
    """Yield each column's name in the marks, its table, and its rows per shard, 0 for one row per image."""
    yield schema.IMAGES, schema.IMAGES, 0
    for row in store.read(schema.ENCODERS).to_pylist():
        yield f"embeddings:{row['encoder']}", row["table"], 0
    for row in store.read(schema.LAYERS).to_pylist():
        neurons = column_tables.SPARSE_NEURONS if column_tables.is_sparse(row["table"]) else 1
        yield f"activations:{row['model']}/{row['layer']}", row["table"], -(-row["neurons"] // neurons)


def _made_marks(
    store: Store, what: str, table: str, each: int, present: dict[tuple[str, int], dict[str, object]]
) -> list[dict[str, object]]:
    """Return the marks of the shards that a table has: those that were there, if they fit, else new ones."""
    if not store.has(table):
        return []
    names = [field.name for field in store.dataset(table).schema]
    numbers = store.read(table, ["shard"])["shard"].to_numpy()
    marks: list[dict[str, object]] = []
    image = row = 0
    for number in range(int(numbers.max()) + 1 if len(numbers) else 0):
        count = int((numbers == number).sum())
        if count == 0 or (numbers[row : row + count] != number).any() or (each and count != each):
            break
        images = _images_of(store, table, number, row) if each else count
        mark: dict[str, object] = {"what": what, "shard": number, "first_image": image, "rows": images}
        old = present.get((what, number), {})
        digest = shard_digest(pieces_between(store, table, names, row, count))
        same = all(old.get(name) == value for name, value in (mark | {"digest": digest}).items())
        origin = {name: old[name] if same else "" for name in ("settings_hash", "run_id")}
        marks.append({**mark, **origin, "digest": digest})
        image, row = image + images, row + count
    return marks


def _images_of(store: Store, table: str, number: int, row: int) -> int:
    """Return how many images a shard of activations has: what its first row, or the table of images, says."""
    if column_tables.is_sparse(table):
        return store.count(schema.IMAGES, f"shard = {number}")
    return len(rows_between(store, table, ["values"], row, 1)["values"][0])


def recount(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Count the statistics of neurons again from the activations."""
    if any(holds_rows(finding.where) for finding in findings):
        empty(store, schema.NEURONS)
    whole = all(finding.key == (schema.NEURONS,) or finding.key[0] == schema.NEURONS for finding in findings)
    named = {finding.key[0] for finding in findings}
    infos = [info for info in catalog.layers(store) if whole or schema.NEURONS in named or info.what in named]
    for info in infos:
        store.delete(schema.NEURONS, catalog.layer_filter(info))
    finish_statistics(store, infos, {})
    return [f"neurons: the statistics of {info.key} are counted again" for info in infos]


def read_again(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Make the thumbnails of damaged shards of images again from the originals, if those are unchanged."""
    digests, shards = _digests(store, schema.IMAGES), catalog.shards(store, schema.IMAGES)
    names = [field.name for field in store.dataset(schema.IMAGES).schema]
    made: dict[int, pa.Table] = {}
    lines = []
    for shard in shards:
        where = (store, schema.IMAGES, names, shard.first_image, shard.rows)
        same = _digest_or_none(*where) == digests[shard.number]
        if same and not _is_named(findings, shard):
            continue
        try:
            rows = _from_originals(store, shard, names, None if same else digests[shard.number])
            made[shard.number] = rows
            lines.append(f"images: shard {shard.number} is made again from the original images")
        except CspIndexError as exc:
            return [f"images: shard {shard.number} is not repaired: {one_line(exc)}: restore the index from a copy"]
    source = store.dataset(schema.IMAGES)

    def batches() -> Iterator[pa.RecordBatch]:
        for shard in shards:
            rows = made.get(shard.number)
            if rows is None:
                rows = rows_between(store, schema.IMAGES, names, shard.first_image, shard.rows)
            yield from rows.cast(source.schema).to_batches()

    store.replace(schema.IMAGES, pa.RecordBatchReader.from_batches(source.schema, batches()))
    if made:
        mark_rewritten_images(store, {number: shard_digest([rows]) for number, rows in made.items()})
    return lines or ["images: all rows are as they were written; they are in new files now"]


def _is_named(findings: Sequence[Finding], shard: Shard) -> bool:
    return any(finding.key == (schema.IMAGES, shard.number) for finding in findings)


def _from_originals(store: Store, shard: Shard, names: list[str], digest: str | None) -> pa.Table:
    """Return a shard's rows with thumbnails made again.

    Raises SourceError if originals are gone or changed, or the rows are not those of the digest.
    """
    rest = [name for name in names if name != "thumbnail"]
    rows = rows_between(store, schema.IMAGES, rest, shard.first_image, shard.rows)
    size = settings.THUMBNAIL_SIZE.value()
    pictures, lost = [], []
    for image, row in zip(read_originals(store, rows["uri"].to_pylist()), rows.to_pylist(), strict=True):
        if isinstance(image, ImageRead) and image.sha256 == row["sha256"]:
            pictures.append(thumbnail(image.image, size))
        else:
            lost.append(row["uri"])
    if lost:
        raise SourceError(f"{many(lost, 'original')} cannot be read, or changed")
    rows = rows.append_column("thumbnail", pa.array(pictures, pa.binary())).select(names)
    if digest is not None and shard_digest([rows]) != digest:
        raise SourceError("its rows differ in more than thumbnails, or Pillow makes those otherwise now")
    return rows
