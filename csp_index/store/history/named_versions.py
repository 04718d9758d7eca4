"""The versions of an index that can still be read: what each command left, and the tags that keep some of them."""

from __future__ import annotations

import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.history.records import Record
from csp_index.store.tables import Store

_COLUMNS = pa.schema(
    [
        ("version", pa.int64()),
        ("when", pa.timestamp("s", tz="UTC")),
        ("command", pa.string()),
        ("run_id", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("images", pa.int64()),
        ("labels", pa.int64()),
    ]
)


def version_rows(store: Store) -> pa.Table:
    """Return a row per version, newest first; of the commits of one command the last."""
    tags: dict[int, list[str]] = {}
    for name, number in store.log.tags().items():
        tags.setdefault(number, []).append(name)
    rows = []
    records = [record for record in store.log.records() if record.shown]
    for record, following in zip(records, [*records[1:], None], strict=True):
        superseded = following is not None and record.run_id and following.run_id == record.run_id
        if not superseded or record.number in tags:
            rows.append(
                {
                    "version": record.number,
                    "when": record.when.replace(microsecond=0),
                    "command": record.command,
                    "run_id": record.run_id,
                    "tags": tags.get(record.number, []),
                    "images": _rows(record, schema.IMAGES),
                    "labels": _rows(record, schema.LABELS),
                }
            )
    return pa.Table.from_pylist(rows[::-1], schema=_COLUMNS)


def tag_version(store: Store, name: str, version: str | int | None = None) -> int:
    """Name a version, by default the last one, so that clean-up leaves it alone; return its number.

    This waits for no writer: clean-up looks for tags again when it has a record to itself, and this marks the record.
    """
    record = store.commit_seen if version is None else store.log.find(str(version))
    if record is None:
        raise StoreError(f"{store.uri} has no version to name: run `csp-index migrate {store.uri}` first")
    hold = store.log.reading(record.number)
    store.log.record(record.number, record.digest)  # StoreError if clean-up was faster
    store.log.tag(name, record)
    del hold
    return record.number


def _rows(record: Record, table: str) -> int:
    return record.tables[table].rows if table in record.tables else 0
