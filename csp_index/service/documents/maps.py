"""Where in its images a neuron fires: its stored activation maps, as a document and as veils to lay over pictures.

Loads no torch. A veil is as a picture's thumbnail is shaped: the less a place fires, the more the veil hides it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.errors import NotFoundError
from csp_index.images.veils import Box, encoded, veil_over
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.map_shapes import MapsDocument
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.store import schema
from csp_index.store.values.activation_maps import NeuronMaps, mapped_pairs, required_maps, stored_frame

VEIL_SIDE: Final = 96  # pixels of a veil's longer side
_SIZE: Final = ("width", "height")
_UNSIZED: Final = "width IS NULL OR height IS NULL OR width < 1 OR height < 1"


@dataclass(frozen=True, slots=True)
class PlacedMaps:
    """Which maps of a layer can be laid over their pictures: of the first `count` top images all but the `lacking`.

    Of these no map is stored, as where the picture could not be opened, or the size is unknown.
    """

    count: int = 0
    lacking: frozenset[tuple[int, int]] = frozenset()  # (neuron, image)

    def of(self, neuron: int, top_images: Iterable[int]) -> list[int]:
        """Return which of a neuron's top images, all or the first of them, have a map that can be laid over them."""
        return [image for image in list(top_images)[: self.count] if (neuron, image) not in self.lacking]


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
    owners, ids = mapped_pairs(snapshot.store, table.info)
    unsized = snapshot.store.read(schema.IMAGES, ["image_id"], _UNSIZED)["image_id"].to_numpy()
    known = (owners * snapshot.images + ids)[~np.isin(ids, unsized)]
    count = int(np.bincount(owners, minlength=1).max())
    top = table.lists("top_images")[:, :count]
    numbers = np.arange(len(top))[:, None] * snapshot.images + top
    neurons, ranks = np.nonzero(~np.isin(numbers, known))
    return PlacedMaps(count, frozenset(zip(neurons.tolist(), top[neurons, ranks].tolist(), strict=True)))


def _size_of_placed(placed: PlacedMaps) -> int:
    return 100 * (1 + len(placed.lacking))


def maps_document(snapshot: Snapshot, key: NeuronKey) -> MapsDocument:
    """Return the stored maps of a neuron. NotFoundError where there are none."""
    maps = _maps_of(snapshot, key)
    sizes = snapshot.image_rows(maps.images.tolist(), _SIZE)
    names = snapshot.names(maps.images.tolist())
    rows = zip(maps.images.tolist(), maps.scales.tolist(), maps.maps, maps.peaks.tolist(), strict=True)
    return {
        "neuron": str(key),
        "height": maps.frame.height,
        "width": maps.frame.width,
        "images": [
            {
                "image_id": image,
                "name": names.get(image, ""),
                "scale": scale,
                "peak": (peak[0], peak[1]) if scale else None,
                "box": maps.frame.box(_size_of(sizes.get(image))),
                "map": b64encode(levels.tobytes()).decode(),
            }
            for image, scale, levels, peak in rows
        ],
    }


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
