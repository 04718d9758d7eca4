"""Comparisons as the rows that are stored, and read back. Loads no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.study_tables import COMPARISONS, MATCHES
from csp_index.store.tables import Store
from csp_index.studies.comparison.matching import Matching
from csp_index.studies.comparison.records import Comparison, Coverage, Way

_PAIR = ("model", "layer", "other", "other_model", "other_layer")


def head_rows(comparison: Comparison, settings_hash: str, encoder: str | None) -> pa.Table:
    """Return the rows of the table `comparisons`."""
    coverage = comparison.coverage
    own = {name: getattr(coverage, name, None) for name in ("vocabulary", "texts", "held", "other_held", "both_held")}
    names = ("images", "only_first", "only_second", "neurons", "other_neurons", "untrained", "note", "run_id")
    shared = {name: getattr(comparison, name) for name in names} | own | {"settings_hash": settings_hash}
    shared |= _pair_of(comparison)
    rows = [
        shared
        | {name: getattr(way, name) for name in Way.__slots__}
        | {"encoder": encoder if way.by == "concepts" else None}
        for way in comparison.ways
    ]
    return pa.Table.from_pylist(rows, schema=schema.table_schema(COMPARISONS))


def match_rows(
    layers: tuple[LayerKey, str, LayerKey],
    way: Way,
    matching: Matching,
    labels: tuple[Sequence[str | None], Sequence[str | None]],
    run: tuple[str, str],
) -> pa.Table:
    """Return the rows of the table `matches` of one way: of each neuron of the first layer, and of the others left.

    `layers` are the first, the address of the other index and the second; `run` is the run's id and settings hash.
    """
    first, other, second = layers
    partners, size = matching.partners, len(matching.partners)
    alone = np.setdiff1d(np.arange(len(matching.best_other)), partners)
    left = np.concatenate([np.arange(size), np.full(len(alone), -1)])
    right = np.concatenate([partners, alone])
    scores = np.concatenate([matching.scores, np.full(len(alone), np.nan)])
    matched = np.zeros(len(scores), bool) if way.null is None else np.nan_to_num(scores, nan=-2) > way.null
    count = len(left)
    columns = {
        "run_id": [run[0]] * count,
        "settings_hash": [run[1]] * count,
        "model": [first.model] * count,
        "layer": [first.layer] * count,
        "neuron": pa.array(left, pa.int32(), mask=left < 0),
        "other": [other] * count,
        "other_model": [second.model] * count,
        "other_layer": [second.layer] * count,
        "other_neuron": pa.array(right, pa.int32(), mask=right < 0),
        "by": [way.by] * count,
        "score": pa.array(scores, mask=np.isnan(scores)),
        "matched": pa.array(matched),
        "best": _taken(matching.best, left),
        "other_best": _taken(matching.best_other, right),
        "label": pa.array([labels[0][place] if place >= 0 else None for place in left.tolist()], pa.string()),
        "other_label": pa.array([labels[1][place] if place >= 0 else None for place in right.tolist()], pa.string()),
    }
    return pa.table(columns, schema=schema.table_schema(MATCHES))


def _taken(values: np.ndarray, places: np.ndarray) -> pa.Array:
    taken = np.where(places >= 0, values[places], np.nan)
    return pa.array(taken, mask=np.isnan(taken))


def write_comparison(store: Store, comparison: Comparison, settings_hash: str, encoder: str | None) -> None:
    """Store a comparison in place of an earlier one of the same two layers; the caller holds the write lock."""
    where = " AND ".join(f"{name} = {sql_text(value)}" for name, value in _pair_of(comparison).items())
    for table in (MATCHES, COMPARISONS):
        store.delete(table, where)
    store.append(MATCHES, comparison.matches)
    store.append(COMPARISONS, head_rows(comparison, settings_hash, encoder))


def _pair_of(comparison: Comparison) -> dict[str, str]:
    first, second = LayerKey.parse(comparison.first), LayerKey.parse(comparison.second)
    values = (first.model, first.layer, comparison.other, second.model, second.layer)
    return dict(zip(_PAIR, values, strict=True))


def stored_heads(store: Store) -> list[dict[str, Any]]:
    """Return the rows of all stored comparisons, newest first; each has a row per way."""
    rows: list[dict[str, Any]] = store.read(COMPARISONS).to_pylist()
    return sorted(rows, key=lambda row: (str(row["run_id"]), row["by"] == "concepts"), reverse=True)


def read_comparison(store: Store, settings_hash: str) -> Comparison | None:
    """Return the comparison stored under a settings hash, or None."""
    where = f"settings_hash = {sql_text(settings_hash)}"
    heads = store.read(COMPARISONS, where=where).to_pylist()
    if not heads:
        return None
    head = heads[0]
    ways = tuple(Way(**{name: row[name] for name in Way.__slots__}) for row in heads)
    return Comparison(
        str(LayerKey(head["model"], head["layer"])),
        str(LayerKey(head["other_model"], head["other_layer"])),
        head["other"],
        head["images"],
        head["only_first"],
        head["only_second"],
        head["neurons"],
        head["other_neurons"],
        ways,
        None
        if head["vocabulary"] is None
        else Coverage(*(head[name] for name in ("vocabulary", "texts", "held", "other_held", "both_held"))),
        store.read(MATCHES, where=where),
        head["untrained"],
        head["note"],
        head["run_id"],
    )


def comparison_id(head: dict[str, Any]) -> str:
    """Return the name of a comparison in addresses: a short hash of its two layers, from a row of `comparisons`."""
    pair = "\n".join(str(head[name]) for name in _PAIR)
    return hashlib.sha256(pair.encode()).hexdigest()[:12]
