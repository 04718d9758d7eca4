"""Activation maps of a layer's neurons on their top images: rows of a table, and rows as arrays again.

A map is coarse and has a byte per place (`models/layers/coarse_maps.py`). NumPy and Arrow alone, no torch. Maps may
come from a stranger: whatever does not fit together raises StoreError.

Most are made while images are indexed, from the values before pooling. A layer without places has none of these; maps
that its network makes on demand by the gradient times the input are kept in the same table, which says so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import pyarrow as pa

from csp_index import settings
from csp_index.errors import NotFoundError, StoreError
from csp_index.store import column_tables
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

MOST_SIDE: Final = 14  # rows and columns of a map, at most
_AT_ONCE: Final = 1024  # neurons whose maps are in memory at once
_MADE: Final = b"made"  # where a table's schema says how its maps are made, unless by activations

Made = Literal["activations", "gradients"]
"""How maps are made: a neuron's activation before pooling; or the gradient of the pooled one, times the input."""

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of a picture's width and height


@dataclass(frozen=True, slots=True)
class Frame:
    """What all maps of a layer share: their places, and which part of a picture they cover.

    `side`: around its middle, a square of side x its short side, where negative of -side x its long side, of which the
    rest was a margin; 0: all of it; None: unknown. `made` is how: by gradients the scale of a map is no activation.
    """

    height: int
    width: int
    side: float | None
    made: Made = "activations"

    def box(self, size: tuple[int, int]) -> Box | None:
        """Return the part of a picture of (width, height) that a map covers, with margins; None if it is unknown.

        >>> Frame(7, 7, 0.5).box((400, 200)), Frame(7, 7, 0.0).box((400, 200)), Frame(7, 7, None).box((400, 200))
        ((0.375, 0.25, 0.625, 0.75), (0.0, 0.0, 1.0, 1.0), None)
        >>> Frame(7, 7, -1.0).box((400, 200))
        (0.0, -0.5, 1.0, 1.5)
        """
        if self.side is None or min(size) < 1:
            return None
        if self.side == 0:
            return 0.0, 0.0, 1.0, 1.0
        if self.side < 0:
            across, down = (-self.side * max(size) / length / 2 for length in size)
        else:
            across, down = (min(1.0, self.side * min(size) / length) / 2 for length in size)
        return 0.5 - across, 0.5 - down, 0.5 + across, 0.5 + down


@dataclass(frozen=True, slots=True, eq=False)
class MapPairs:
    """Maps of P pairs of a neuron and an image, in the order of neurons, then of rank."""

    neurons: np.ndarray  # [P] int64
    images: np.ndarray  # [P] int64, ids
    scales: np.ndarray  # [P] float32: the largest value; 0 where no place fires
    maps: np.ndarray  # [P, h, w] uint8: the value of a place is scale x byte / 255

    def take(self, places: np.ndarray) -> MapPairs:
        """Return some of the pairs."""
        return MapPairs(self.neurons[places], self.images[places], self.scales[places], self.maps[places])

    def beside(self, others: MapPairs) -> MapPairs:
        """Return these pairs, and behind them others."""
        columns = ((getattr(self, name), getattr(others, name)) for name in self.__dataclass_fields__)
        return MapPairs(*(np.concatenate(both) for both in columns))


@dataclass(frozen=True, slots=True, eq=False)
class NeuronMaps:
    """The stored maps of one neuron: K images that activate it most, highest first."""

    frame: Frame
    images: np.ndarray  # [K] int64, ids
    scales: np.ndarray  # [K] float32
    maps: np.ndarray  # [K, h, w] uint8

    @property
    def peaks(self) -> np.ndarray:
        """Row and column of the largest value of each map, [K, 2]; -1 where no place fires."""
        flat = self.maps.reshape(len(self.maps), -1).argmax(1) if len(self.maps) else np.zeros(0, np.int64)
        peaks = np.stack(np.divmod(flat, self.frame.width), 1)
        peaks[self.scales == 0] = -1
        return peaks

    def of(self, image: int) -> np.ndarray | None:
        """Return the map [h, w] of an image as shares of its largest value; None if it is not stored.

        None also for gradients that are 0 everywhere, as at a neuron's ceiling: they do not tell where it looks.
        """
        levels = self.levels(image)
        tells = levels is not None and (self.frame.made == "activations" or levels.any())
        return levels.astype(np.float32) / 255 if levels is not None and tells else None

    def levels(self, image: int) -> np.ndarray | None:
        """Return the map [h, w] of an image, uint8; None if it is not stored."""
        places = np.flatnonzero(self.images == image)
        return self.maps[places[0]] if len(places) else None


def most_maps() -> int:
    """Return how many maps of a neuron are stored: of as many top images as the settings say."""
    return min(settings.MAP_IMAGES.value(), settings.TOP_IMAGES.value())


def has_maps(store: Store, target: LayerInfo) -> bool:
    """Return whether maps of a layer are stored."""
    table = column_tables.maps_table(str(target.key))
    return store.has(table) and store.count(table) > 0


def stored_frame(store: Store, target: LayerInfo) -> Frame | None:
    """Return what the stored maps of a layer share, None without maps."""
    if not has_maps(store, target):
        return None
    table = column_tables.maps_table(str(target.key))
    return _frame(target, store.take(table, [0], ["height", "width", "side"]))


def read_maps(store: Store, target: LayerInfo, neurons: Iterable[int]) -> dict[int, NeuronMaps]:
    """Return the stored maps of some neurons by number; those without are left out. StoreError for damaged rows."""
    numbers = sorted({int(neuron) for neuron in neurons})
    table = column_tables.maps_table(str(target.key))
    if not numbers or not store.has(table):
        return {}
    frame, pairs = unpacked(target, _rows_of(store, target, numbers))
    if frame is None:
        return {}
    starts = np.searchsorted(pairs.neurons, numbers, "left")
    stops = np.searchsorted(pairs.neurons, numbers, "right")
    return {
        number: NeuronMaps(frame, pairs.images[a:b], pairs.scales[a:b], pairs.maps[a:b])
        for number, a, b in zip(numbers, starts.tolist(), stops.tolist(), strict=True)
        if b > a
    }


def _rows_of(store: Store, target: LayerInfo, numbers: list[int]) -> pa.Table:
    table = column_tables.maps_table(str(target.key))
    if len(numbers) < target.neurons == store.count(table):  # a row per neuron
        rows = store.take(table, numbers, column_tables.maps_schema().names)
        if rows["neuron"].to_pylist() == numbers:
            return rows
    where = f"neuron IN ({','.join(map(str, numbers))})" if len(numbers) < target.neurons else None
    return store.read(table, where=where)


def mapped_pairs(store: Store, target: LayerInfo, *, telling: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a neuron [P] and an image [P], an id, of which maps are stored.

    Only those that tell where the neuron looks, if asked for those `telling`: see `NeuronMaps.of`. StoreError for
    damaged rows.
    """
    table = column_tables.maps_table(str(target.key))
    frame = stored_frame(store, target)
    if frame is None:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    rows = store.read(table, ["neuron", "image_ids", "scales"])
    lists, scales = (rows[name].combine_chunks() for name in ("image_ids", "scales"))
    owners, lengths = rows["neuron"].to_numpy(), [np.diff(one.offsets.to_numpy()) for one in (lists, scales)]
    if not ((owners >= 0) & (owners < target.neurons)).all():  # a null is NaN
        raise _damaged(target, "they are of neurons that the layer does not have")
    if not np.array_equal(*lengths) or lists.flatten().null_count or scales.flatten().null_count:
        raise _damaged(target, "images and scales do not fit together")
    neurons = np.repeat(owners.astype(np.int64), lengths[0])
    images = lists.flatten().to_numpy()
    if not telling or frame.made == "activations":
        return neurons, images
    tells = scales.flatten().to_numpy() > 0
    return neurons[tells], images[tells]


def neuron_maps(store: Store, target: LayerInfo, neuron: int) -> NeuronMaps | None:
    """Return the stored maps of one neuron, None without."""
    return read_maps(store, target, [neuron]).get(neuron)


def required_maps(store: Store, target: LayerInfo, neuron: int) -> NeuronMaps:
    """Return the stored maps of one neuron. NotFoundError without."""
    maps = neuron_maps(store, target, neuron)
    if maps is None:
        raise NotFoundError(
            f"no maps of {target.key}/{neuron} are stored: csp-index index DB --maps makes those of layers whose "
            f"neurons have places in the image, csp-index maps DB --layer {target.key} --neurons {neuron} any"
        )
    return maps


def map_blocks(store: Store, target: LayerInfo) -> Iterator[tuple[np.ndarray, Frame | None, MapPairs]]:
    """Yield all stored maps of a layer in blocks of neurons: their numbers, what the maps share, the maps."""
    table = column_tables.maps_table(str(target.key))
    for start in range(0, target.neurons, _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, target.neurons))
        where = f"neuron >= {numbers[0]} AND neuron <= {numbers[-1]}"
        yield numbers, *unpacked(target, store.read(table, where=where))


def maps_digests(store: Store, target: LayerInfo, neurons: Sequence[int]) -> dict[int, str]:
    """Return a digest of where the stored maps of each neuron look, by number; those without maps are left out.

    Scales are not in it: those of maps made again on another device may differ in their last digits. StoreError for
    damaged rows.
    """
    digests = {}
    for start in range(0, len(neurons), _AT_ONCE):
        for number, maps in read_maps(store, target, neurons[start : start + _AT_ONCE]).items():
            digest = hashlib.sha256(f"{maps.frame} {len(maps.images)} ".encode())
            for column in (maps.images, maps.maps):
                digest.update(np.ascontiguousarray(column).data)
            digests[number] = digest.hexdigest()[:16]
    return digests


def packed(frame: Frame, pairs: MapPairs, neurons: np.ndarray, first_image: int, images: int) -> pa.Table:
    """Return table rows for `neurons` (sorted) with maps of images among `images` from `first_image` on."""
    count = len(neurons)
    ends = pa.array(np.searchsorted(pairs.neurons, [*neurons, np.iinfo(np.int64).max]).astype(np.int32))
    fires = pairs.scales > 0
    filled = np.searchsorted(pairs.neurons[fires], [*neurons, np.iinfo(np.int64).max])
    offsets = (filled * frame.height * frame.width).astype(np.int32)
    content = pa.py_buffer(np.ascontiguousarray(pairs.maps[fires]))
    columns = {
        "neuron": pa.array(neurons.astype(np.int32)),
        "first_image": pa.array(np.full(count, first_image, np.int64)),
        "images": pa.array(np.full(count, images, np.int64)),
        "height": pa.array(np.full(count, frame.height, np.int16)),
        "width": pa.array(np.full(count, frame.width, np.int16)),
        "side": pa.array([frame.side] * count, pa.float32()),
        "image_ids": pa.ListArray.from_arrays(ends, pa.array(pairs.images)),
        "scales": pa.ListArray.from_arrays(ends, pa.array(pairs.scales)),
        "maps": pa.BinaryArray.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), content]),
    }
    return pa.table(columns, schema=schema_of_maps(frame))


def schema_of_maps(frame: Frame) -> pa.Schema:
    """Return the schema of a table of maps, which says how they are made."""
    schema = column_tables.maps_schema()
    return schema if frame.made == "activations" else schema.with_metadata({_MADE: frame.made.encode()})


def ranked_pairs(pairs: MapPairs, numbers: np.ndarray, top: np.ndarray) -> MapPairs:
    """Return the pairs of `numbers` that are in `top` [n, K], in its order; of equal ones the first."""
    span = 1 + max(int(top.max(initial=0)), int(pairs.images.max(initial=0)))
    known = pairs.neurons * span + pairs.images
    order = np.argsort(known, kind="stable")
    wanted = (numbers[:, None] * span + top).reshape(-1)
    places = np.searchsorted(known, wanted, sorter=order)
    found = places < len(known)
    found[found] = known[order[places[found]]] == wanted[found]
    return pairs.take(order[places[found]])


def unpacked(target: LayerInfo, rows: pa.Table) -> tuple[Frame | None, MapPairs]:
    """Return what the maps of rows share, None without rows, and the maps, sorted by neuron; StoreError if damaged."""
    if not rows.num_rows:
        none = np.zeros(0, np.int64)
        return None, MapPairs(none, none, np.zeros(0, np.float32), np.zeros((0, 1, 1), np.uint8))
    rows = rows.take(pa.array(np.argsort(rows["neuron"].to_numpy(), kind="stable"))).combine_chunks()
    frame = _frame(target, rows)
    lists = [rows[name].combine_chunks() for name in ("image_ids", "scales")]
    lengths = [np.diff(one.offsets.to_numpy()) for one in lists]
    images, scales = (one.flatten().to_numpy(zero_copy_only=False) for one in lists)
    content = rows["maps"].to_pylist()
    if not np.array_equal(*lengths) or rows["maps"].null_count or not _are_scales(scales):
        raise _damaged(target, "images, scales and maps do not fit together")
    fires, place_count = scales > 0, frame.height * frame.width
    owners = np.repeat(np.arange(rows.num_rows), lengths[0])
    expected = np.bincount(owners[fires], minlength=rows.num_rows) * place_count
    if not np.array_equal(expected, [len(one) for one in content]):
        raise _damaged(target, f"maps are not of {frame.height} x {frame.width} bytes")
    maps = np.zeros((len(scales), frame.height, frame.width), np.uint8)
    maps[fires] = np.frombuffer(b"".join(content), np.uint8).reshape(-1, frame.height, frame.width)
    neurons = np.repeat(rows["neuron"].to_numpy().astype(np.int64), lengths[0])
    return frame, MapPairs(neurons, images.astype(np.int64), scales.astype(np.float32), maps)


def _are_scales(scales: np.ndarray) -> bool:
    return bool(np.isfinite(scales).all() and (scales >= 0).all())


def _frame(target: LayerInfo, rows: pa.Table) -> Frame:
    shared = {tuple(row.values()) for row in rows.select(["height", "width", "side"]).to_pylist()}
    if len(shared) != 1:
        raise _damaged(target, "they differ in size")
    height, width, side = shared.pop()
    if not all(isinstance(length, int) and 0 < length <= MOST_SIDE for length in (height, width)):
        raise _damaged(target, f"they have {height} x {width} places")
    if side is not None and not -10 <= side <= 10:
        raise _damaged(target, f"they cover {abs(side)} times the side of a picture")
    made = (rows.schema.metadata or {}).get(_MADE, b"activations").decode(errors="replace")
    for known in get_args(Made):
        if made == known:
            return Frame(height, width, side, known)
    raise _damaged(target, f"they are made by {made[:40]!r}")


def _damaged(target: LayerInfo, what: str) -> StoreError:
    table = column_tables.maps_table(str(target.key))
    return StoreError(
        f"the activation maps of {target.key} in the table {table} are damaged ({what}): make them again by "
        "`csp-index index DB --maps`"
    )
