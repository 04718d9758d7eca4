"""The neurons that a query leaves as a file: CSV, JSON or Parquet, one row a neuron."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pyarrow as pa

from csp_index.query.results import SqlResult, encode_result
from csp_index.service.documents.layer import GalleryQuery, ordered
from csp_index.service.documents.studies.effects import peaks
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.records import LayerKey
    from csp_index.service.live.engine import Engine

Format = Literal["csv", "json", "parquet"]

FORMATS: Final[dict[Format, str]] = {
    "csv": "text/csv",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}
"""The kinds of file, with their media types."""

PLAIN_NAME: Final = {code: "_" for code in range(128) if chr(code) not in f"{string.ascii_letters}{string.digits}-."}
"""What becomes of the characters of a layer in the name of a file, for `str.translate`."""


def rows_as_file(snapshot: Snapshot, engine: Engine, key: LayerKey, query: GalleryQuery, format: Format) -> bytes:
    """Return the neurons of a query, all pages of it and in its order, as the bytes of a file."""
    return encode_result(SqlResult(rows_table(snapshot, engine, key, query)), format)


def rows_table(snapshot: Snapshot, engine: Engine, key: LayerKey, query: GalleryQuery) -> pa.Table:
    """Return the neurons of a query as a table: label, score and so on; null where a neuron has none."""
    table = snapshot.layer(key)
    numbers = ordered(snapshot, engine, table, query)
    labels = table.labels(query.method)
    effect, on, effects = peaks(snapshot, table)
    columns: dict[str, pa.Array] = {
        "neuron": pa.array([f"{key}/{number}" for number in numbers.tolist()], pa.string()),
        "index": pa.array(numbers.astype(np.int64)),
    }
    if labels is not None:
        columns |= {
            "label": pa.array(labels.texts[numbers], pa.string(), from_pandas=True),
            "method": pa.array([name or None for name in labels.methods[numbers]], pa.string()),
            "state": pa.array(labels.states[numbers], pa.string()),
            "score": _numbers(labels.scores[numbers]),
            "lead": _numbers(labels.leads[numbers]),
            "confidence": _numbers(labels.confidences[numbers]),
            "probability": _numbers(labels.probabilities[numbers]),
            "uncertain": pa.array([None if one < 0 else bool(one) for one in labels.uncertain[numbers]], pa.bool_()),
        }
    columns |= {
        "firing_rate": _numbers(table.firing_rates[numbers]),
        "max": _numbers(table.maxima[numbers]),
        "dead": pa.array(table.dead[numbers]),
    }
    if effects is not None:
        names = [str(effects.classes[place]) if place >= 0 else None for place in on[numbers].tolist()]
        columns |= {"effect": _numbers(effect[numbers]), "effect_on": pa.array(names, pa.string())}
    return pa.table(columns)


def _numbers(values: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)
