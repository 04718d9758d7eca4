"""Labels read back from the store; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError
from csp_index.labelling.kept.crop_labels import by_stored_maps, crop_runs, stored_under
from csp_index.labelling.label_rule import LabelRule, read_rule
from csp_index.labelling.linear.label_terms import TermKey, read_terms
from csp_index.labelling.nulls.ranks import read_ranks, with_rank
from csp_index.labelling.probabilities.stored import read_probabilities
from csp_index.labelling.review.pinned import pinned_label, pins_of
from csp_index.labelling.review.words import PINNED
from csp_index.records import ExamplePair, Label, LabelScore, LabelState, prediction_set_of, rivals_of
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.store import catalog, schema
from csp_index.store.tables import Store

_SCORE = ("text", "score", "score_low", "score_high", "confidence")
_PAIR = tuple(field.name for field in fields(ExamplePair))


def read_labels(store: Store, selection: Selection, hashed: str, top: int, *, crop: bool = False) -> dict[int, Label]:
    """Return the labels stored under a settings hash, by neuron, with `top` candidates; those without are left out.

    Those from crops that were cut by other maps of the neuron than are stored now are left out, too.
    """
    where = f"{stored_under(hashed, crop=crop)} AND {catalog.layer_filter(selection.target)}"
    if len(selection.neurons) < selection.target.neurons:
        where += f" AND neuron IN ({','.join(map(str, selection.neurons.tolist()))})"
    label_rows = store.read(schema.LABELS, where=where)
    if crop:
        label_rows = by_stored_maps(store, selection.target, label_rows)
    if label_rows.num_rows == 0:
        return {}
    runs = ",".join(catalog.sql_text(run) for run in label_rows["run_id"].unique().to_pylist())
    neurons = ",".join(map(str, label_rows["neuron"].unique().to_pylist()))
    example_rows = store.read(schema.EXAMPLES, where=f"run_id IN ({runs}) AND neighbour = 0 AND neuron IN ({neurons})")
    sums = read_terms(store, f"run_id IN ({runs}) AND {catalog.layer_filter(selection.target)}")
    return _from_rows(store, selection, label_rows, example_rows, sums, top)


def label_of(store: Store, selection: Selection, neuron: int, method: str | None = None, top: int = 5) -> Label | None:
    """Return the newest label of a neuron by a method, by default the label that the rule of the index shows, or None.

    The rule is that of `labelling.label_rule`: a name that a reader gave comes first, with the images of the label that
    would be shown without it. LabelError for the method `pinned` where no reader named the neuron.
    """
    if method not in (None, PINNED):
        return _stored_label(store, selection, neuron, method, top)
    pin, shown = pins_of(store, selection.target).get(neuron), _stored_label(store, selection, neuron, None, top)
    if pin is not None:
        return pinned_label(pin, selection.key(neuron), shown)
    if method == PINNED:
        key = selection.key(neuron)
        raise LabelError(f"no reader has named {key}: csp-index note {store.uri} {key} --rename TEXT names it")
    return shown


def _stored_label(store: Store, selection: Selection, neuron: int, method: str | None, top: int) -> Label | None:
    where = f"{catalog.layer_filter(selection.target)} AND neuron = {neuron}"
    heads = store.read(schema.LABELS, ["method", "run_id"], f"{where} AND rank <= 0").to_pylist()
    labels = [(row["method"], row["run_id"], row["run_id"]) for row in heads if method in (None, row["method"])]
    rule = read_rule(store) if method is None else LabelRule(method)
    run_id = rule.choose(labels)
    if run_id is None:
        return None
    where += f" AND run_id = {catalog.sql_text(run_id)}"
    rows, examples = store.read(schema.LABELS, where=where), store.read(schema.EXAMPLES, where=where)
    return _from_rows(store, selection, rows, examples, read_terms(store, where), top)[neuron]


def _from_rows(
    store: Store,
    selection: Selection,
    label_rows: pa.Table,
    example_rows: pa.Table,
    sums: Mapping[TermKey, WeightedLabel],
    top: int,
) -> dict[int, Label]:
    pairs: dict[tuple[str, int], list[ExamplePair]] = {}
    nearest = example_rows.filter(pc.equal(example_rows["neighbour"], 0)).select(["run_id", "neuron", *_PAIR])
    for run_id, neuron, *pair in zip(*(column.to_pylist() for column in nearest.columns), strict=True):
        pairs.setdefault((run_id, neuron), []).append(ExamplePair(*pair))
    scores: dict[int, list[LabelScore]] = {}
    heads: dict[int, tuple[str, str, LabelState, str]] = {}
    uncertain: set[int] = set()
    columns = ["neuron", "rank", "uncertain", "run_id", "method", "state", "note", *_SCORE]
    for neuron, rank, doubt, *rest in zip(*(label_rows[name].to_pylist() for name in columns), strict=True):
        heads[neuron] = tuple(rest[:4])
        neuron_scores = scores.setdefault(neuron, [])
        if rank >= 0:
            neuron_scores.append(LabelScore(*rest[4:]))
        if doubt:
            uncertain.add(neuron)
    ranks = read_ranks(store, selection.target.key)
    probabilities, crops = read_probabilities(store, selection.target.key), crop_runs(store)
    labels = {
        neuron: Label(
            selection.key(neuron),
            method,
            state,
            tuple(scores[neuron][:top]),
            tuple(pairs.get((run_id, neuron), ())),
            note,
            run_id,
            neuron in uncertain,
            rivals_of(scores[neuron]),
            prediction_set_of(scores[neuron]),
            weighted=sums.get((run_id, selection.key(neuron))),
            probability=probabilities.get((run_id, neuron)),
            crop=run_id in crops,
        )
        for neuron, (run_id, method, state, note) in heads.items()
    }
    return {neuron: with_rank(label, ranks.get((label.run_id, neuron))) for neuron, label in labels.items()}
