"""Stored lists of nearest neighbours, and the vector index, against the exact answer."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index import settings
from csp_index.integrity.column_checks import Marks
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo, Shard
from csp_index.store.values import streams

_LISTS = 32  # that are compared without `full`
_QUERIES = 64  # images that are searched for
_NEAREST = 32  # results among which an image must be when its own embedding is searched for
_RECALL = 0.9  # share of those that must be; an index that is trained on few images misses some
_ROUNDING = 1e-5


def check_neighbours(subject: Subject, marks: Marks) -> None:
    """Check lists and vector index of every encoder whose embeddings are in order."""
    for info in subject.encoders:
        if info.what not in marks:
            continue
        table = column_tables.neighbours_table(info.name)
        if subject.is_readable(table):
            with reading(subject.result.findings, table):
                _check_lists(subject, info, table, marks)
        with reading(subject.result.findings, info.table):
            _check_vector_index(subject, info)


def _check_lists(subject: Subject, info: EncoderInfo, table: str, marks: Marks) -> None:
    rows = subject.store.read(table, ["image_id", "images"])
    owners = rows["image_id"].to_numpy()
    if not len(owners):
        return
    if pc.count_distinct(rows["image_id"]).as_py() != len(owners):
        subject.find(table, "images have more than one list", key=(table,))
        return
    last = marks[info.what][-1][0]
    covered = sorted(set(rows["images"].to_pylist()))
    if len(covered) != 1 or covered[0] > last.first_image + last.rows or owners.min() < 0 or owners.max() >= covered[0]:
        subject.find(table, "lists are of images that do not exist", key=(table,))
        return
    shards = [shard for shard, _ in marks[info.what] if shard.first_image + shard.rows <= covered[0]]
    if not shards or shards[-1].first_image + shards[-1].rows != covered[0]:
        return  # over fewer images than there are: they are not read any more
    places = subject.sample(len(owners), _LISTS)
    at_once = max(1, settings.TILE_BYTES.value() // (4 * covered[0]))
    wrong: list[int] = []
    for part in np.array_split(places, -(-len(places) // at_once)):
        lists = subject.store.dataset(table).take(part)
        lengths, others = (pc.list_value_length(lists[name]) for name in ("neighbours", "cosines"))
        if lengths != others:
            subject.find(table, "lists differ in length from those of their cosines", key=(table,))
            return
        for length in lengths.unique():
            same = lists.filter(pc.equal(lengths, length))
            exact = _exact_cosines(subject, info, shards, same)
            wrong += same["image_id"].to_numpy()[_are_wrong(same, exact)].tolist()
        subject.result.count("neighbour lists", len(part))
    if wrong:
        subject.find(table, "these lists are not those of the embeddings", many(sorted(wrong), "image"), key=(table,))


def _exact_cosines(subject: Subject, info: EncoderInfo, shards: list[Shard], lists: pa.Table) -> torch.Tensor:
    """Return the cosines [L, N] of the owners of lists with all images of these shards."""
    own = streams.embeddings_of(subject.store, info, lists["image_id"].to_numpy())
    return torch.cat([own @ tile.T for tile in streams.embedding_tiles(subject.store, info, shards)], 1)


def _are_wrong(lists: pa.Table, exact: torch.Tensor) -> np.ndarray:
    """Return which lists of one length do not name the nearest images, given the exact cosines [L, N], as a mask."""
    ids, cosines = (_matrix(lists[name]) for name in ("neighbours", "cosines"))
    images, width = exact.shape[1], ids.shape[1]
    bound = torch.from_numpy(lists["absolute"].to_numpy() + 0.0) + _ROUNDING
    bound += torch.from_numpy(lists["relative"].to_numpy() + 0.0) * cosines.abs().amax(1)
    inside = ((ids >= 0) & (ids < images)).all(1)
    there = exact.gather(1, ids.clamp(0, images - 1))
    reach = exact.topk(min(width, images), 1).values[:, -1]
    wrong = ~inside | ((there - cosines).abs() > bound[:, None]).any(1) | (there.amin(1) < reach - 2 * bound)
    return (wrong | torch.tensor([len(set(row)) != width for row in ids.tolist()])).numpy()


def _matrix(column: pa.ChunkedArray) -> torch.Tensor:
    values = column.combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).copy().reshape(len(values), -1))


def _check_vector_index(subject: Subject, info: EncoderInfo) -> None:
    """Search for images by their own embeddings: each must be among the nearest."""
    if any(finding.remedy == "build index" and finding.table == info.table for finding in subject.result.findings):
        return
    index = subject.store.vector_index(info.table)
    if index is None or not index.rows:
        return
    count = subject.store.count(info.table)
    if index.unindexed < 0:
        text = f"its vector index has {index.rows:,} rows, the table {count:,}"
        subject.find(info.table, text, "vector index", "build index", (info.table,))
        return
    places = np.sort(np.random.default_rng(0).choice(count, min(_QUERIES, count), replace=False))
    queries = streams.embeddings_of(subject.store, info, places).numpy()
    answers = subject.store.search(info.table, queries, _NEAREST)
    hits = 0
    for image, query, nearest in zip(places, queries, answers, strict=True):
        near = streams.embeddings_of(subject.store, info, nearest).numpy() @ query if len(nearest) else np.zeros(0)
        hits += image in nearest or bool((near > 1 - _ROUNDING).any())
    subject.result.count("searches", len(places))
    if hits < _RECALL * len(places):
        text = f"{len(places) - hits:,} of {len(places):,} images are not found by their own embeddings"
        subject.find(info.table, text, "vector index", "build index", (info.table,))
