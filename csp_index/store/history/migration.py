"""From an earlier format of the store to the present one, in place and without loss.

Format 2 has no commits and no digests. Its tables become the first commit as they are; the last one of the migration
has what format 3 adds. A file stands beside the commits until then, so that a migration that was cut off goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.records import Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import Shard
from csp_index.store.connect import format_of
from csp_index.store.history.digests import ShardDigest
from csp_index.store.runs import record_run
from csp_index.store.tables import Store


@dataclass(frozen=True, slots=True)
class Migration:
    """What a migration did: from and to which format, and how many shards were read for their digests."""

    before: str
    now: str
    shards: int
    adopted: bool = False  # whether the commits of an index of the present format were lost


def migrate(store: Store, progress: Progress | None = None) -> Migration:
    """Bring an index to the present format; one that has it is left alone.

    Errors: StoreError where rows are missing or out of order, which `csp-index index` of the version that made the
    index may mend.
    """
    begun = store.log.head() is not None
    if begun and not store.log.is_migrating():
        return Migration(schema.FORMAT, schema.FORMAT, 0)
    if not begun and format_of(store) == schema.FORMAT:
        with store.write_lock(old_format=True):
            store.commit(command="made of tables without commits")
            store.log.end_migration()
        return Migration(schema.FORMAT, schema.FORMAT, 0, adopted=True)
    with store.write_lock(old_format=True):
        if not begun:
            store.commit(command=f"made in format {schema.OLD_FORMAT}")
        with record_run(store, "migrate", {"from": schema.OLD_FORMAT, "to": schema.FORMAT}, {}):
            _drop_unmarked(store)
            shards = _add_digests(store, progress)
            for name in store.table_names():
                with store.upkeep(name) as dataset:
                    dataset.update_schema_metadata({schema.FORMAT_KEY.decode(): schema.FORMAT})
        store.log.end_migration()
    return Migration(schema.OLD_FORMAT, schema.FORMAT, shards)


def _drop_unmarked(store: Store) -> None:
    """Delete rows of shards that were never marked: they do not exist, and no digest covers them."""
    for what, table in _columns(store):
        store.delete(table, f"shard >= {len(catalog.shards(store, what))}")
    marked = ",".join(map(catalog.sql_text, store.read(schema.SHARDS)["what"].unique().to_pylist())) or "''"
    store.delete(schema.ENCODERS, f"concat('embeddings:', encoder) NOT IN ({marked})")
    store.delete(schema.LAYERS, f"concat('activations:', model, '/', layer) NOT IN ({marked})")


def _columns(store: Store) -> list[tuple[str, str]]:
    """Return what is marked in shards, each with its table."""
    return [(schema.IMAGES, schema.IMAGES), *((info.what, info.table) for info in catalog.columns(store))]


def _add_digests(store: Store, progress: Progress | None) -> int:
    """Write the marks again with the digests of their shards; return how many there are."""
    marks = store.read(schema.SHARDS)
    digests: dict[tuple[str, int], str] = {}
    total: int = marks.num_rows
    for what, table in _columns(store):
        for shard, digest in digests_of(store, what, table):
            digests[what, shard.number] = digest
            if progress is not None:
                progress(len(digests), total, "shards")
    keys = zip(marks["what"].to_pylist(), marks["shard"].to_pylist(), strict=True)
    column = pa.array([digests.get(key) for key in keys], pa.string())
    rows = marks.select(schema.table_schema(schema.SHARDS).names[:-1]).append_column("digest", column)
    store.replace(schema.SHARDS, rows.cast(schema.table_schema(schema.SHARDS)))
    return total


def digests_of(store: Store, what: str, table: str) -> Iterator[tuple[Shard, str]]:
    """Yield the committed shards of a column with the digests of their rows as they are in the table now.

    Errors: StoreError where rows are missing, more than marked, or not in the order of the shards.
    """
    names = [field.name for field in store.dataset(table).schema]
    following = iter(catalog.shards(store, what))
    shard, digest, rows = next(following, None), ShardDigest(), 0
    for batch in store.scan(table, names, batch_rows=256):
        start = 0
        numbers = batch.column("shard").to_numpy()
        while start < batch.num_rows:
            if shard is None or numbers[start] != shard.number:
                if shard is None or rows == 0 or numbers[start] != shard.number + 1:
                    raise _out_of_order(what, table, int(numbers[start]))
                yield shard, digest.hexdigest()
                shard, digest, rows = next(following, None), ShardDigest(), 0
                continue
            stop = start + int((numbers[start:] == shard.number).cumprod().sum())
            digest.add(batch.slice(start, stop - start))
            rows, start = rows + stop - start, stop
    if shard is not None and rows:
        yield shard, digest.hexdigest()
        shard = next(following, None)
    if shard is not None:
        raise StoreError(f"{what} ends before shard {shard.number}: its rows are missing from table {table}")


def _out_of_order(what: str, table: str, number: int) -> StoreError:
    return StoreError(f"{what} is out of order at shard {number} of table {table}: rows are missing or doubled")
