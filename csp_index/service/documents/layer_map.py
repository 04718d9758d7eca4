"""The neurons of a layer on a plane: the two directions in which their concept vectors differ most.

Neurons without a concept vector are left out. A plane depends on the layer alone (`query.planes`); the values that
color its points are looked up on each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.errors import SettingError
from csp_index.query.planes import Plane, plane_of
from csp_index.records import LayerKey
from csp_index.service.documents.layer import column
from csp_index.service.documents.shapes import MapDocument
from csp_index.service.layer_table import LayerTable, finite
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

COLOURS: Final = ("score", "lead", "confidence", "probability", "firing_rate", "clarity", "max", "index")
"""Columns that can color a map."""


def layer_map(
    snapshot: Snapshot, engine: Engine, key: LayerKey, colour: str = "score", method: str | None = None
) -> MapDocument:
    """Return the map of a layer, its points colored by a column of `COLOURS`. Raises SettingError for other columns."""
    if colour not in COLOURS:
        raise SettingError(f"colour is {colour!r}: expected {', '.join(COLOURS)}")
    table = snapshot.layer(key)
    labels = table.labels(method)
    plane = snapshot.cache.get(("plane", key), lambda: _plane(engine, table), lambda plane: plane.nbytes)
    values = column(snapshot, engine, table, colour, method)[plane.neurons]
    known = values[np.isfinite(values)]
    drawn = len(plane.neurons)
    texts = [None] * drawn if labels is None else labels.texts[plane.neurons].tolist()
    columns = (plane.neurons.tolist(), *plane.places.T.tolist(), values.tolist(), texts)
    return {
        "layer": str(key),
        "method": None if labels is None else labels.method,
        "points": [
            {"index": index, "x": x, "y": y, "value": finite(value), "label": text}
            for index, x, y, value, text in zip(*columns, strict=True)
        ],
        "colour": colour,
        "low": float(known.min()) if len(known) else None,
        "high": float(known.max()) if len(known) else None,
        "explained": list(plane.explained),
        "note": f"{drawn:,} of {plane.total:,} neurons are drawn" if drawn < plane.total else "",
    }


def _plane(engine: Engine, table: LayerTable) -> Plane:
    concepts = engine.concepts(table.info.key)
    return plane_of(concepts.vectors, concepts.alive & ~table.dead)
