"""Where labels stand among those of a null: computed from scores, stored with the labels, read back.

The null is a layer of a network that has learned nothing, such as one with redrawn weights (`models.redrawn`), labelled
in the same way. Scores of one method with the same settings and candidates are comparable between the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from csp_index.errors import LabelError
from csp_index.records import Label, LayerKey
from csp_index.records.assurance import NullRank
from csp_index.store import schema
from csp_index.store.catalog import of_layer, sql_text
from csp_index.store.tables import Store

FEWEST = 20
"""The fewest labels of a null that others are ranked among."""
_FIELDS = ("percentile", "lead_percentile", "exceeded", "null", "null_neurons")


def null_ranks(labels: Sequence[Label], null: Sequence[Label], name: str) -> list[NullRank | None]:
    """Return where labels stand among those of a null called `name`; None for a neuron without a label.

    Raises LabelError where the null has too few labels to rank others among.
    """
    present = [label for label in null if label.labels]
    if len(present) < FEWEST:
        raise LabelError(
            f"{len(present)} of the {len(null)} neurons of the null {name} have a label: expected at least {FEWEST}; "
            "index a null whose neurons fire, for example --weights centered:SEED, or a layer before the last ReLU"
        )
    scores = np.sort([label.labels[0].score for label in present])
    leads = np.sort([lead for label in present if (lead := _lead(label)) is not None])
    sure = np.sort([label.labels[0].score for label in present if not label.uncertain])

    def rank(label: Label) -> NullRank | None:
        if not label.labels:
            return None
        score, lead = label.labels[0].score, _lead(label)
        above = len(sure) - int(np.searchsorted(sure, score))
        lead_share = 0.0 if lead is None else percentile(leads, lead)
        return NullRank(percentile(scores, score), lead_share, above / len(null), name, len(present))

    return [rank(label) for label in labels]


def percentile(ordered: np.ndarray, value: float) -> float:
    """Return the share of ascending numbers below a value, equal ones counted one half; 0 without any.

    >>> percentile(np.array([1.0, 2.0, 2.0, 3.0]), 2.0)
    0.5
    """
    if not len(ordered):
        return 0.0
    ends = (np.searchsorted(ordered, value, side="left"), np.searchsorted(ordered, value, side="right"))
    return float(ends[0] + ends[1]) / 2 / len(ordered)


def with_rank(label: Label, rank: NullRank | None) -> Label:
    """Return a label with its place among a null's; it is uncertain where too many of these score as high."""
    if rank is None:
        return label
    return replace(label, null_rank=rank, uncertain=label.uncertain or not rank.passes)


def store_ranks(store: Store, labels: Sequence[Label], hashes: dict[str, str], null_run: str) -> None:
    """Store the ranks of labels in place of older ones; `hashes` has the settings hash by the label's run."""
    ranked = [(label, label.null_rank) for label in labels if label.null_rank is not None]
    if not ranked:
        return
    key, method = labels[0].neuron.layer_key, labels[0].method
    rows = [
        {
            "run_id": label.run_id,
            "settings_hash": hashes.get(label.run_id, ""),
            "model": key.model,
            "layer": key.layer,
            "neuron": label.neuron.neuron,
            "method": method,
            "percentile": rank.percentile,
            "lead_percentile": rank.lead_percentile,
            "exceeded": rank.exceeded,
            "null": rank.null,
            "null_neurons": rank.neurons,
            "null_run": null_run,
        }
        for label, rank in ranked
    ]
    store.append(schema.LABEL_NULLS, pa.Table.from_pylist(rows, schema=schema.table_schema(schema.LABEL_NULLS)))


def forget_ranks(store: Store, key: LayerKey, method: str, neurons: Sequence[int]) -> None:
    """Remove the ranks of some neurons' labels by a method; those of the layer's other neurons stay."""
    where = f"{of_layer(key)} AND method = {sql_text(method)} AND neuron IN ({','.join(map(str, neurons))})"
    if len(neurons) and store.read(schema.LABEL_NULLS, ["method"], where).num_rows:
        store.delete(schema.LABEL_NULLS, where)


def read_ranks(store: Store, key: LayerKey) -> dict[tuple[str, int], NullRank]:
    """Return the ranks of a layer's labels by run and neuron; empty where none were stored."""

    def read() -> dict[tuple[str, int], NullRank]:
        rows = store.read(schema.LABEL_NULLS, ["run_id", "neuron", *_FIELDS], of_layer(key))
        columns = (column.to_pylist() for column in rows.columns)
        return {(run, neuron): NullRank(*rest) for run, neuron, *rest in zip(*columns, strict=True)}

    return store.memo(schema.LABEL_NULLS, ("null ranks", key), read)


def _lead(label: Label) -> float | None:
    return label.labels[0].score - label.labels[1].score if len(label.labels) > 1 else None
