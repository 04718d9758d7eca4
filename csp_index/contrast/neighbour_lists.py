"""Lists of nearest neighbours: the nearest images of an image, whatever their activation.

They hang on an encoder's embeddings alone, so all neurons of all layers share them. Labelling a whole layer computes
and keeps them; a question about one neuron then reads some rows where it would have compared with all images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from csp_index import settings
from csp_index.contrast.exact_ranking import CosineError, Ranked
from csp_index.store import schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.tables import Store

MEMO = "neighbour lists"  # the key of what a store remembers of them
KEPT = 128  # neighbours of an image that are kept; a list over fewer images has them all
_ROW_BYTES = 12 * KEPT
_HELD_SHARE = 8  # lists stay in memory if they take no more than one such part of what the settings grant embeddings
_COLUMNS = ("neighbours", "cosines", "absolute", "relative")


@dataclass(frozen=True, slots=True)
class NeighbourLists:
    """The lists of some of the images in question: `place` [U] tells which list is whose, -1 where there is none."""

    place: torch.Tensor
    ranked: Ranked
    error: CosineError  # how far their cosines may be off

    @property
    def missing(self) -> torch.Tensor:
        """Which of the images [U] have no list."""
        return self.place < 0


def listed(store: Store, source: EncoderInfo, images: int, asked: torch.Tensor) -> torch.Tensor:
    """Tell which of the image ids `asked` [U] have a kept list of neighbours among the first `images` images."""
    kept = _kept(store, source, images)
    return torch.zeros(len(asked), dtype=torch.bool) if kept is None else kept.rows_of(asked) >= 0


def kept_lists(store: Store, source: EncoderInfo, images: int, asked: torch.Tensor) -> NeighbourLists | None:
    """Return the kept lists of image ids `asked` [U] among the first `images` images, or None where there are none."""
    kept = _kept(store, source, images)
    rows = torch.full(asked.shape, -1) if kept is None else kept.rows_of(asked)
    found = (rows >= 0).nonzero()[:, 0]
    if kept is None or not len(found):
        return None
    wanted, order = rows[found].sort()
    place = torch.full(asked.shape, -1)
    if kept.held is not None:
        place[found[order]] = wanted
        return replace(kept.held, place=place)
    place[found[order]] = torch.arange(len(order))
    return _lists_in(store.dataset(kept.table).take(wanted.numpy(), columns=list(_COLUMNS)), place)


def keep_lists(
    store: Store, source: EncoderInfo, images: int, owners: torch.Tensor, ranked: Ranked, error: CosineError
) -> None:
    """Keep the lists of image ids `owners` [U], at least KEPT long; those among fewer images go.

    Only under the write lock.
    """
    table = schema.neighbours_table(source.name)
    if store.has(table):
        store.delete(table, f"images != {images}")
    columns = [
        pa.array(owners.numpy()),
        pa.array(np.full(len(owners), images)),
        _lists(ranked.ids[:, :KEPT]),
        _lists(ranked.cosines[:, :KEPT]),
        pa.array(np.full(len(owners), error.absolute)),
        pa.array(np.full(len(owners), error.relative)),
    ]
    store.append(table, pa.table(columns, schema=schema.neighbours_schema()))


@dataclass(frozen=True, slots=True)
class _Kept:
    """Which lists a table has: of the images `ids`, sorted, in its rows `rows`; all of them, if they are few."""

    table: str
    ids: torch.Tensor
    rows: torch.Tensor
    held: NeighbourLists | None

    def rows_of(self, asked: torch.Tensor) -> torch.Tensor:
        """Return the row of each image's list [U], -1 where it has none."""
        spot = torch.searchsorted(self.ids, asked).clamp(max=len(self.ids) - 1)
        return torch.where(self.ids[spot] == asked, self.rows[spot], -1)


def _kept(store: Store, source: EncoderInfo, images: int) -> _Kept | None:
    """Return what is kept for an encoder, None for nothing; read once for each state of the table."""
    table = schema.neighbours_table(source.name)
    if not store.has(table):
        return None
    return store.memo(table, MEMO, lambda: _read_kept(store, table, images), variant=images)


def _read_kept(store: Store, table: str, images: int) -> _Kept | None:
    few = store.count(table) * _ROW_BYTES <= settings.HELD_BYTES.value() // _HELD_SHARE
    read = store.read(table, ["image_id", "images", *(_COLUMNS if few else ())])
    ids = read["image_id"].to_numpy()
    rows = np.flatnonzero(read["images"].to_numpy() == images)
    rows = rows[ids[rows].argsort(kind="stable")]
    held = _lists_in(read, torch.arange(len(ids))) if few and len(rows) == len(ids) else None
    return _Kept(table, torch.from_numpy(ids[rows]), torch.from_numpy(rows), held) if len(rows) else None


def _lists_in(read: pa.Table, place: torch.Tensor) -> NeighbourLists:
    error = CosineError(float(read["absolute"].to_numpy().max()), float(read["relative"].to_numpy().max()))
    return NeighbourLists(place, Ranked(_matrix(read["neighbours"]).long(), _matrix(read["cosines"])), error)


def _lists(values: torch.Tensor) -> pa.Array:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.contiguous().numpy().ravel()))


def _matrix(column: pa.ChunkedArray) -> torch.Tensor:
    values = column.combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).copy().reshape(len(values), -1))
