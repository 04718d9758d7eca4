"""The rows of the table `evolution`, written and read back. Loads no torch."""

from __future__ import annotations

import hashlib
from typing import Any

import pyarrow as pa

from csp_index.store.catalog import sql_text
from csp_index.store.study_tables import EVOLUTION
from csp_index.store.tables import Store
from csp_index.studies.evolution.records import Evolution


def write_evolution(store: Store, evolution: Evolution) -> None:
    """Store an evolution in place of an earlier one of the same layer; the caller holds the write lock."""
    store.delete(EVOLUTION, f"network = {sql_text(evolution.network)} AND layer = {sql_text(evolution.layer)}")
    store.append(EVOLUTION, evolution.rows)


def read_evolution(store: Store, settings_hash: str) -> Evolution | None:
    """Return the evolution stored under a settings hash, or None."""
    rows = store.read(EVOLUTION, where=f"settings_hash = {sql_text(settings_hash)}")
    return evolution_of(rows) if rows.num_rows else None


def evolution_of(rows: pa.Table) -> Evolution:
    """Return the evolution that rows of one layer are."""
    rows = rows.sort_by([("step", "ascending"), ("neuron", "ascending")]).combine_chunks()
    first = rows.slice(0, 1).to_pylist()[0]
    checkpoints = tuple(dict.fromkeys(rows["checkpoint"].to_pylist()))
    return Evolution(first["network"], first["layer"], checkpoints, rows, first["run_id"])


def stored_evolutions(store: Store) -> list[dict[str, Any]]:
    """Return network, layer, run_id and settings_hash of all stored evolutions, newest first."""
    columns = ["network", "layer", "run_id", "settings_hash"]
    rows: list[dict[str, Any]] = store.read(EVOLUTION, columns).group_by(columns).aggregate([]).to_pylist()
    return sorted(rows, key=lambda row: str(row["run_id"]), reverse=True)


def evolution_id(head: dict[str, Any]) -> str:
    """Return the name of an evolution in addresses: a short hash of its network and layer."""
    return hashlib.sha256(f"{head['network']}\n{head['layer']}".encode()).hexdigest()[:12]
