"""A layer followed through the checkpoints of its training, as stored. Does not load torch."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, cast

from csp_index.service.documents.studies.evolution_shapes import (
    EvolutionDocument,
    EvolutionRow,
    EvolutionsDocument,
    PathRow,
    StepRow,
)
from csp_index.service.documents.studies.stored_studies import find_study
from csp_index.service.snapshot import Snapshot
from csp_index.studies.evolution.records import Evolution
from csp_index.studies.evolution.stored import evolution_id, read_evolution, stored_evolutions

PATHS: Final = 50
"""Neurons on a page."""


def evolutions_document(snapshot: Snapshot) -> EvolutionsDocument:
    """Return the evolutions that the index has, newest first."""
    return {"evolutions": list(map(_row, stored_evolutions(snapshot.store)))}


def evolution_document(snapshot: Snapshot, name: str, start: int = 0, limit: int = PATHS) -> EvolutionDocument:
    """Return one evolution with the paths of `limit` neurons, from the `start`-th on. NotFoundError: no such name."""
    found = snapshot.cache.get(("evolution", name), lambda: _read(snapshot, name), lambda one: one.rows.nbytes)
    neurons = found.neurons().sort_by([("drift", "descending"), ("neuron", "ascending")])
    shown = neurons.slice(start, limit).to_pylist()
    for step, key in enumerate(found.layers):
        names = snapshot.names_given(key)  # of readers: they stand before labels here, too
        for row in shown:
            row["labels"][step] = names.get(row["neuron"], row["labels"][step])
    head = {"network": found.network, "layer": found.layer, "run_id": found.run_id}
    return {
        "evolution": _row(head),
        "steps": cast(list[StepRow], found.steps()),
        "neurons": cast(list[PathRow], shown),
        "total": neurons.num_rows,
        "start": start,
    }


def _read(snapshot: Snapshot, name: str) -> Evolution:
    store = snapshot.store
    return find_study(name, "evolution", stored_evolutions(store), evolution_id, partial(read_evolution, store))


def _row(head: dict[str, Any]) -> EvolutionRow:
    values = {field: head[field] for field in ("network", "layer", "run_id")} | {"id": evolution_id(head)}
    return cast(EvolutionRow, values)
