"""The probabilities that labels are right, as the store holds them: a row for a label, by its run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.catalog import of_layer
from csp_index.store.tables import Store


def probability_rows(
    key: LayerKey, neurons: np.ndarray, probability: np.ndarray, *, method: str, run_id: str, settings_hash: str
) -> pa.Table:
    """Return the rows of the `neurons` [M] whose label has a `probability` [M], NaN where it has none."""
    known = ~np.isnan(probability)
    size = int(known.sum())
    columns = {
        "run_id": pa.array([run_id] * size, pa.string()),
        "settings_hash": pa.array([settings_hash] * size, pa.string()),
        "model": pa.array([key.model] * size, pa.string()),
        "layer": pa.array([key.layer] * size, pa.string()),
        "neuron": pa.array(neurons[known].astype(np.int32)),
        "method": pa.array([method] * size, pa.string()),
        "probability": pa.array(probability[known].astype(np.float64)),
    }
    return pa.table(columns, schema=schema.table_schema(schema.LABEL_PROBABILITIES))


def read_probabilities(store: Store, key: LayerKey) -> Mapping[tuple[str, int], float]:
    """Return the probabilities of a layer's labels by run and neuron; none in an index that never stored any."""

    def read() -> dict[tuple[str, int], float]:
        where = of_layer(key)
        rows = store.read(schema.LABEL_PROBABILITIES, ["run_id", "neuron", "probability"], where)
        columns = (rows[name].to_pylist() for name in ("run_id", "neuron", "probability"))
        return {(run_id, neuron): value for run_id, neuron, value in zip(*columns, strict=True)}

    return store.memo(schema.LABEL_PROBABILITIES, ("probabilities", key), read)
