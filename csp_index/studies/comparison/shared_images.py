"""The images that two layers have in common, and the activations of both over them, side by side.

Layers of one index share their image ids. Layers of two indexes share the images whose encoded bytes are equal: they
are joined by sha256, the k-th copy of a picture in one index with the k-th in the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import SourceError
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values.streams import activation_tiles

_SPOOLED = 2048  # images read back at once where the second index has them in another order


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two layers: the index that it is in, and the layer."""

    store: Store
    target: LayerInfo

    @property
    def images(self) -> int:
        """How many images the statistics of its neurons cover. NotFoundError if the layer is not finished."""
        return int(catalog.neuron_rows(self.store, self.target, [0])["images"][0].as_py())


@dataclass(frozen=True, slots=True)
class SharedImages:
    """N images that both layers have: their ids in the first, increasing, and in the second, image by image."""

    first: np.ndarray  # [N] int64
    second: np.ndarray  # [N] int64
    only_first: int  # images that the second does not have
    only_second: int

    def __len__(self) -> int:
        return len(self.first)

    @property
    def is_ordered(self) -> bool:
        """Whether both indexes have the images in the same order."""
        return bool((np.diff(self.second) > 0).all())


def shared_images(first: Side, second: Side) -> SharedImages:
    """Return the images that two layers share. Raises SourceError if there are fewer than two."""
    counts = first.images, second.images
    if first.store.uri == second.store.uri:
        ids = np.arange(min(counts), dtype=np.int64)
        pair = ids, ids
    else:
        pair = joined(*(_hashes(side, count) for side, count in zip((first, second), counts, strict=True)))
    shared = SharedImages(*pair, *(count - len(pair[0]) for count in counts))
    if len(shared) < 2:
        raise SourceError(
            f"{first.target.key} has {counts[0]:,} images and {second.target.key} of {second.store.uri} {counts[1]:,}, "
            f"and {len(shared)} of them are the same by sha256: layers can be compared over images that both have"
        )
    return shared


def joined(first: pa.ChunkedArray, second: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the places [N] in two columns of hashes where they hold the same one, those of the first in order.

    Of a hash that occurs several times, the k-th place is joined with the k-th. Empty hashes and nulls join nothing.

    >>> one, two = (pa.chunked_array([hashes]) for hashes in (["a", "b", "a", "", None], ["", "a", "c", "b"]))
    >>> [places.tolist() for places in joined(one, two)]
    [[0, 1], [1, 3]]
    """
    both = pa.chunked_array([*first.chunks, *second.chunks], pa.string())
    known = pc.fill_null(pc.not_equal(both, ""), False).combine_chunks().to_numpy(zero_copy_only=False)
    codes = pc.fill_null(pc.index_in(both, pc.unique(both)), -1).combine_chunks().to_numpy().astype(np.int64)
    size = len(first)
    keys = [_numbered(part, at) for part, at in ((codes[:size], known[:size]), (codes[size:], known[size:]))]
    (one, first_places), (two, second_places) = keys
    _, left, right = np.intersect1d(one, two, assume_unique=True, return_indices=True)
    order = np.argsort(first_places[left], kind="stable")
    return first_places[left][order], second_places[right][order]


def _numbered(codes: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a number for each known code and how often it occurred before, distinct, and the places [n] of them."""
    places = np.flatnonzero(known)
    places = places[np.argsort(codes[places], kind="stable")]
    own = codes[places]
    starts = np.flatnonzero(np.diff(own, prepend=-1))
    before = np.arange(len(own)) - np.repeat(starts, np.diff(starts, append=len(own)))
    return own * (1 << 31) + before, places


def _hashes(side: Side, count: int) -> pa.ChunkedArray:
    rows = side.store.read(schema.IMAGES, ["image_id", "sha256"], f"image_id < {count}").sort_by("image_id")
    return rows["sha256"]


def paired_tiles(
    first: Side, second: Side, shared: SharedImages, neurons: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Stream the activations of both layers over the shared images, in the order of the first, as [M1, n], [M2, n].

    `neurons` are those of the first, sorted, by default all. Where the second index has the images in another order,
    its activations go through a temporary file, so that memory holds a shard of each.
    """
    one = _selected(first, shared.first, neurons)
    if shared.is_ordered:
        yield from _in_step(one, _selected(second, shared.second))
        return
    order = np.argsort(shared.second)
    with tempfile.TemporaryFile() as file:
        spooled = np.memmap(file, np.float32, "w+", shape=(len(shared), second.target.neurons))
        done = 0
        for tile in _selected(second, shared.second[order]):
            spooled[order[done : done + tile.shape[1]]] = tile.T
            done += tile.shape[1]
        pieces = (spooled[start : start + _SPOOLED].T for start in range(0, len(shared), _SPOOLED))
        yield from _in_step(one, pieces)


def _selected(side: Side, ids: np.ndarray, neurons: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """Yield the activations of some images (ids increasing), shard by shard, each [M, n]."""
    marks = catalog.covered(side.store, side.target.what, side.images)
    for mark, tile in zip(marks, activation_tiles(side.store, side.target, marks, neurons), strict=True):
        low, high = np.searchsorted(ids, (mark.first_image, mark.first_image + mark.rows))
        values = tile.numpy()
        yield values if high - low == mark.rows else values[:, ids[low:high] - mark.first_image]


def _in_step(one: Iterator[np.ndarray], two: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the columns of two streams of as many columns together, whatever the pieces that they come in."""
    right = np.empty((0, 0), np.float32)
    for left in one:
        while left.shape[1]:
            while not right.shape[1]:
                right = next(two)
            count = min(left.shape[1], right.shape[1])
            yield left[:, :count], right[:, :count]
            left, right = left[:, count:], right[:, count:]
