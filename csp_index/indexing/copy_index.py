"""A copy of an index without some of its images: what no layer that comes later can have must not cost all the others.

Ids of images are dense, so an image cannot leave an index; the copy gives the others new ones. Embeddings, activations,
maps, crops, metadata and the notes of readers are taken over, no model runs, and statistics are computed anew. Results
and ratings, which rest on the ids, are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from csp_index.errors import NotFoundError, SettingError, SourceError, StoreError, one_line
from csp_index.files.regular_files import read_text
from csp_index.indexing import commit
from csp_index.indexing.kept_maps import copy_maps
from csp_index.records import Progress
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.store.connect import check_creatable, create_store, is_index, open_snapshot
from csp_index.store.history.digests import shard_digest
from csp_index.store.originals import ImageRoots, coming_from
from csp_index.store.runs import Run, record_run
from csp_index.store.study_tables import NOTES
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.class_names import class_names, store_class_names
from csp_index.store.values.statistics import NeuronStatistics


@dataclass(frozen=True, slots=True)
class CopySummary:
    """What was copied: the images of the new index, those left out, its shards, and its layers.

    `unfinished` layers cover only the first images, as in the index they come from; indexing again completes them.
    """

    place: str
    images: int
    left_out: tuple[str, ...]
    shards: int
    layers: tuple[str, ...]
    unfinished: tuple[str, ...]


def copy_index(
    uri: str | Path, place: str | Path, without: Iterable[str] | None = None, progress: Progress | None = None
) -> CopySummary:
    """Copy an index to a new place without the images named by their uris, by default those in its table of failures.

    Errors: StoreError for a place that has an index; SettingError if no image, or every image, would be left out;
    NotFoundError for a name that is not in the index.
    """
    source = open_snapshot(uri)
    if is_index(place):
        raise StoreError(f"{place} is an index already: name a new place for the copy, or delete one that was cut off")
    check_creatable(place)
    left_out = _left_out(source, without)
    copy = _Copy(source, create_store(place), frozenset(left_out), progress)
    settings = {"source": source.uri, "without": sorted(left_out)}
    infos = catalog.columns(source)
    models = {info.what: info.identity for info in infos}
    with copy.target.write_lock(), coming_from(copy.target, ImageRoots(source).places):
        with record_run(copy.target, "copy", settings, models) as run:
            copy.write(infos, run)
        commit.drop_merged(copy.target, infos)
    marks = catalog.shards(copy.target, schema.IMAGES)
    layers = [str(info.key) for info in infos if isinstance(info, LayerInfo)]
    unfinished = [str(info.key) for info in infos if isinstance(info, LayerInfo) and not copy.is_whole(info)]
    images = catalog.image_count(copy.target)
    return CopySummary(str(place), images, tuple(left_out), len(marks), tuple(layers), tuple(unfinished))


def read_images(path: str | Path) -> list[str]:
    """Return the images that a text file names, one per line; SourceError where it is no text."""
    try:
        return [line for line in read_text(path).split("\n") if line]
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(
            f"the list of images {path} cannot be read: {one_line(exc)}: expected UTF-8 text with one image per line"
        ) from exc


def _left_out(source: Store, without: Iterable[str] | None) -> list[str]:
    """Return the uris of the images to leave out, in the order of the index."""
    indexed = source.read(schema.IMAGES, ["image_id", "uri"]).sort_by("image_id")["uri"].to_pylist()
    named = set(source.read(schema.FAILURES, ["uri"])["uri"].to_pylist() if without is None else without)
    if without is not None and (unknown := named.difference(indexed)):
        raise NotFoundError(f"{len(unknown)} of {len(named)} images are not in {source.uri}, first {min(unknown)}")
    left_out = [uri for uri in indexed if uri in named]
    if not left_out:
        where = "is in its table of failures: name the images" if without is None else "is named"
        raise SettingError(f"no image of {source.uri} {where}; `csp-index backup` copies a whole index")
    if len(left_out) == len(indexed):
        raise SettingError(f"all {len(indexed):,} images of {source.uri} would be left out: nothing is left to copy")
    return left_out


@dataclass(slots=True)
class _Copy:
    """The two indexes, and the uris of the images that are left out."""

    source: Store
    target: Store
    left_out: frozenset[str]
    progress: Progress | None

    def is_whole(self, info: Column) -> bool:
        """Return whether a column covers all images of the index it comes from."""
        return len(catalog.shards(self.source, info.what)) == len(catalog.shards(self.source, schema.IMAGES))

    def write(self, infos: Sequence[Column], run: Run) -> None:
        """Write everything but results; the marks come last and together: a copy that is cut off has no image."""
        commit.register(self.target, infos, run)
        for info in infos:
            if isinstance(info, LayerInfo):
                names = class_names(self.source, info.key)
                store_class_names(self.target, info.key, [names.get(n, "") for n in range(info.neurons)], run.run_id)
        self._copy_rows(schema.FAILURES, run)
        self._copy_rows(NOTES, run)
        running: dict[str, NeuronStatistics] = {}
        tiles = {info.what: _tiles(self.source, info) for info in infos}
        written: list[tuple[dict[str, str], Shard]] = []
        first = done = 0
        new_ids = np.full(catalog.image_count(self.source), -1)
        for mark in catalog.shards(self.source, schema.IMAGES):
            rows, kept = self._images(mark)
            stored = [(info, tile) for info in infos if (tile := next(tiles[info.what], None)) is not None]
            done += mark.rows
            if kept.any():
                own = Shard(len(written), first, int(kept.sum()), run.settings_hash)
                values = [(info, tile[torch.from_numpy(kept)]) for info, tile in stored]
                written.append((self._write_shard(own, rows, values, running), own))
                new_ids[mark.first_image + np.flatnonzero(kept)] = np.arange(first, first + own.rows)
                first += own.rows
            if self.progress is not None:
                self.progress(done, catalog.image_count(self.source), "images")
        commit.mark_all(self.target, written, run)
        whole = [info for info in infos if isinstance(info, LayerInfo) and self.is_whole(info)]
        commit.finish_layers(self.target, whole, running)
        for info in infos:
            if isinstance(info, LayerInfo):
                copy_maps(self.source, self.target, info, new_ids)
            else:
                self._copy_crops(info, new_ids, run)

    def _images(self, mark: Shard) -> tuple[pa.Table, np.ndarray]:
        """Return a shard's rows of images without those left out, and which of its images are kept [n]."""
        where = f"image_id >= {mark.first_image} AND image_id < {mark.first_image + mark.rows}"
        rows = self.source.read(schema.IMAGES, where=where).sort_by("image_id")
        kept = np.array([uri not in self.left_out for uri in rows["uri"].to_pylist()])
        return rows.filter(pa.array(kept)), kept

    def _write_shard(
        self,
        mark: Shard,
        rows: pa.Table,
        values: Sequence[tuple[Column, torch.Tensor]],
        running: dict[str, NeuronStatistics],
    ) -> dict[str, str]:
        """Write one shard, and count its activations in; return the digests of its rows."""
        table = schema.table_schema(schema.IMAGES)
        own = {"image_id": pa.array(range(mark.first_image, mark.first_image + mark.rows), pa.int64())}
        own["shard"] = pa.array([mark.number] * mark.rows, pa.int32())
        images = pa.table({name: own.get(name, rows[name]) for name in table.names}, schema=table)
        self.target.append(schema.IMAGES, images)
        digests = {schema.IMAGES: shard_digest([images])}
        for info, tile in values:
            digests[info.what] = commit.write_values(self.target, info, mark, tile)
            commit.count_in(self.target, info, running, mark, tile)
        return digests

    def _copy_crops(self, info: EncoderInfo, new_ids: np.ndarray, run: Run) -> None:
        """Copy the embeddings of crops of the images that are kept."""
        table = column_tables.crops_table(info.name)
        if not self.source.has(table):
            return
        for batch in self.source.scan(table, column_tables.crops_schema(info.width).names):
            ids = new_ids[batch.column("image_id").to_numpy()]
            own = {"image_id": pa.array(ids), "run_id": pa.array([run.run_id] * len(ids))}
            columns = {name: own.get(name, batch.column(name)) for name in batch.schema.names}
            rows = pa.table(columns, schema=column_tables.crops_schema(info.width)).filter(pa.array(ids >= 0))
            self.target.append(table, rows)

    def _copy_rows(self, table: str, run: Run) -> None:
        """Copy a table, as of failures, in which images that are left out keep their reason, or of notes."""
        rows = self.source.read(table)
        if rows.num_rows:
            place = rows.schema.get_field_index("run_id")
            self.target.append(table, rows.set_column(place, "run_id", pa.array([run.run_id] * rows.num_rows)))


def _tiles(source: Store, info: Column) -> Iterator[torch.Tensor]:
    """Yield a column's values [n, W] of each of its shards, a row per image."""
    marks = catalog.shards(source, info.what)
    if isinstance(info, EncoderInfo):
        yield from streams.embedding_tiles(source, info, marks)
    else:
        yield from (tile.T for tile in streams.activation_tiles(source, info, marks))
