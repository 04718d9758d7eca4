"""Where in its images a neuron fires: its stored activation maps, as a document and as veils to lay over pictures.

Loads no torch. A veil is as a picture's thumbnail is shaped: the less a place fires, the more the veil hides it.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

import numpy as np

from csp_index.errors import NotFoundError
from csp_index.images.veils import Box, encoded, veil_over
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.map_shapes import MapsDocument
from csp_index.service.snapshot import Snapshot
from csp_index.store.catalog import LayerInfo
from csp_index.store.values.activation_maps import NeuronMaps, maps_per_neuron, required_maps

VEIL_SIDE: Final = 96  # pixels of a veil's longer side
_SIZE: Final = ("width", "height")


def maps_kept(snapshot: Snapshot, layer: LayerKey) -> int:
    """Return of how many top images of each neuron maps are stored, 0 without maps of the layer."""
    info: LayerInfo = snapshot.layer(layer).info
    return snapshot.cache.get(("maps of", layer), lambda: maps_per_neuron(snapshot.store, info), lambda count: 100)


def mapped_images(snapshot: Snapshot, key: NeuronKey, top_images: list[int]) -> list[int]:
    """Return which of a neuron's top images have a map, highest activation first; none without maps of the layer."""
    return top_images[: maps_kept(snapshot, key.layer_key)]


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
