"""Labels from crops belong to the maps of their neuron: by which they were cut, and whether those are stored still.

Such a label is stored under the hash of its settings, a dot, and the digest of the neuron's maps. So maps of other
neurons do not matter to it, and only those of the neurons that are asked for are read. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.contrast.crops.regions import REGION_SETTINGS
from csp_index.contrast.selection import Selection
from csp_index.labelling.methods import CROP
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import maps_digests


def crop_key(hashed: str, maps: str) -> str:
    """Return what a label from crops is stored under, from its settings hash and the digest of the neuron's maps.

    The digest of a neuron without maps, which fires on no image, is empty.
    """
    return f"{hashed}.{maps}"


def stored_under(hashed: str, *, crop: bool) -> str:
    """Return the condition for rows of labels under a settings hash; of labels from crops whatever the maps were."""
    operator, key = ("LIKE", crop_key(hashed, "%")) if crop else ("=", hashed)
    return f"settings_hash {operator} {catalog.sql_text(key)}"


def by_stored_maps(store: Store, target: LayerInfo, rows: pa.Table) -> pa.Table:
    """Return the rows of labels from crops of a layer that were cut by the maps of their neuron that are stored now."""
    neurons, keys = rows["neuron"].to_pylist(), rows["settings_hash"].to_pylist()
    digests = maps_digests(store, target, sorted(set(neurons)))
    current = [key.partition(".")[2] == digests.get(neuron, "") for neuron, key in zip(neurons, keys, strict=True)]
    return rows.filter(pa.array(current, pa.bool_()))


def crop_runs(store: Store) -> frozenset[str]:
    """Return the runs in whose labels crops stand in for activating images: their settings say so."""
    return store.memo(schema.RUNS, "runs with crops", lambda: frozenset(_runs_with_crops(store)))


def _runs_with_crops(store: Store) -> dict[str, dict[str, Any]]:
    """Return the settings of the runs whose settings say so, by id."""
    rows = store.read(schema.RUNS, ["run_id", "settings"], f"settings LIKE '%\"{CROP}\"%'").to_pylist()
    runs = {row["run_id"]: read_object(row["settings"], schema.RUNS, "settings") for row in rows}
    return {run_id: made for run_id, made in runs.items() if CROP in made}


def _heads(store: Store, target: LayerInfo, runs: Iterable[str], neurons: Sequence[int]) -> pa.Table:
    """Return the first rows of the labels that some runs made of neurons of a layer."""
    where = f"{catalog.layer_filter(target)} AND rank <= 0 AND run_id IN ({','.join(map(catalog.sql_text, runs))})"
    if len(neurons) < target.neurons:
        where += f" AND neuron IN ({','.join(map(str, neurons))})"
    return store.read(schema.LABELS, ["neuron", "method", "run_id", "settings_hash"], where)


def outdated_crops(store: Store, target: LayerInfo) -> tuple[str, ...]:
    """Return the methods by which neurons of a layer were last labeled from crops that would be others now, sorted.

    By other maps than those that are stored now, or as an earlier version cut them.
    """
    runs = _runs_with_crops(store)
    if not runs:
        return ()
    rows = _heads(store, target, runs, range(target.neurons)).sort_by("run_id")
    newest = {(row["neuron"], row["method"]): at for at, row in enumerate(rows.to_pylist())}
    rows = rows.take(pa.array(sorted(newest.values()), pa.int64()))
    alike = {run for run, made in runs.items() if made[CROP] == REGION_SETTINGS}
    current = {
        (row["neuron"], row["method"])
        for row in by_stored_maps(store, target, rows).to_pylist()
        if row["run_id"] in alike
    }
    return tuple(sorted({method for neuron, method in newest if (neuron, method) not in current}))


def is_outdated(store: Store, target: LayerInfo, run_id: str, neurons: Sequence[int]) -> bool:
    """Return whether a run from crops has no labels of some neurons that were cut by the maps stored now.

    Of other maps, or replaced since by labels from those stored now.
    """
    current = by_stored_maps(store, target, _heads(store, target, [run_id], neurons))
    return set(current["neuron"].to_pylist()) < set(neurons)


def cropped_examples(store: Store, selection: Selection) -> np.ndarray:
    """Return of how many activating images of each neuron [M] crops were asked for by stored labels, int64; 0: of none.

    Only labels by the selection's encoder from crops as they are cut now, by the maps that are stored now, count. What
    is not stored of those crops belongs to lost pictures.
    """
    counts = np.zeros(len(selection.neurons), np.int64)
    asked: dict[str, tuple[int, float]] = {}
    for run_id, made in _runs_with_crops(store).items():
        examples = made.get("examples")
        alike = made[CROP] == REGION_SETTINGS and made.get("encoder") == selection.source.name
        if alike and isinstance(examples, dict):
            asked[run_id] = int(examples.get("examples", 0)), float(examples.get("floor", 0.0))
    if asked:
        heads = _heads(store, selection.target, asked, selection.neurons.tolist())
        rows = by_stored_maps(store, selection.target, heads)
        neurons, owners = rows["neuron"].to_numpy(), rows["run_id"].to_numpy(zero_copy_only=False)
        highest = selection.statistics(store)["top_activations"].to_pylist()
        for run, (most, floor) in asked.items():
            activating = np.array([sum(value > floor for value in values[:most]) for values in highest], np.int64)
            own = np.isin(selection.neurons, neurons[owners == run])
            counts[own] = np.maximum(counts[own], activating[own])
    return counts
