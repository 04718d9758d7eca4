"""Join a table to the metadata of images that are indexed already: no picture is read and no model runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from csp_index.errors import SourceError
from csp_index.files.regular_files import user_path
from csp_index.images.files.formats import image_extensions
from csp_index.images.tables.join_table import PathTable
from csp_index.indexing.commit import mark_rewritten_images
from csp_index.store import catalog, schema
from csp_index.store.history.digests import ShardDigest
from csp_index.store.image_metadata import METADATA_COMMAND, image_records, metadata_text, parse_metadata
from csp_index.store.runs import record_run
from csp_index.store.tables import Store


@dataclass(frozen=True, slots=True)
class MetadataSummary:
    """What joining a table did: `joined` of `images` have a row; `notes` say what did not join or was guessed."""

    run_id: str
    images: int
    joined: int
    columns: tuple[str, ...]
    notes: tuple[str, ...]


def join_metadata(store: Store, file: str | Path, key: str | None = None, *, replace: bool = False) -> MetadataSummary:
    """Add a table's columns to the metadata of the images that its rows name.

    The rows find their images as in `csp_index.images.tables.join_table.PathTable`. With `replace`, columns that
    images have already are replaced, also where the new table has no row. Raises SourceError before anything is
    written: for a table that cannot be read or names no image, and for columns that are there without `replace`.
    """
    path = user_path(file)
    with store.write_lock():
        count = catalog.image_count(store)
        names = _names(store, count)
        root = Path(os.path.commonpath([os.path.dirname(name) for name in names.values()]) if names else "/")
        relative = {uri: os.path.relpath(name, root) for uri, name in names.items()}
        if not relative:
            raise SourceError(f"no image of {store.uri} has a file name: a table cannot name them")
        table = PathTable(path, root, relative.values(), image_extensions(), key)
        if not replace:
            _check_new(store, count, table)
        settings = {"table": str(path), "key": table.key, "columns": list(table.columns), "replace": replace}
        with record_run(store, METADATA_COMMAND, settings, {}) as run:
            rows = _Rewrite(store, table, relative)
            store.replace(schema.IMAGES, pa.RecordBatchReader.from_batches(rows.schema, rows.batches()))
            mark_rewritten_images(store, rows.digests)
    return MetadataSummary(run.run_id, count, rows.joined, table.columns, tuple(table.notes))


def _names(store: Store, count: int) -> dict[str, str]:
    """Return the path by which a table may name an image, by address: of a file, or of the member of a tar shard."""
    names: dict[str, str] = {}
    for batch in store.scan(schema.IMAGES, ["uri"], where=f"image_id < {count}"):
        for uri in batch["uri"].to_pylist():
            container, mark, member = uri.partition("#")
            if not mark or container.endswith((".tar", ".tar.gz", ".tgz")):
                names[uri] = os.path.normpath("/" + (f"{container}/{member}" if mark else uri))
    return names


def _check_new(store: Store, count: int, table: PathTable) -> None:
    """Refuse columns that images have already."""
    present: set[str] = set()
    for _, record in image_records(store, count):
        present |= record.keys() & set(table.columns)
    if present:
        listed = ", ".join(sorted(present))
        raise SourceError(f"images have the columns {listed} already: add --replace to put the table's in their place")


class _Rewrite:
    """The rows of the table of images with their new metadata, and the digest of each shard."""

    def __init__(self, store: Store, table: PathTable, relative: Mapping[str, str]) -> None:
        self._store, self._table, self._relative = store, table, relative
        self.schema = store.dataset(schema.IMAGES).schema
        self.joined = 0
        self._digests: dict[int, ShardDigest] = {}

    @property
    def digests(self) -> dict[int, str]:
        """The digest of every shard; complete after the last batch."""
        return {shard: digest.hexdigest() for shard, digest in self._digests.items()}

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows in their order, shard by shard."""
        for shard in catalog.shards(self._store, schema.IMAGES):
            where = f"image_id >= {shard.first_image} AND image_id < {shard.first_image + shard.rows}"
            digest = self._digests[shard.number] = ShardDigest()
            for batch in self._store.scan(schema.IMAGES, self.schema.names, where=where, batch_rows=1024):
                rows = self._changed(batch)
                digest.add(rows)
                yield rows

    def _changed(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        rows = []
        for row in batch.to_pylist():
            own = self._table.row(self._relative.get(row["uri"], ""))
            self.joined += bool(own)
            before = parse_metadata(row["metadata"], row["image_id"])
            changed: dict[str, Any] = {name: value for name, value in before.items() if name not in self._table.columns}
            changed |= own
            split = {"split": None if own["split"] is None else str(own["split"])} if "split" in own else {}
            rows.append({**row, **split, "metadata": metadata_text(changed)})
        return pa.RecordBatch.from_pylist(rows, schema=self.schema)
