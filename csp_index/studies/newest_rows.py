"""Rows of a study of neurons: stored block by block, read again as those of one settings hash. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from csp_index.records import LayerKey, Progress
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

_NAMED = 2_000  # neurons in a condition; of more, all rows of the layer are read


def store_blocks(
    store: Store,
    table: str,
    target: LayerInfo,
    blocks: Iterable[tuple[np.ndarray, pa.Table]],
    done: int,
    total: int,
    tell: Progress,
) -> None:
    """Store the rows of neurons block by block, in place of those they had; `done` of `total` have them.

    A run that is interrupted keeps the blocks that it stored.
    """
    tell(done, total, "neurons")
    for neurons, rows in blocks:
        numbers = ",".join(map(str, neurons.tolist()))
        store.delete(table, f"{catalog.layer_filter(target)} AND neuron IN ({numbers})")
        store.append(table, rows)
        store.checkpoint()
        done += len(neurons)
        tell(done, total, "neurons")


def newest_rows(
    store: Store, table: str, layer: LayerKey, neurons: Iterable[int] | None = None, settings_hash: str | None = None
) -> pa.Table | None:
    """Return the rows of a layer's neurons (default all that have some), by neuron; None if there are none.

    They have this settings hash, by default that of the newest run that wrote rows of the layer, or of these neurons:
    all of one kind, so that they can be compared.
    """
    own = catalog.of_layer(layer)
    selected = None if neurons is None else sorted(set(neurons))
    if selected is not None and len(selected) <= _NAMED:
        own += f" AND neuron IN ({','.join(map(str, selected))})" if selected else " AND false"
    if settings_hash is None:
        heads = store.read(table, ["run_id", "settings_hash"], own)
        if not heads.num_rows:
            return None
        pairs = zip(heads["run_id"].to_pylist(), heads["settings_hash"].to_pylist(), strict=True)
        settings_hash = max(pairs)[1]
    same = f" AND settings_hash = {catalog.sql_text(settings_hash)}"
    rows = store.read(table, where=own + same).sort_by("neuron").combine_chunks()
    if selected is not None and len(selected) > _NAMED:
        rows = rows.filter(pa.array(np.isin(rows["neuron"].to_numpy(), selected)))
    return rows if rows.num_rows else None
