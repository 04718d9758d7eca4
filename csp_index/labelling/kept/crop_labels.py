"""Labels from crops: which runs made them, by which maps, and what they asked for. Loads no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.contrast.crops.regions import region_settings
from csp_index.contrast.selection import Selection
from csp_index.labelling.methods import CROP
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store


def crop_runs(store: Store) -> frozenset[str]:
    """Return the runs in whose labels crops stand in for activating images: their settings say so."""

    return store.memo(
        schema.RUNS, "runs with crops", lambda: frozenset(run_id for run_id, _ in _runs_with_crops(store))
    )


def _runs_with_crops(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """Return the ids and settings of the runs whose settings say so."""
    rows = store.read(schema.RUNS, ["run_id", "settings"], f"settings LIKE '%\"{CROP}\"%'").to_pylist()
    runs = [(row["run_id"], read_object(row["settings"], schema.RUNS, "settings")) for row in rows]
    return [(run_id, made) for run_id, made in runs if CROP in made]


def outdated_crops(store: Store, target: LayerInfo) -> tuple[str, ...]:
    """Return the methods by which neurons of a layer were last labeled from crops that would be others now, sorted.

    By other maps than those that are stored now, or as an earlier version cut them.
    """
    current, runs = region_settings(store, target), _runs_with_crops(store)
    others = {run for run, made in runs if made.get("layer") == str(target.key) and made[CROP] != current}
    if not others:
        return ()
    rows = store.read(schema.LABELS, ["neuron", "method", "run_id"], f"{catalog.layer_filter(target)} AND rank <= 0")
    cropped = rows.filter(pc.is_in(rows["run_id"], pa.array([run for run, _ in runs])))
    newest = cropped.group_by(["neuron", "method"]).aggregate([("run_id", "max")]).to_pylist()
    return tuple(sorted({row["method"] for row in newest if row["run_id_max"] in others}))


def cropped_examples(store: Store, selection: Selection) -> np.ndarray:
    """Return of how many activating images of each neuron [M] crops were asked for by stored labels, int64; 0: of none.

    Only labels by the selection's encoder from crops as they are cut now, by the maps that are stored now, count. What
    is not stored of those crops belongs to lost pictures.
    """
    current, encoder = region_settings(store, selection.target), selection.source.name
    counts = np.zeros(len(selection.neurons), np.int64)
    asked: dict[str, tuple[int, float]] = {}
    for run_id, made in _runs_with_crops(store):
        examples = made.get("examples")
        if made[CROP] == current and made.get("encoder") == encoder and isinstance(examples, dict):
            asked[run_id] = int(examples.get("examples", 0)), float(examples.get("floor", 0.0))
    if asked:
        runs = ",".join(map(catalog.sql_text, asked))
        where = f"{catalog.layer_filter(selection.target)} AND rank <= 0 AND run_id IN ({runs})"
        rows = store.read(schema.LABELS, ["neuron", "run_id"], where)
        neurons, owners = rows["neuron"].to_numpy(), rows["run_id"].to_numpy(zero_copy_only=False)
        highest = selection.statistics(store)["top_activations"].to_pylist()
        for run, (most, floor) in asked.items():
            activating = np.array([sum(value > floor for value in values[:most]) for values in highest], np.int64)
            own = np.isin(selection.neurons, neurons[owners == run])
            counts[own] = np.maximum(counts[own], activating[own])
    return counts
