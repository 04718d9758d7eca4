"""The evolution of a layer: read where it is stored under the same settings, else computed and stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from csp_index.contrast.selection import Selection
from csp_index.errors import ModelError
from csp_index.labelling.concept_vectors import mean_centred_vectors
from csp_index.records import Label
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.study_tables import EVOLUTION
from csp_index.store.tables import Store
from csp_index.studies.column_digests import column_digest
from csp_index.studies.evolution.paths import cosines_to_previous, events
from csp_index.studies.evolution.records import Evolution
from csp_index.studies.evolution.stored import read_evolution, write_evolution

_VERSION = 1  # of what the numbers are made of: another one is another settings hash


@dataclass(frozen=True, slots=True)
class Stage:
    """A layer at one checkpoint, and the label of each neuron there."""

    checkpoint: str
    target: LayerInfo
    labels: Sequence[Label]

    @property
    def texts(self) -> list[str | None]:
        """The text of each neuron's label, None without one."""
        return [label.text for label in self.labels]

    def digest(self) -> str:
        """Return a digest of the labels and of the runs that made them."""
        shown = [(label.text, label.run_id) for label in self.labels]
        return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def evolve(
    store: Store, source: EncoderInfo, network: str, stages: Sequence[Stage], *, recompute: bool = False
) -> Evolution:
    """Return the evolution of a layer through stages that are indexed and labeled, in the order of training.

    Raises ModelError if the layer has not as many neurons at every checkpoint.
    """
    first = stages[0].target
    for stage in stages:
        if stage.target.neurons != first.neurons:
            raise ModelError(
                f"{stage.target.key} has {stage.target.neurons:,} neurons and {first.key} {first.neurons:,}: expected "
                "checkpoints of one architecture"
            )
    described = {
        "network": network,
        "layer": first.key.layer,
        "checkpoints": [[one.checkpoint, column_digest(store, one.target), one.digest()] for one in stages],
        "encoder": [source.name, column_digest(store, source)],
        "version": _VERSION,
    }
    if not recompute and (known := read_evolution(store, settings_hash(described))) is not None:
        return known
    models = {stage.target.what: stage.target.identity for stage in stages}
    with store.write_lock(), record_run(store, "evolution", described, models) as run:
        rows = _rows(store, source, network, stages, (run.run_id, run.settings_hash))
        names = tuple(stage.checkpoint for stage in stages)
        evolution = Evolution(network, first.key.layer, names, rows, run.run_id)
        write_evolution(store, evolution)
    return evolution


def _rows(store: Store, source: EncoderInfo, network: str, stages: Sequence[Stage], run: tuple[str, str]) -> pa.Table:
    neurons = np.arange(stages[0].target.neurons)
    statistics = [catalog.neuron_rows(store, stage.target) for stage in stages]
    firing = np.stack([rows["firing_rate"].to_numpy() for rows in statistics])
    vectors = [mean_centred_vectors(store, Selection(source, stage.target, neurons)) for stage in stages]
    cosines = cosines_to_previous(vectors, firing > 0)
    happened = events(firing)
    parts = []
    for step, stage in enumerate(stages):
        size, key = len(neurons), stage.target.key
        columns = {
            "run_id": [run[0]] * size,
            "settings_hash": [run[1]] * size,
            "model": [key.model] * size,
            "layer": [key.layer] * size,
            "neuron": pa.array(neurons, pa.int32()),
            "network": [network] * size,
            "checkpoint": [stage.checkpoint] * size,
            "step": pa.array([step] * size, pa.int32()),
            "label": pa.array(stage.texts, pa.string()),
            "firing_rate": pa.array(firing[step]),
            "cosine": pa.array(cosines[step], mask=np.isnan(cosines[step])),
            "event": pa.array(happened[step].tolist(), pa.string()),
        }
        parts.append(pa.table(columns, schema=schema.table_schema(EVOLUTION)))
    return pa.concat_tables(parts).combine_chunks()
