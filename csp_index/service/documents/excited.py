"""Neurons that a picture excites: how strongly among the indexed images, where in the picture, which class they push.

Neurons with a label come first, in each part the most extreme ones. Loads no torch.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from csp_index.records import NeuronKey
from csp_index.service.documents.map_shapes import PictureMap
from csp_index.service.documents.maps import placed_maps
from csp_index.service.documents.shapes import ExcitedRow, Push
from csp_index.service.documents.studies.effects import stored_effects
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.service.live.queries import Excited, Heat

OWN_SIDE: Final = 256  # pixels of the longer side of a picture that was sent, as it is shown


def rows_of_picture(snapshot: Snapshot, excited: Iterable[Excited]) -> list[ExcitedRow]:
    """Return the rows of neurons that a picture of the user's own excites."""
    rows = [
        _row(snapshot, NeuronKey.parse(one.neuron), one.activation, one.quantile, where=_where(one.heat))
        for one in excited
    ]
    return _labelled_first(rows)


def rows_of_image(
    snapshot: Snapshot, image_id: int, found: Iterable[tuple[NeuronKey, int, float, float]]
) -> list[ExcitedRow]:
    """Return the rows of neurons that an indexed image excites: (neuron, rank of the image, activation, quantile)."""
    rows = [
        _row(snapshot, key, activation, quantile, mapped=_is_mapped(snapshot, key, image_id, rank))
        for key, rank, activation, quantile in found
    ]
    return _labelled_first(rows)


def _is_mapped(snapshot: Snapshot, key: NeuronKey, image_id: int, rank: int) -> bool:
    return placed_maps(snapshot, key.layer_key).has(key.neuron, rank, image_id)


def _row(
    snapshot: Snapshot,
    key: NeuronKey,
    activation: float,
    quantile: float | None,
    *,
    mapped: bool = False,
    where: PictureMap | None = None,
) -> ExcitedRow:
    return {
        **snapshot.neuron_row(key),
        "activation": activation,
        "quantile": quantile,
        "pushes": pushed_class(snapshot, key),
        "mapped": mapped,
        "where": where,
    }


def _labelled_first(rows: list[ExcitedRow]) -> list[ExcitedRow]:
    return sorted(rows, key=lambda row: row["label"] is None)


def pushed_class(snapshot: Snapshot, key: NeuronKey) -> Push | None:
    """Return the class whose logit a neuron raises most, by the newest stored effects; None where none is known."""
    effects = stored_effects(snapshot, key.layer_key)
    place = None if effects is None else effects.place(key.neuron)
    if effects is None or place is None:
        return None
    values = np.nan_to_num(effects.effects[place], nan=-np.inf)
    best = int(values.argmax())
    if not values[best] > 0:
        return None
    return {"class_name": str(effects.classes[best]), "effect": float(values[best])}


def _where(heat: Heat | None) -> PictureMap | None:
    if heat is None:
        return None
    height, width = heat.levels.shape
    levels = b64encode(heat.levels.tobytes()).decode()
    return {"height": height, "width": width, "scale": heat.scale, "box": heat.box, "map": levels}


def own_picture(picture: Image.Image) -> dict[str, Any]:
    """Return a small copy of a picture that was sent, as pages show it without keeping it: its address and size."""
    small = picture.convert("RGB")
    small.thumbnail((OWN_SIDE, OWN_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return {"address": f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}", "size": small.size}
