"""Labels as the rows that are written; `read_labels` reads them back.

A label is stored under the hash of everything it depends on. Its row is written last, so a label that can be read is
complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.contrast.selection import Selection
from csp_index.labelling.confidence import Confidence
from csp_index.labelling.kept.crop_labels import crop_key, stored_under
from csp_index.labelling.label_values import ExampleSummary, Ranking, label_notes, stored_pairs
from csp_index.labelling.linear.label_terms import term_rows
from csp_index.labelling.probabilities.stored import probability_rows
from csp_index.store import catalog, column_tables, schema
from csp_index.store.tables import Store
from csp_index.tensors.library import torch


@dataclass(frozen=True, slots=True)
class LabelRows:
    """Computed labels as the tables that are stored."""

    labels: pa.Table
    terms: pa.Table
    probabilities: pa.Table | None
    examples: pa.Table
    vectors: torch.Tensor | None
    images: int


def rows_of(
    ranking: Ranking, summary: ExampleSummary, run_id: str, hashed: str, maps: Mapping[int, str] | None = None
) -> LabelRows:
    """Return the rows of the labels of a ranking, made by a run under its settings hash.

    `maps` are the digests of the neurons' maps, for labels from crops.
    """
    neurons = ranking.selection.neurons.tolist()
    keys = [hashed if maps is None else crop_key(hashed, maps.get(neuron, "")) for neuron in neurons]
    rows = _label_rows(ranking, label_notes(ranking, summary), run_id, keys)
    sums = dict(zip(map(ranking.selection.key, ranking.selection.neurons.tolist()), ranking.sums or (), strict=False))
    terms = term_rows(
        {key: label for key, label in sums.items() if label is not None}, run_id, hashed, ranking.request.method
    )
    probable = None
    if ranking.probability is not None:
        neurons, layer, method = ranking.selection.neurons, ranking.selection.target.key, ranking.request.method
        known = np.where(ranking.states == "labelled", ranking.probability, np.nan)  # others have no label
        probable = probability_rows(layer, neurons, known, method=method, run_id=run_id, settings_hash=hashed)
    return LabelRows(rows, terms, probable, _example_rows(ranking, run_id), ranking.vectors, ranking.examples.images)


def _label_rows(ranking: Ranking, notes: Sequence[str], run_id: str, keys: Sequence[str]) -> pa.Table:
    """Return the rows of the `labels` table: the best candidates of labelled neurons, one bare row for the others.

    `keys` [M] is what the labels of each neuron are stored under.
    """
    selection, states, texts = ranking.selection, ranking.states, ranking.texts
    counts = np.where(states == "labelled", ranking.counts, 1)
    owner = np.repeat(np.arange(len(states)), counts)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = ranking.places.numpy()[owner, rank]
    bare = states[owner] != "labelled"
    written = [None if none else texts[at] for none, at in zip(bare, place, strict=True)]
    for head in np.flatnonzero(~bare & (rank == 0)).tolist() if ranking.sums is not None else ():
        written[head] = ranking.text(int(owner[head]), 0)
    size = len(owner)
    columns = {
        "run_id": pa.array([run_id] * size),
        "settings_hash": pa.array(keys).take(pa.array(owner)),
        "model": pa.array([selection.target.key.model] * size),
        "layer": pa.array([selection.target.key.layer] * size),
        "neuron": pa.array(selection.neurons[owner].astype(np.int32)),
        "method": pa.array([ranking.request.method] * size),
        "state": pa.array(states[owner].tolist()),
        "rank": pa.array(np.where(bare, -1, rank).astype(np.int32)),
        "text": pa.array(written, pa.string()),
        "score": pa.array(ranking.scores.numpy()[owner, rank].astype(np.float64), mask=bare),
        **_confidence_columns(ranking.confidence, owner, rank, bare),
        "note": pa.array(notes).take(pa.array(owner)),
    }
    return pa.table(columns, schema=schema.table_schema(schema.LABELS))


def _confidence_columns(
    confidence: Confidence | None, owner: np.ndarray, rank: np.ndarray, bare: np.ndarray
) -> dict[str, pa.Array]:
    """Return the columns that say how far each row can be trusted; null where nothing is known."""
    if confidence is None:
        empty = pa.nulls(len(owner), pa.float64())
        absent = pa.nulls(len(owner), pa.bool_())
        return {"score_low": empty, "score_high": empty, "confidence": empty, "uncertain": absent}
    width = confidence.share.shape[1]
    beyond = bare | (rank >= width)

    def column(values: torch.Tensor) -> pa.Array:
        entries = values.double().numpy()[owner, np.minimum(rank, width - 1)]
        return pa.array(entries, mask=beyond | np.isnan(entries))

    return {
        "score_low": column(confidence.low),
        "score_high": column(confidence.high),
        "confidence": column(confidence.share),
        "uncertain": pa.array(confidence.uncertain.numpy()[owner], mask=bare | (rank > 0)),
    }


def _example_rows(ranking: Ranking, run_id: str) -> pa.Table:
    """Return the rows of the `examples` table: one per (activating, contrastive) pair, a few of each kind.

    An activating image without any partner has a row, too.
    """
    selection, examples = ranking.selection, ranking.examples
    kinds = examples.kinds or ranking.request.examples.kinds
    pairs = stored_pairs(examples)
    neuron, rank, at = pairs.neuron, pairs.rank, (pairs.neuron, pairs.rank, pairs.slot)
    contrast = examples.contrastive[at]
    absent = (contrast < 0).numpy()
    size = len(neuron)
    columns = {
        "run_id": pa.array([run_id] * size),
        "model": pa.array([selection.target.key.model] * size),
        "layer": pa.array([selection.target.key.layer] * size),
        "neuron": pa.array(examples.neurons[neuron].numpy().astype(np.int32)),
        "kind": pa.array(kinds).take(pa.array((pairs.slot // examples.of_each_kind).numpy())),
        "rank": pa.array(rank.numpy().astype(np.int32)),
        "neighbour": pa.array(pairs.neighbour.numpy().astype(np.int32)),
        "image_id": pa.array(examples.activating[neuron, rank].numpy()),
        "activation": pa.array(examples.activations[neuron, rank].numpy()),
        "contrast_id": pa.array(contrast.numpy(), mask=absent),
        "contrast_activation": pa.array(examples.contrast_activations[at].numpy(), mask=absent),
        "similarity": pa.array(examples.similarities[at].numpy(), mask=absent),
        "threshold": pa.array(examples.thresholds[neuron].numpy()),
        "encoder": pa.array([selection.source.name] * size),
    }
    return pa.table(columns, schema=schema.table_schema(schema.EXAMPLES))


def write_labels(store: Store, selection: Selection, rows: LabelRows, hashed: str, *, crop: bool = False) -> None:
    """Store labels, their examples and concept vectors; label rows come last, so one that can be read is whole.

    Labels from crops replace those that were cut by other maps.
    """
    names = ",".join(map(str, selection.neurons.tolist()))
    same = f"settings_hash = {catalog.sql_text(hashed)} AND neuron IN ({names})"
    replaced = f"{stored_under(hashed, crop=crop)} AND neuron IN ({names})"
    _delete_orphans(store, selection, replaced, names)
    store.append(schema.EXAMPLES, rows.examples)
    if rows.vectors is not None:
        table = column_tables.concepts_table(selection.source.name)
        store.delete(table, same)
        first = rows.labels.filter(pc.less_equal(rows.labels["rank"], 0))
        values = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.reshape(-1).numpy()), selection.source.width)
        columns = [first[name] for name in ("run_id", "settings_hash", "model", "layer", "neuron", "method")]
        columns[1] = pa.array([hashed] * first.num_rows)  # one for the whole layer, also where maps are in the labels'
        columns.append(pa.array([rows.images] * first.num_rows, pa.int64()))
        store.append(table, pa.table([*columns, values], schema=column_tables.concepts_schema(selection.source.width)))
    store.delete(schema.LABEL_TERMS, same)
    if rows.terms.num_rows:
        store.append(schema.LABEL_TERMS, rows.terms)
    store.delete(schema.LABEL_PROBABILITIES, same)
    if rows.probabilities is not None and rows.probabilities.num_rows:
        store.append(schema.LABEL_PROBABILITIES, rows.probabilities)
    store.delete(schema.LABELS, replaced)
    store.append(schema.LABELS, rows.labels)


def _delete_orphans(store: Store, selection: Selection, same: str, names: str) -> None:
    """Delete the pairs and terms of the labels about to be replaced, and those a killed run left without labels."""
    replaced = set(store.read(schema.LABELS, ["run_id"], same)["run_id"].to_pylist())
    labelled = set(store.read(schema.LABELS, ["run_id"])["run_id"].unique().to_pylist())
    runs = store.read(schema.RUNS, ["run_id"], "command = 'label' AND state != 'done'")["run_id"].to_pylist()
    for run_ids, where in ((replaced, f" AND neuron IN ({names})"), (set(runs) - labelled, "")):
        if run_ids:
            listed = ",".join(catalog.sql_text(run) for run in sorted(run_ids))
            scope = f" AND {catalog.layer_filter(selection.target)}{where}" if where else ""
            for table in (schema.EXAMPLES, schema.LABEL_TERMS, schema.LABEL_PROBABILITIES):
                store.delete(table, f"run_id IN ({listed}){scope}")
