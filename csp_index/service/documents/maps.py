"""Where in its images a neuron fires: its maps, stored or made now, as a document and as veils to lay over pictures.

Loads no torch. A veil is as a picture's thumbnail is shaped: the less a place fires, the more the veil hides it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.concurrency import go_on
from csp_index.errors import NotFoundError, SourceError
from csp_index.images.veils import Box, encoded, veil_over
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.map_shapes import ComputedMap, ComputedMapsDocument, ImageMap, MapsDocument
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.store import schema
from csp_index.store.values.activation_maps import (
    Made,
    NeuronMaps,
    mapped_pairs,
    required_maps,
    stored_frame,
)

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

VEIL_SIDE: Final = 96  # pixels of a veil's longer side
MOST_COMPUTED: Final = 16
"""Images in which one request asks where a neuron looks, at most."""

_SIZE: Final = ("width", "height")
_UNSIZED: Final = "width IS NULL OR height IS NULL OR width < 1 OR height < 1"


@dataclass(frozen=True, slots=True)
class PlacedMaps:
    """Which maps of a layer can be laid over their pictures, and how they were `made`.

    Of the `neurons` [M] that have maps: of the first `count` top images all but the `lacking`. Of these no map is
    stored, as where the picture could not be opened, or the size is unknown.
    """

    count: int = 0
    lacking: frozenset[tuple[int, int]] = frozenset()  # (neuron, image)
    neurons: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    made: Made = "activations"

    def of(self, neuron: int, top_images: Iterable[int]) -> list[int]:
        """Return which of a neuron's top images, all or the first of them, have a map that can be laid over them."""
        return [image for rank, image in enumerate(top_images) if self.has(neuron, rank, image)]

    def has(self, neuron: int, rank: int, image: int) -> bool:
        """Return whether a neuron has a map that can be laid over one of its top images."""
        return rank < self.count and bool(self.neurons[neuron]) and (neuron, image) not in self.lacking


def placed_maps(snapshot: Snapshot, layer: LayerKey) -> PlacedMaps:
    """Return which maps of a layer can be laid over pictures; none where it is unknown what these cover of a picture.

    Raises NotFoundError for a layer that is not finished.
    """
    table = snapshot.layer(layer)
    key, size = ("maps of", layer), _size_of_placed
    return snapshot.cache.get(key, lambda: _placed(snapshot, table), size)


def _placed(snapshot: Snapshot, table: LayerTable) -> PlacedMaps:
    frame = stored_frame(snapshot.store, table.info)
    if frame is None or frame.side is None:
        return PlacedMaps()
    stored, _ = mapped_pairs(snapshot.store, table.info)
    owners, ids = mapped_pairs(snapshot.store, table.info, telling=True)
    unsized = snapshot.store.read(schema.IMAGES, ["image_id"], _UNSIZED)["image_id"].to_numpy()
    having = np.bincount(owners, minlength=table.info.neurons) > 0
    known = (owners * snapshot.images + ids)[~np.isin(ids, unsized)]
    count = int(np.bincount(stored, minlength=1).max())
    top = table.lists("top_images")[:, :count]
    numbers = np.arange(len(top))[:, None] * snapshot.images + top
    neurons, ranks = np.nonzero(~np.isin(numbers, known) & having[:, None])
    lacking = frozenset(zip(neurons.tolist(), top[neurons, ranks].tolist(), strict=True))
    return PlacedMaps(count, lacking, having, frame.made)


def _size_of_placed(placed: PlacedMaps) -> int:
    return 100 * (1 + len(placed.lacking)) + placed.neurons.nbytes


def maps_document(snapshot: Snapshot, key: NeuronKey) -> MapsDocument:
    """Return the stored maps of a neuron. NotFoundError where there are none."""
    maps = _maps_of(snapshot, key)
    rows = [row for row, _ in _rows(snapshot, maps)]
    frame = maps.frame
    return {"neuron": str(key), "made": frame.made, "height": frame.height, "width": frame.width, "images": rows}


def computed_maps_document(
    snapshot: Snapshot, engine: Engine, key: NeuronKey, images: Sequence[int] | None, check: Callable[[], None] = go_on
) -> ComputedMapsDocument:
    """Return maps of a neuron on images, by default its first top ones, made by its network now; see `LiveModels.look`.

    Errors: NotFoundError for an unknown neuron or image; BusyError while models load; ModelError, SourceError.
    """
    table = snapshot.neuron(key)
    for image in images or ():
        snapshot.check_image(image)
    if images is None:
        images = table.statistics_of(key.neuron)["top_images"][:MOST_COMPUTED]
    opened = [image for image in dict.fromkeys(images) if can_open(snapshot, image)]
    if not opened:
        raise SourceError("these pictures may not be opened here: they came from memory, or from a folder nobody named")
    maps = engine.models().look(key, opened, check)
    rows: list[ComputedMap] = []
    for row, size in _rows(snapshot, maps):
        heat, box = maps.of(row["image_id"]), row["box"]
        drawn = None if heat is None or box is None else b64encode(veil(heat, box, size)).decode()
        rows.append({**row, "veil": drawn and f"data:image/png;base64,{drawn}"})
    frame = maps.frame
    return {"neuron": str(key), "made": frame.made, "height": frame.height, "width": frame.width, "images": rows}


def _rows(snapshot: Snapshot, maps: NeuronMaps) -> Iterator[tuple[ImageMap, tuple[int, int]]]:
    """Yield each map as a document has it, with the size of its picture."""
    ids = maps.images.tolist()
    stored, names = snapshot.image_rows(ids, _SIZE), snapshot.names(ids)
    for image, scale, levels, peak in zip(ids, maps.scales.tolist(), maps.maps, maps.peaks.tolist(), strict=True):
        size = _size_of(stored.get(image))
        row: ImageMap = {
            "image_id": image,
            "name": names.get(image, ""),
            "scale": scale,
            "peak": (peak[0], peak[1]) if scale else None,
            "box": maps.frame.box(size),
            "map": b64encode(levels.tobytes()).decode(),
        }
        yield row, size


def map_veil(snapshot: Snapshot, key: NeuronKey, image_id: int) -> bytes:
    """Return the veil of a neuron over one of its images, as PNG. NotFoundError where no map of it is stored."""
    maps = _maps_of(snapshot, key)
    heat = maps.of(image_id)
    size = _size_of(snapshot.image_rows([image_id], _SIZE).get(image_id))
    box = maps.frame.box(size)
    if heat is None or box is None:
        why = "its place on the picture is unknown" if heat is not None else "it is not among those stored"
        raise NotFoundError(f"neuron {key} has no map on image {image_id}: {why}")
    return veil(heat, box, size)


def veil(heat: np.ndarray, box: Box, size: tuple[int, int]) -> bytes:
    """Return a veil as PNG, shaped as a picture of `size`; `heat` [h, w] in [0, 1] covers its part `box`."""
    scale = VEIL_SIDE / max(size)
    return encoded(veil_over(heat, box, (max(1, round(scale * size[0])), max(1, round(scale * size[1])))))


def can_open(snapshot: Snapshot, image_id: int) -> bool:
    """Return whether the file of an image may be opened here; whether it is still there is seen once it is."""
    row = snapshot.image_rows([image_id], ("uri", "sha256"))[image_id]
    return bool(row["sha256"]) and snapshot.image_roots.allow(row["uri"])  # without a hash it came from memory


def _size_of(row: dict[str, object] | None) -> tuple[int, int]:
    """Return a picture's width and height, (0, 0) where the index does not know them."""
    width, height = (row[name] for name in _SIZE) if row else (None, None)
    return (width, height) if isinstance(width, int) and isinstance(height, int) else (0, 0)


def _maps_of(snapshot: Snapshot, key: NeuronKey) -> NeuronMaps:
    table = snapshot.neuron(key)
    return snapshot.cache.get(
        ("maps", key),
        lambda: required_maps(snapshot.store, table.info, key.neuron),
        lambda made: 1000 + made.maps.nbytes + 12 * len(made.images),
    )
