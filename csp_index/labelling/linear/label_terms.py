"""The terms of labels that are weighted sums of texts, as rows of a table of their own."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from csp_index.errors import SettingError, StoreError, one_line
from csp_index.records import NeuronKey
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel
from csp_index.store import schema
from csp_index.store.tables import Store

_TERM = ("text", "weight", "slope", "shift")
TermKey = tuple[str, NeuronKey]
"""A run and a neuron that it labelled."""


def term_rows(labels: Mapping[NeuronKey, WeightedLabel], run_id: str, hashed: str, method: str) -> pa.Table:
    """Return the rows of the labels that a run made by a method under its settings hash."""
    rows = [
        {
            "run_id": run_id,
            "settings_hash": hashed,
            "model": key.model,
            "layer": key.layer,
            "neuron": key.neuron,
            "method": method,
            "position": position,
            "bias": label.bias,
        }
        | {name: getattr(term, name) for name in _TERM}
        for key, label in labels.items()
        for position, term in enumerate(label.terms)
    ]
    return pa.Table.from_pylist(rows, schema=schema.table_schema(schema.LABEL_TERMS))


def read_terms(store: Store, where: str | None = None) -> dict[TermKey, WeightedLabel]:
    """Return the weighted labels whose rows meet a condition; empty in an index without such labels.

    StoreError for rows that are no weighted sum: a text twice, or a weight that is no number.
    """
    columns = ("run_id", "model", "layer", "neuron", "bias", *_TERM)
    rows = store.read(schema.LABEL_TERMS, [*columns, "position"], where).sort_by("position")
    terms: dict[TermKey, list[LabelTerm]] = {}
    biases: dict[TermKey, float] = {}
    for run_id, model, layer, neuron, bias, *term in zip(*(rows[name].to_pylist() for name in columns), strict=True):
        key = run_id, NeuronKey(model, layer, neuron)
        terms.setdefault(key, []).append(LabelTerm(*term))
        biases[key] = bias
    return {key: _label(key, parts, biases[key]) for key, parts in terms.items()}


def _label(key: TermKey, terms: list[LabelTerm], bias: float) -> WeightedLabel:
    try:
        return WeightedLabel(tuple(terms), bias)
    except (SettingError, TypeError) as exc:
        raise StoreError(
            f"the terms of the label of {key[1]} in run {key[0]} are damaged ({one_line(exc)}): run `csp-index verify`"
        ) from exc
