"""What the outputs of a classifier are called: names that came with its weights, no labels from evidence."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.catalog import of_layer
from csp_index.store.tables import Store


def store_class_names(store: Store, key: LayerKey, names: Sequence[str], run_id: str) -> None:
    """Store the names of a layer's neurons, in their order, unless they are stored; an empty one is left out."""
    named = {neuron: name for neuron, name in enumerate(names) if name}
    known = class_names(store, key)
    if not named or known == named:
        return
    if known:
        store.delete(schema.CLASS_NAMES, of_layer(key))
    rows = [
        {"model": key.model, "layer": key.layer, "neuron": neuron, "class_name": name, "run_id": run_id}
        for neuron, name in named.items()
    ]
    store.append(schema.CLASS_NAMES, pa.Table.from_pylist(rows, schema=schema.table_schema(schema.CLASS_NAMES)))


def class_names(store: Store, key: LayerKey) -> dict[int, str]:
    """Return what a layer's neurons are called, by their numbers; empty where its network names no classes."""

    def read() -> dict[int, str]:
        rows = store.read(schema.CLASS_NAMES, ["neuron", "class_name"], of_layer(key))
        return dict(zip(rows["neuron"].to_pylist(), rows["class_name"].to_pylist(), strict=True))

    return store.memo(schema.CLASS_NAMES, ("class names", key), read)
