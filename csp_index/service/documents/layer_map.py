"""The neurons of a layer on a plane: the two directions in which their concept vectors differ most.

Principal components by NumPy, exact and the same at every call. Neurons without a concept vector are left out. A plane
depends on the layer alone; the values that color its points are looked up on each request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.errors import SettingError
from csp_index.records import LayerKey
from csp_index.service.documents.layer import column
from csp_index.service.documents.shapes import MapDocument
from csp_index.service.layer_table import LayerTable, finite
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

COLOURS: Final = ("score", "lead", "confidence", "probability", "firing_rate", "clarity", "max", "index")
"""Columns that can color a map."""
POINTS: Final = 20_000
"""The most neurons on a map; of a larger layer the map shows this many, spread evenly over its numbers."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Where P of `total` neurons lie: their numbers [P] and places [P, 2] in [0, 1], each axis's share of variance."""

    neurons: np.ndarray
    places: np.ndarray
    explained: tuple[float, float]
    total: int

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return self.neurons.nbytes + self.places.nbytes


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


def plane_of(vectors: np.ndarray, alive: np.ndarray) -> Plane:
    """Return the plane of those neurons `alive` [M] that have a vector [M, D]; the longer axis fills [0, 1]."""
    neurons = np.flatnonzero(alive & vectors.any(axis=1))
    total = len(neurons)
    if total > POINTS:
        neurons = neurons[np.linspace(0, len(neurons) - 1, POINTS).astype(np.int64)]
    rows = vectors[neurons].astype(np.float32)
    rows -= rows.mean(0, dtype=np.float64).astype(np.float32) if len(rows) else 0
    places, explained = _leading(rows)
    if not len(rows):
        return Plane(neurons, places, explained, total)
    low, high = places.min(0), places.max(0)
    span = float((high - low).max()) or 1.0
    scaled = 0.5 + (places - (low + high) / 2) / span
    return Plane(neurons, scaled.clip(0, 1).astype(np.float32), explained, total)


def _leading(rows: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return centered rows [P, D] along their two leading directions, [P, 2], and these directions' share of variance.

    A direction's largest entry is positive, which decides between the two opposite ones.
    """
    count, width = rows.shape
    total = float(np.square(rows, dtype=np.float64).sum())
    places, shares = np.zeros((count, 2)), [0.0, 0.0]
    if total <= count * 1e-12:  # only rounding errors of unit vectors
        return places, (0.0, 0.0)
    products = rows.T @ rows if width <= count else rows @ rows.T
    values, directions = np.linalg.eigh(products.astype(np.float64))
    for axis in range(min(2, len(values))):
        value, direction = float(values[-1 - axis]), directions[:, -1 - axis]
        if value <= total * 1e-6:
            continue
        if width > count:
            direction = direction @ rows
        direction = direction / np.linalg.norm(direction) * np.sign(direction[np.abs(direction).argmax()])
        places[:, axis], shares[axis] = rows @ direction, value / total
    return places, (shares[0], shares[1])


def _plane(engine: Engine, table: LayerTable) -> Plane:
    concepts = engine.models().concepts(table.info.key)
    return plane_of(concepts.vectors, concepts.alive & ~table.dead)
