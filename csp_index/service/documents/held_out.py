"""What `csp-index evaluate` stored about a neuron's label on images that did not choose it.

Figures of a layer are read once, by its newest evaluation that judged the method. Does not load torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.evaluation.metrics.families import FAMILIES
from csp_index.evaluation.metrics.table import HEADLINES, METRICS, NEURON_HEADLINES
from csp_index.records import NeuronKey
from csp_index.service.documents.neuron_shapes import FigureRow, HeldOut
from csp_index.service.documents.verdict import below
from csp_index.service.layer_table import finite
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo

_COLUMNS: Final = ["run_id", "neuron", "text", "metric", "value", "note"]
_FIRST: Final = frozenset({*HEADLINES, *NEURON_HEADLINES})


@dataclass(frozen=True, slots=True)
class LayerFigures:
    """The figures of M neurons by one evaluation: `values` [figures, M], NaN where there is none; `notes` say why."""

    run_id: str
    metrics: tuple[str, ...]
    values: np.ndarray
    notes: dict[tuple[int, int], str]  # by figure and neuron
    texts: np.ndarray  # [M], the label that was judged, or None

    @property
    def nbytes(self) -> int:
        """About how much memory this takes."""
        return 1000 + self.values.nbytes + 100 * (len(self.notes) + len(self.texts))


def held_out(snapshot: Snapshot, key: NeuronKey, method: str | None) -> HeldOut | None:
    """Return the figures of a neuron's label by a method, and of the neuron itself; None where nobody evaluated it."""
    info = snapshot.info(key.layer_key)
    figures = snapshot.cache.get(
        ("held out", key.layer_key, method),
        lambda: _read(snapshot, info, method),
        lambda figures: 100 if figures is None else figures.nbytes,
    )
    return None if figures is None else _of(figures, key.neuron)


def _of(figures: LayerFigures, neuron: int) -> HeldOut | None:
    rows = [_row(figures, place, neuron) for place in range(len(figures.metrics))]
    known = [row for row in rows if row["value"] is not None or row["note"]]
    order = {name: place for place, name in enumerate(METRICS)}
    known.sort(key=lambda row: (not row["first"], order.get(row["metric"], len(order)), row["metric"]))
    return {"run_id": figures.run_id, "text": figures.texts[neuron], "figures": known} if known else None


def _row(figures: LayerFigures, place: int, neuron: int) -> FigureRow:
    name, values = figures.metrics[place], figures.values[place]
    metric, value = METRICS.get(name), finite(float(values[neuron]))
    return {
        "metric": name,
        "family": FAMILIES[metric.family].title if metric else "",
        "summary": metric.summary if metric else "",
        "first": name in _FIRST,
        "value": value,
        "low": metric.low if metric else None,
        "high": metric.high if metric else None,
        "higher_is_better": metric.higher_is_better if metric else None,
        "above_layer": below(values, value),
        "note": figures.notes.get((place, neuron), ""),
    }


def _read(snapshot: Snapshot, info: LayerInfo, method: str | None) -> LayerFigures | None:
    """Read the newest evaluation of a layer that judged a method; without a method that of the neurons themselves."""
    names = [catalog.sql_text(name) for name in ("", method) if name is not None]
    where = f"{catalog.layer_filter(info)} AND method IN ({', '.join(names)})"
    rows = snapshot.store.read(schema.EVALUATIONS, [*_COLUMNS, "method"], where)
    judged = rows if method is None else rows.filter(pc.equal(rows["method"], method))
    if not judged.num_rows:
        return None
    run_id = str(pc.max(judged["run_id"]).as_py())
    return _figures(rows.filter(pc.equal(rows["run_id"], run_id)), run_id, info.neurons)


def _figures(rows: pa.Table, run_id: str, neurons: int) -> LayerFigures:
    metrics = tuple(sorted(rows["metric"].unique().to_pylist()))
    place = pc.index_in(rows["metric"], pa.array(metrics, pa.string())).to_numpy()
    neuron = rows["neuron"].to_numpy()
    values = np.full((len(metrics), neurons), np.nan)
    values[place, neuron] = rows["value"].to_numpy()
    texts = np.full(neurons, None, dtype=object)
    for at, text in _known(rows, "text"):
        texts[neuron[at]] = text
    notes = {(int(place[at]), int(neuron[at])): note for at, note in _known(rows, "note")}
    return LayerFigures(run_id, metrics, values, notes, texts)


def _known(rows: pa.Table, column: str) -> Sequence[tuple[int, Any]]:
    return [(at, value) for at, value in enumerate(rows[column].to_pylist()) if value]
