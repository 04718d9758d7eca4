"""Labels, pairs, concept vectors, answers, evaluations: complete, and what they refer to exists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index.integrity.column_checks import Marks
from csp_index.integrity.derived_checks import check_derived, derived_tables
from csp_index.integrity.findings import reading
from csp_index.integrity.studies.study_checks import RULES
from csp_index.integrity.subject import Subject, many
from csp_index.labelling.linear.label_terms import read_terms
from csp_index.labelling.methods import METHODS
from csp_index.store import catalog, schema, study_tables
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.values import streams

_NEURON = ("model", "layer", "neuron")
_KEY = ("run_id", *_NEURON)
_PAIRED = 16  # labels whose pairs are compared with activations and embeddings without `full`
_AT_ONCE = 16  # neurons whose activations are in memory at once
_CLOSE = 1e-3  # of stored cosines, and of activations as a share of the neuron's largest
# `study_checks` looks at the others, `review_checks` at what readers say
_OF_NEURONS = tuple(name for name in schema.OF_NEURONS if name not in (*RULES, *study_tables.OF_READERS))
_UNIQUE = {
    schema.CANDIDATES: [*_KEY, "kind", "proposer", "rank"],
    schema.ANSWERS: ["settings_hash", *_NEURON, "kind"],
    schema.EVALUATIONS: [*_KEY, "kind", "method", "text", "metric"],
    schema.CLASS_NAMES: [*_NEURON],
    schema.LABEL_NULLS: [*_KEY, "method"],
    schema.ENCODERS: ["encoder"],
    schema.LAYERS: ["model", "layer"],
    schema.FAILURES: ["uri"],
    schema.RUNS: ["run_id"],
}
_OF_STUDIES = tuple(name for name in study_tables.OF_RUNS if name not in RULES)
_OF_RUNS = (*_OF_NEURONS, *_OF_STUDIES, schema.FAILURES, schema.ENCODERS, schema.LAYERS, schema.SHARDS)


def check_results(subject: Subject, marks: Marks) -> None:
    """Check all tables of results."""
    tables = [name for name in subject.store.table_names() if subject.is_readable(name)]
    derived = check_derived(subject)
    concepts = [name for name in tables if name.startswith("concepts_")]
    for name in tables:
        with reading(subject.result.findings, name):
            if name in _OF_RUNS or name in concepts:
                _check_runs(subject, name)
            if name in _OF_NEURONS or name in concepts or name.startswith("derived_"):
                _check_neurons(subject, name)
    checks: dict[str, Callable[[], None]] = {
        schema.LABELS: partial(_check_labels, subject),
        schema.LABEL_TERMS: partial(_check_terms, subject),
        schema.LABEL_PROBABILITIES: partial(_check_probabilities, subject),
        schema.EXAMPLES: partial(_check_pairs, subject, derived, marks),
        schema.SPLITS: partial(_check_splits, subject),
    }
    checks |= {name: partial(_check_doubled, subject, name, columns) for name, columns in _UNIQUE.items()}
    if schema.LABEL_TERMS not in tables and schema.LABELS in tables:
        _check_lacking_terms(subject, set())
    for name, check in checks.items():
        if subject.is_readable(name):
            subject.result.count("rows", subject.store.count(name))
            with reading(subject.result.findings, name):
                check()
    for name in concepts:
        with reading(subject.result.findings, name):
            _check_concepts(subject, name)


def _check_runs(subject: Subject, name: str) -> None:
    """Find rows of runs that no record of a run names."""
    if schema.RUNS in subject.damaged:
        return
    known = subject.store.read(schema.RUNS, ["run_id"])["run_id"]
    rows = subject.store.read(name, ["run_id"])["run_id"]
    unknown = pc.unique(rows.filter(pc.invert(pc.is_in(rows, known.combine_chunks())))).to_pylist()
    for run in unknown:
        if name in (schema.ENCODERS, schema.LAYERS, schema.SHARDS, schema.FAILURES):
            subject.find(schema.RUNS, f"the run of rows of {name} is missing", f"run {run}", key=(run,))
        else:
            _find_results(subject, name, "no such run is recorded", run)


def _find_results(subject: Subject, name: str, what: str, run: str | None, where: str = "") -> None:
    """Add a finding about the rows of a run: labels go with their pairs and vectors, others alone."""
    of_labels = name in (schema.LABELS, schema.LABEL_TERMS, schema.EXAMPLES) or name.startswith("concepts_")
    place = ", ".join(part for part in (f"run {run}", where) if part)
    condition = "run_id IS NULL" if run is None else f"run_id = {catalog.sql_text(run)}"
    subject.find(name, what, place, "delete results" if of_labels else "delete rows", (name, condition))


def _check_neurons(subject: Subject, name: str) -> None:
    """Find rows of neurons that do not exist."""
    if not subject.rests_on(schema.LAYERS):
        return
    neurons = subject.known_layers
    rows = subject.store.read(name, list(_KEY))
    grouped = rows.group_by(["run_id", "model", "layer"]).aggregate([("neuron", "min"), ("neuron", "max")])
    for row in grouped.to_pylist():
        most = neurons.get((row["model"], row["layer"]), 0)
        if not 0 <= row["neuron_min"] <= row["neuron_max"] < most:
            neuron = row["neuron_max"] if row["neuron_min"] >= 0 else row["neuron_min"]
            where = f"{row['model']}/{row['layer']}/{neuron}"
            _find_results(subject, name, "this neuron does not exist", row["run_id"], where)


def _check_doubled(subject: Subject, name: str, columns: list[str]) -> None:
    """Find rows that are there more than once."""
    for row in _doubled(subject.store.read(name, columns), columns):
        place = ", ".join(str(row[column]) for column in columns if row[column] is not None)
        key = (name, " AND ".join(_equal(column, row[column]) for column in columns))
        subject.find(name, "this row is there more than once", place, "delete rows", key)


def _doubled(rows: pa.Table, columns: list[str]) -> list[dict[str, Any]]:
    counts = rows.append_column("rows", pa.array(np.ones(rows.num_rows, np.int64))).group_by(columns)
    counted = counts.aggregate([("rows", "sum")])
    doubled: list[dict[str, Any]] = counted.filter(pc.greater(counted["rows_sum"], 1)).slice(0, 20).to_pylist()
    return doubled


def _equal(column: str, value: object) -> str:
    if value is None:
        return f"{column} IS NULL"
    return f"{column} = {catalog.sql_text(value) if isinstance(value, str) else value}"


def _check_labels(subject: Subject) -> None:
    """Check that each label is complete, and that labels have their pairs and pairs their labels."""
    rows = subject.store.read(schema.LABELS, [*_KEY, "settings_hash", "state", "rank", "text"])
    grouped = rows.group_by([*_KEY, "state"]).aggregate(
        [("rank", "count"), ("rank", "min"), ("rank", "max"), ("rank", "count_distinct"), ("text", "count")]
    )
    subject.result.count("labels", grouped.num_rows)
    labelled = set()
    for row in grouped.to_pylist():
        count = row["rank_count"]
        good = (0, count - 1, count, count) if row["state"] == "labelled" else (-1, -1, 1, 0)
        if (row["rank_min"], row["rank_max"], row["rank_count_distinct"], row["text_count"]) != good:
            where = f"{row['model']}/{row['layer']}/{row['neuron']}"
            _find_results(subject, schema.LABELS, "rows of this label are missing or doubled", row["run_id"], where)
        elif row["state"] == "labelled":
            labelled.add(tuple(row[name] for name in _KEY))
    heads = rows.filter(pc.less_equal(rows["rank"], 0))
    for row in _doubled(heads, ["settings_hash", *_NEURON]):
        where = f"{row['model']}/{row['layer']}/{row['neuron']}"
        same = heads.filter(pc.and_(pc.equal(heads["settings_hash"], row["settings_hash"]), _is_neuron(heads, row)))
        for run in sorted(same["run_id"].to_pylist())[:-1]:
            _find_results(subject, schema.LABELS, "the label is there from two runs", run, where)
    if subject.is_readable(schema.EXAMPLES):
        paired = _keys(subject.store.read(schema.EXAMPLES, list(_KEY)))
        every = _keys(rows.select(list(_KEY)))
        for table, missing, what in (
            (schema.LABELS, labelled - paired, "the label has no pairs"),
            (schema.EXAMPLES, paired - every, "pairs without a label"),
        ):
            _find_by_run(subject, table, missing, what)


def _check_terms(subject: Subject) -> None:
    """Check that weighted labels have all their terms, each text once with a finite weight, and terms their labels."""
    rows = subject.store.read(schema.LABEL_TERMS)
    subject.result.count("terms", rows.num_rows)
    grouped = rows.group_by(list(_KEY)).aggregate(
        [("position", "max"), ("position", "count_distinct"), ("text", "count_distinct"), ("text", "count")]
    )
    counts = (grouped[name] for name in ("position_count_distinct", "text_count_distinct", "text_count"))
    last = pc.add(grouped["position_max"], 1)
    wrong = [pc.not_equal(pc.cast(last, pa.int64()), count) for count in counts]
    broken = _keys(grouped.filter(pc.or_(pc.or_(wrong[0], wrong[1]), wrong[2])).select(list(_KEY)))
    _find_by_run(subject, schema.LABEL_TERMS, broken, "terms of these labels are missing or doubled")
    finite = [pc.fill_null(pc.is_finite(rows[name]), False) for name in ("weight", "bias")]
    endless = _keys(rows.filter(pc.invert(pc.and_(*finite))).select(list(_KEY)))
    _find_by_run(subject, schema.LABEL_TERMS, endless, "weights of these labels are no finite numbers")
    if subject.is_readable(schema.LABELS):
        summed = _keys(rows.select(list(_KEY)))
        heads = subject.store.read(schema.LABELS, [*_KEY, "text"], "rank = 0")
        columns = zip(*(heads[name].to_pylist() for name in heads.column_names), strict=True)
        texts = {tuple(key): text for *key, text in columns}
        _find_by_run(subject, schema.LABEL_TERMS, summed - texts.keys(), "terms without a label")
        _check_lacking_terms(subject, summed)
        if not broken and not endless:
            sums = {(run, *astuple(neuron)): label.text for (run, neuron), label in read_terms(subject.store).items()}
            other = {key for key, text in sums.items() if texts.get(key, text) != text}
            _find_by_run(subject, schema.LABEL_TERMS, other, "terms are not those of the label as it is written")


def _check_lacking_terms(subject: Subject, summed: set[tuple[Any, ...]]) -> None:
    names = ",".join(catalog.sql_text(name) for name, info in METHODS.items() if info.is_sum)
    rows = subject.store.read(schema.LABELS, list(_KEY), f"state = 'labelled' AND method IN ({names})")
    _find_by_run(subject, schema.LABELS, _keys(rows) - summed, "the label has no terms")


def _check_probabilities(subject: Subject) -> None:
    """Check that probabilities lie between 0 and 1, one for a label at most, and none is without its label."""
    name = schema.LABEL_PROBABILITIES
    _check_doubled(subject, name, [*_KEY, "method"])
    rows = subject.store.read(name, [*_KEY, "probability"])
    inside = pc.and_(pc.greater_equal(rows["probability"], 0), pc.less_equal(rows["probability"], 1))
    wrong = rows.filter(pc.invert(pc.fill_null(inside, False))).select(list(_KEY))
    _find_by_run(subject, name, _keys(wrong), "probabilities of these labels are not between 0 and 1")
    if subject.is_readable(schema.LABELS):
        labels = _keys(subject.store.read(schema.LABELS, list(_KEY), "rank = 0"))
        _find_by_run(subject, name, _keys(rows.select(list(_KEY))) - labels, "probabilities without a label")


def _is_neuron(rows: pa.Table, row: dict[str, Any]) -> pa.ChunkedArray:
    model, layer, neuron = (pc.equal(rows[name], row[name]) for name in _NEURON)
    return pc.and_(pc.and_(model, layer), neuron)


def _keys(rows: pa.Table) -> set[tuple[Any, ...]]:
    grouped = rows.group_by(list(_KEY)).aggregate([])
    return set(zip(*(grouped[name].to_pylist() for name in _KEY), strict=True))


def _find_by_run(subject: Subject, table: str, keys: set[tuple[Any, ...]], what: str) -> None:
    for run in sorted({key[0] for key in keys}):
        own = sorted(f"{model}/{layer}/{neuron}" for key_run, model, layer, neuron in keys if key_run == run)
        _find_results(subject, table, what, run, many(own, "neuron"))


def _check_pairs(subject: Subject, derived: set[int], marks: Marks) -> None:
    """Check that the images of pairs exist, no pair is doubled, and activations and cosines are those of the images."""
    store = subject.store
    columns = [*_KEY, "kind", "rank", "neighbour", "image_id", "contrast_id", "encoder"]
    rows = store.read(schema.EXAMPLES, columns)
    if subject.rests_on(schema.SHARDS, schema.IMAGES, *derived_tables(subject)):
        ids = rows["image_id"]
        wrong = pc.or_(pc.less(ids, 0), pc.greater_equal(ids, subject.images))
        contrast = rows["contrast_id"]
        unknown = pc.and_(
            pc.or_(pc.less(contrast, 0), pc.greater_equal(contrast, subject.images)),
            pc.invert(pc.is_in(contrast, pa.array(sorted(derived), pa.int64()))),
        )
        bad = rows.filter(pc.or_(wrong, pc.fill_null(unknown, False)))
        _find_by_run(subject, schema.EXAMPLES, _keys(bad.select(list(_KEY))), "images of its pairs do not exist")
    twice = _doubled(rows, [*_KEY, "kind", "rank", "neighbour"])
    _find_by_run(subject, schema.EXAMPLES, {tuple(row[name] for name in _KEY) for row in twice}, "pairs are doubled")
    ranks = rows.group_by(list(_KEY)).aggregate([("rank", "max"), ("rank", "count_distinct")])
    gaps = ranks.filter(pc.not_equal(pc.add(ranks["rank_max"], 1), ranks["rank_count_distinct"]))
    _find_by_run(subject, schema.EXAMPLES, _keys(gaps.select(list(_KEY))), "pairs are missing")
    _check_pair_values(subject, sorted(_keys(rows.select(list(_KEY)))), marks)


def _check_pair_values(subject: Subject, keys: list[tuple[Any, ...]], marks: Marks) -> None:
    """Compare stored activations and similarities of some labels with those of the images."""
    layers = {(info.key.model, info.key.layer): info for info in subject.layers if info.what in marks}
    encoders = {info.name: info for info in subject.encoders if info.what in marks}
    chosen = [keys[place] for place in subject.sample(len(keys), _PAIRED)]
    chosen = [key for key in chosen if (info := layers.get(key[1:3])) and 0 <= key[3] < info.neurons]
    wrong = set()
    for layer, info in layers.items():
        own = sorted({key[3] for key in chosen if key[1:3] == layer})
        for start in range(0, len(own), _AT_ONCE):
            wrong |= _wrong_pairs(subject, info, own[start : start + _AT_ONCE], encoders, marks)
    _find_by_run(
        subject, schema.EXAMPLES, wrong, "activations or similarities of its pairs are not those of the images"
    )


def _wrong_pairs(
    subject: Subject, info: LayerInfo, neurons: list[int], encoders: dict[str, EncoderInfo], marks: Marks
) -> set[tuple[Any, ...]]:
    """Return the labels of some neurons of a layer whose pairs have other values than their images."""
    where = f"{catalog.layer_filter(info)} AND neuron IN ({','.join(map(str, neurons))})"
    rows = subject.store.read(schema.EXAMPLES, where=where)
    shards = [shard for shard, _ in marks[info.what]]
    values = torch.cat(list(streams.activation_tiles(subject.store, info, shards, np.array(neurons))), 1).numpy()
    subject.result.count("pairs", rows.num_rows)
    bad = _wrong_activations(rows, neurons, values) | _wrong_cosines(subject, rows, encoders)
    return _keys(rows.filter(pa.array(bad)).select(list(_KEY)))


def _wrong_activations(rows: pa.Table, neurons: list[int], values: np.ndarray) -> np.ndarray:
    place = np.searchsorted(neurons, rows["neuron"].to_numpy())
    wrong = np.zeros(rows.num_rows, dtype=bool)
    for image, activation in (("image_id", "activation"), ("contrast_id", "contrast_activation")):
        ids = rows[image].combine_chunks().fill_null(-1).to_numpy()
        stored = rows[activation].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
        known = (ids >= 0) & (ids < values.shape[1])
        bound = _CLOSE * np.abs(values).max(1)[place]  # a shard that was computed again may differ in rounding
        wrong[known] |= ~(np.abs(values[place[known], ids[known]] - stored[known]) <= bound[known])
    return wrong


def _wrong_cosines(subject: Subject, rows: pa.Table, encoders: dict[str, EncoderInfo]) -> np.ndarray:
    wrong = np.zeros(rows.num_rows, dtype=bool)
    names = np.array(rows["encoder"].to_pylist())
    left, right = rows["image_id"].to_numpy(), rows["contrast_id"].combine_chunks().fill_null(-1).to_numpy()
    stored = rows["similarity"].combine_chunks().fill_null(0).to_numpy(zero_copy_only=False)
    for name in sorted(set(names.tolist()) - encoders.keys()):
        if subject.rests_on(schema.ENCODERS) and name not in subject.known_encoders:
            wrong |= names == name
    for name, info in encoders.items():
        inside = (left >= 0) & (left < subject.images) & (right >= 0) & (right < subject.images)
        known = np.flatnonzero((names == name) & inside)
        for part in np.array_split(known, -(-len(known) // 65536) or 1):
            pair = (streams.embeddings_of(subject.store, info, ids[part]) for ids in (left, right))
            cosines = torch.einsum("nd,nd->n", *pair).numpy()
            wrong[part] |= np.abs(cosines - stored[part]) > _CLOSE
    return wrong


def _check_concepts(subject: Subject, name: str) -> None:
    """Check that concept vectors are finite unit vectors, none doubled, each of a label."""
    rows = subject.store.read(name)
    subject.result.count("concept vectors", rows.num_rows)
    width = rows.schema.field("vector").type.list_size
    flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    lengths = np.linalg.norm(flat.astype(np.float64), axis=1)
    wrong = ~((np.abs(lengths - 1) < _CLOSE) | (lengths == 0))  # zero for a neuron without a label
    bad = rows.filter(pa.array(wrong)).select(list(_KEY))
    _find_by_run(subject, name, _keys(bad), "vectors are not finite, or not of unit length")
    for row in _doubled(rows.select(["settings_hash", *_NEURON]), ["settings_hash", *_NEURON]):
        same = rows.filter(pc.and_(pc.equal(rows["settings_hash"], row["settings_hash"]), _is_neuron(rows, row)))
        for run in sorted(set(same["run_id"].to_pylist())):
            where = f"{row['model']}/{row['layer']}/{row['neuron']}"
            _find_results(subject, name, "the vector is there more than once", run, where)
    if subject.is_readable(schema.LABELS):
        labels = _keys(subject.store.read(schema.LABELS, list(_KEY)))
        own = _keys(rows.select(list(_KEY)))
        _find_by_run(subject, name, own - labels, "vectors without a label")
        runs = {key[0] for key in own}  # of these every label has a vector
        _find_by_run(subject, name, {key for key in labels if key[0] in runs} - own, "vectors are missing")


def _check_splits(subject: Subject) -> None:
    """Check that the images of the two parts of a split exist, and that no image is in both."""
    _check_doubled(subject, schema.SPLITS, ["split"])
    for row in subject.store.read(schema.SPLITS).to_pylist():
        choosing, judging = set(row["choosing"]), set(row["judging"])
        outside = [image for image in choosing | judging if not 0 <= image < subject.images]
        if (outside and subject.rests_on(schema.SHARDS, schema.IMAGES)) or choosing & judging:
            key = (schema.SPLITS, f"split = {catalog.sql_text(row['split'])}")
            subject.find(schema.SPLITS, "images are in both parts, or do not exist", f"split {row['split']}", key=key)
