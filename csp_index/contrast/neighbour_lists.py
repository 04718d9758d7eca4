"""Lists of nearest neighbours: the nearest images of an image, whatever their activation.

They depend only on an encoder's embeddings, so all neurons of all layers share them. Labelling a whole layer computes
and stores them; a question about one neuron then reads a few rows instead of comparing with all images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index import settings
from csp_index.contrast.exact_ranking import CosineError, Ranked
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo
from csp_index.store.tables import Store
from csp_index.tensors import library
from csp_index.tensors.library import torch

MEMO = "neighbour lists"  # the key of what a store remembers of them
KEPT = 128  # neighbours stored per image at least; a list over fewer images has them all
_ENTRY_BYTES = 12
_HELD_SHARE = 4  # lists stay in memory if they take at most 1/4 of the memory that the settings allow embeddings
_NAMED = 10_000  # images that one condition names
_COLUMNS = ("neighbours", "cosines", "absolute", "relative")


@dataclass(frozen=True, slots=True)
class NeighbourLists:
    """Lists of one length of some of the images in question: `place` [U] is the row of each image's, -1 without one."""

    place: torch.Tensor
    ranked: Ranked
    error: CosineError  # of their cosines, at most

    @property
    def missing(self) -> torch.Tensor:
        """Which of the images [U] have no list."""
        return self.place < 0


def listed(store: Store, source: EncoderInfo, images: int, image_ids: torch.Tensor) -> torch.Tensor:
    """Return which image ids [U] have a stored list of neighbours among the first `images` images, as a mask [U]."""
    stored = _lists_of(store, source, images)
    return torch.zeros(len(image_ids), dtype=torch.bool) if stored is None else stored.rows_of(image_ids) >= 0


def stored_lists(store: Store, source: EncoderInfo, images: int, image_ids: torch.Tensor) -> list[NeighbourLists]:
    """Return the stored lists of image ids [U] among the first `images` images, longest first; each image has one."""
    stored = _lists_of(store, source, images)
    rows = torch.full(image_ids.shape, -1) if stored is None else stored.rows_of(image_ids)
    present = (rows >= 0).nonzero()[:, 0]
    if stored is None or not len(present):
        return []
    positions, order = rows[present].sort()
    if stored.cached is None:
        every = _lists_in(store.take(stored.table, positions.numpy(), _COLUMNS))
        positions = torch.arange(len(order))
    else:
        every = stored.cached
    result = []
    for lists in every:
        place = torch.full(image_ids.shape, -1)
        place[present[order]] = lists.place[positions]
        if bool((place >= 0).any()):
            result.append(replace(lists, place=place))
    return result


def store_lists(
    store: Store, source: EncoderInfo, images: int, owners: torch.Tensor, ranked: Ranked, error: CosineError
) -> None:
    """Store the lists of image ids `owners` [U] in place of those they have.

    Lists over another number of images are deleted. Requires the write lock.
    """
    table = column_tables.neighbours_table(source.name)
    if store.has(table):
        store.delete(table, f"images != {images}")
        replaced = owners[listed(store, source, images, owners)].tolist()
        for start in range(0, len(replaced), _NAMED):
            store.delete(table, f"image_id IN ({','.join(map(str, replaced[start : start + _NAMED]))})")
    columns = [
        pa.array(owners.numpy()),
        pa.array(np.full(len(owners), images)),
        _lists(ranked.ids),
        _lists(ranked.cosines),
        pa.array(np.full(len(owners), error.absolute)),
        pa.array(np.full(len(owners), error.relative)),
    ]
    store.append(table, pa.table(columns, schema=column_tables.neighbours_schema()))
    store.checkpoint()


@dataclass(frozen=True, slots=True)
class _StoredLists:
    """The lists in a table: image `ids`, sorted, and their `rows`; `cached` has all if they are few, by these rows."""

    table: str
    ids: torch.Tensor
    rows: torch.Tensor
    cached: list[NeighbourLists] | None

    def rows_of(self, image_ids: torch.Tensor) -> torch.Tensor:
        """Return the row of each image's list [U], -1 if it has none."""
        spot = torch.searchsorted(self.ids, image_ids).clamp(max=len(self.ids) - 1)
        return torch.where(self.ids[spot] == image_ids, self.rows[spot], -1)


def _lists_of(store: Store, source: EncoderInfo, images: int) -> _StoredLists | None:
    """Return the lists stored for an encoder, or None; read once per state of the table."""
    table = column_tables.neighbours_table(source.name)
    if not store.has(table):
        return None
    return store.memo(table, MEMO, lambda: _read_lists(store, table, images), variant=(images, library.name()))


def _read_lists(store: Store, table: str, images: int) -> _StoredLists | None:
    if not store.count(table):
        return None
    ends = store.take(table, [0, store.count(table) - 1], ["neighbours"])["neighbours"]  # of the oldest and the newest
    entries = store.count(table) * int(pc.max(pc.list_value_length(ends)).as_py())
    few = entries * _ENTRY_BYTES <= settings.HELD_BYTES.value() // _HELD_SHARE
    read = store.read(table, ["image_id", "images", *(_COLUMNS if few else ())])
    ids = read["image_id"].to_numpy()
    rows = np.flatnonzero(read["images"].to_numpy() == images)
    rows = rows[ids[rows].argsort(kind="stable")]
    cached = _lists_in(read) if few and len(rows) == len(ids) else None
    return _StoredLists(table, torch.from_numpy(ids[rows]), torch.from_numpy(rows), cached) if len(rows) else None


def _lists_in(read: pa.Table) -> list[NeighbourLists]:
    """Return the lists of a table's rows, one object for those of each length, longest first; places are rows."""
    error = CosineError(float(read["absolute"].to_numpy().max()), float(read["relative"].to_numpy().max()))
    lengths = pc.list_value_length(read["neighbours"]).to_numpy()
    result = []
    for length in sorted(set(lengths.tolist()), reverse=True):
        rows = np.flatnonzero(lengths == length)
        some = read if len(rows) == len(lengths) else read.take(rows)
        place = torch.full((len(lengths),), -1)
        place[torch.from_numpy(rows)] = torch.arange(len(rows))
        ranked = Ranked(_matrix(some["neighbours"], length).long(), _matrix(some["cosines"], length))
        result.append(NeighbourLists(place, ranked, error))
    return result


def _lists(values: torch.Tensor) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.contiguous().numpy().ravel()))


def _matrix(column: pa.ChunkedArray, length: int) -> torch.Tensor:
    values = column.combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).copy().reshape(len(values), length))
