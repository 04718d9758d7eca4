"""The names that readers gave, laid over the labels of a layer: where a neuron has one it is the label shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.labelling.review.pinned import Pin
from csp_index.labelling.review.words import PINNED
from csp_index.service.layer_table import UNLABELLED, LayerTable, MethodLabels


def with_pins(table: LayerTable, pins: Mapping[int, Pin]) -> LayerTable:
    """Return a layer's table with names over the labels shown, and as the labels of a method of their own.

    A name has no scores; its pairs and its run are those of the label that would be shown without it.
    """
    neurons = table.info.neurons
    shown = table.shown_labels or _nothing(neurons)
    named = _over(shown, pins)
    alone = _over(_nothing(neurons), pins, replace(shown, method=PINNED))
    method = shown.method if table.shown_labels else PINNED
    return replace(table, methods={**table.methods, PINNED: alone}, shown_labels=replace(named, method=method))


def _over(base: MethodLabels, pins: Mapping[int, Pin], beside: MethodLabels | None = None) -> MethodLabels:
    """Return labels with names in place of those of some neurons; `beside` are the labels that these stand beside."""
    beside = beside or base
    columns = {
        name: getattr(base, name).copy()
        for name in ("texts", "states", "methods", "scores", "leads", "confidences", "probabilities", "uncertain")
    }
    columns |= {"notes": base.notes.copy(), "runs": base.runs.copy()}
    for neuron, pin in pins.items():
        method = beside.methods[neuron] or None
        note = pin.beside(method, beside.texts[neuron] or beside.states[neuron])
        said = {"texts": pin.text, "states": "labelled", "methods": PINNED, "notes": note, "runs": beside.runs[neuron]}
        for name, value in said.items():
            columns[name][neuron] = value
        for name in ("scores", "leads", "confidences", "probabilities"):
            columns[name][neuron] = np.nan
        columns["uncertain"][neuron] = -1
    ranks = {key: rank for key, rank in base.ranks.items() if key[1] not in pins}
    return replace(base, **columns, ranks=ranks)


def _nothing(neurons: int) -> MethodLabels:
    """Return labels of neurons none of which has one."""

    def filled(value: object, kind: Any = object) -> np.ndarray:
        return np.full(neurons, value, dtype=kind)

    return MethodLabels(
        method=PINNED,
        texts=filled(None),
        states=filled(UNLABELLED),
        methods=filled(""),
        scores=filled(np.nan, np.float64),
        leads=filled(np.nan, np.float64),
        confidences=filled(np.nan, np.float64),
        probabilities=filled(np.nan, np.float64),
        uncertain=filled(-1, np.int8),
        notes=filled(""),
        runs=filled(""),
        ranks={},
        crops=frozenset(),
        offsets=np.zeros(neurons + 1, np.int64),
        candidates=pa.array([], pa.string()).dictionary_encode(),
        values=np.zeros((0, 4)),
    )
