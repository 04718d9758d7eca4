"""The page of a neuron, as a document that JSON can hold.

Its functions take a snapshot and an engine that returns arrays, so this file does not load torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

import csp_index
from csp_index.contrast.quality import quality_of_pairs
from csp_index.labelling.linear.label_terms import read_terms
from csp_index.labelling.methods import METHODS, methods_with
from csp_index.labelling.review.notes import review_of, subject_of
from csp_index.labelling.review.pinned import layer_digest
from csp_index.labelling.review.words import PINNED
from csp_index.printable import without_folders
from csp_index.query.neuron_view import STATISTICS, told_if_stale
from csp_index.records import ExamplePair, Label, LabelScore, NeuronKey
from csp_index.service.documents.concepts.similar import similar_neurons
from csp_index.service.documents.held_out import held_out
from csp_index.service.documents.home import run_row
from csp_index.service.documents.maps import can_open, placed_maps
from csp_index.service.documents.neuron_shapes import (
    ComparedNeuron,
    Facet,
    LabelRun,
    MethodRow,
    NeuronDocument,
    PairRow,
    Provenance,
    QualityRow,
    ScoreRow,
    Statistics,
    TermRow,
)
from csp_index.service.documents.snippets import snippets
from csp_index.service.documents.spread import spread_of_neuron
from csp_index.service.documents.studies.classes import neuron_classes
from csp_index.service.documents.studies.effects import neuron_effects
from csp_index.service.documents.studies.facets import directions, facets_of, name_facets
from csp_index.service.documents.studies.meanings import neuron_facets, neuron_formula
from csp_index.service.documents.studies.review_shapes import ReviewRow
from csp_index.service.documents.verdict import below, scales, verdict
from csp_index.service.layer_table import LayerTable, finite
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, schema
from csp_index.store.stored_json import read_object
from csp_index.store.values.class_names import class_names

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

THRESHOLDS: Final = ("mean", "quantile:0.25", "quantile:0.5", "quantile:0.75", "quantile:0.9", "max:0.1", "max:0.5")
"""Thresholds of low activation that a page offers; `ExampleOptions.threshold` takes more."""

COLUMNS: Final = 16
"""The activating images that a page shows at its top, each with its partners; further ones are folded away."""

_KEPT = 20  # candidates shown for a neuron
_FACETED = 60  # most activating images that facets are made of
_GAMMA = 0.5  # of facets where the label's method has none: both whole concepts and conjunctions survive it


def neuron_document(snapshot: Snapshot, engine: Engine, key: NeuronKey, method: str | None = None) -> NeuronDocument:
    """Return all that a page shows of a neuron; its label is the newest by `method`, by default the label shown.

    Raises NotFoundError for an unknown neuron and for a method that labelled nothing in its layer.
    """
    table = snapshot.neuron(key)
    record = _label_record(snapshot, table, key, method)
    spread = spread_of_neuron(snapshot, table, key)
    rows = spread.rows()
    ids = {pair.image_id for pair in record.pairs} | {p.contrast_id for p in record.pairs if p.contrast_id is not None}
    ids |= {image["image_id"] for row in rows for image in row["images"]}
    name = record.label.text if record.label else None  # a reader may give another while the service runs
    facets, facets_note = neuron_facets(snapshot, key, name)
    stored = facets is not None
    if facets is None:
        facets = snapshot.cache.get(
            ("facets", key, method, name),
            lambda: _facets(snapshot, engine, record),
            lambda facets: 1000 * (1 + len(facets)),
        )
    ids |= {image for facet in facets for image in facet["images"]}
    classes, of_classes = neuron_classes(snapshot, key)
    ids |= of_classes
    label = record.label
    provenance = snapshot.cache.get(
        ("provenance", key.layer_key, label and label.run_id),
        lambda: _provenance(snapshot, table, record),
        lambda provenance: 10_000,
    )
    similar = similar_neurons(snapshot, engine, key)
    row = table.row(key.neuron, method)
    placed, top = placed_maps(snapshot, key.layer_key), table.statistics_of(key.neuron)["top_images"]
    mapped = placed.of(key.neuron, top)
    doubt = label.doubt if label else ""
    document: ComparedNeuron = {
        **row,
        "labels": [_score_row(score) for score in label.labels] if label else [],
        "terms": [cast(TermRow, asdict(term)) for term in label.terms] if label else [],
        "bias": label.weighted.bias if label and label.weighted else None,
        "rivals": [_score_row(score) for score in label.rivals] if label else [],
        "prediction_set": [_score_row(score) for score in label.prediction_set] if label else [],
        "doubt": doubt,
        "note": label.note if label else "",
        "verdict": verdict(row, record.statistics, doubt, "imported" in record.settings),
        "scales": scales(table, row),
        "held_out": held_out(snapshot, key, row["method"]),
        "class_name": class_names(snapshot.store, key.layer_key).get(key.neuron),
        "statistics": record.statistics,
        "pairs": [_pair_row(pair) for pair in record.pairs],
        "contrast_quality": cast(QualityRow, quality_of_pairs(record.pairs).as_json()),
        "images": {str(image): name for image, name in snapshot.names(ids).items()},
        "mapped": mapped,
        "maps_made": placed.made if mapped else None,
        "can_look": engine.may_run(table.info) and bool(top) and can_open(snapshot, top[0]),
        "quantile_rows": rows,
        "histogram": spread.histogram(),
        "threshold": record.threshold if record.threshold is not None else finite(record.statistics["mean"]),
        "threshold_name": record.settings.get("examples", {}).get("threshold", "mean"),
        "threshold_choices": list(THRESHOLDS),
        "methods": _methods(table, key),
        "facets": facets,
        "facets_stored": stored,
        "facets_note": facets_note,
        "formula": neuron_formula(snapshot, key),
        "similar": similar.rows,
        "similar_floor": similar.floor,
        "similar_left_out": similar.left_out,
        "similar_note": similar.note,
        "classes": classes,
        "effects": neuron_effects(snapshot, key),
        "provenance": provenance,
        "review": _review(snapshot, table, key),
        "previous": f"{table.info.key}/{key.neuron - 1}" if key.neuron else None,
        "next": f"{table.info.key}/{key.neuron + 1}" if key.neuron + 1 < table.info.neurons else None,
    }
    return {**document, "queries": snippets(document, snapshot.name)}


def first_pictures(page: NeuronDocument) -> list[int]:
    """Return the images at the top of a neuron's page as they stand there: the strongest, each with its nearest partner
    of each kind, or alone if there are no pairs."""
    shown = dict[int, list[int]]()  # by rank
    partnered = set[tuple[int, str]]()
    for pair in page["pairs"]:
        column = shown.setdefault(pair["rank"], [pair["image_id"]])
        if pair["contrast_id"] is not None and (pair["rank"], pair["kind"]) not in partnered:
            partnered.add((pair["rank"], pair["kind"]))
            column.append(pair["contrast_id"])
    paired = [image for rank in sorted(shown)[:COLUMNS] for image in shown[rank]]
    return paired or [image["image_id"] for row in page["quantile_rows"][:1] for image in row["images"]]


def _review(snapshot: Snapshot, table: LayerTable, key: NeuronKey) -> ReviewRow:
    review = review_of(snapshot.reviews.notes(subject_of(str(key))), layer_digest(table.info))
    return cast(ReviewRow, review.as_json())


def _said(run: dict[str, Any] | None, column: str) -> dict[str, Any]:
    """Return what a run says in a column of JSON, nothing without a run."""
    return read_object(run[column], schema.RUNS, column) if run else {}


@dataclass(frozen=True, slots=True)
class _LabelRecord:
    """A neuron's label as a page shows it, with its evidence; without a label its top images alone."""

    label: Label | None
    pairs: tuple[ExamplePair, ...]
    threshold: float | None
    statistics: Statistics
    run: dict[str, Any] | None
    settings: dict[str, Any]
    top: tuple[tuple[int, float], ...]  # the highest activating images, strongest first


def _label_record(snapshot: Snapshot, table: LayerTable, key: NeuronKey, method: str | None) -> _LabelRecord:
    row = table.statistics_of(key.neuron)
    quantiles = {str(q): value for q, value in zip(schema.QUANTILES, row["quantiles"], strict=True)}
    statistics = cast(Statistics, {name: row[name] for name in STATISTICS} | {"quantiles": quantiles})
    top = tuple(pair for pair in zip(row["top_images"], row["top_activations"], strict=True) if pair[1] > 0)
    labels = table.labels(method)
    label = labels.label(key, _KEPT) if labels else None
    if label is None:
        return _LabelRecord(None, (), None, statistics, None, {}, top)
    run = snapshot.run(label.run_id)
    label = told_if_stale(label, run["settings"] if run else None, row["images"])
    where = (
        f"{catalog.layer_filter(table.info)} AND neuron = {key.neuron} AND run_id = {catalog.sql_text(label.run_id)}"
    )
    info = METHODS.get(label.method)  # None of labels from elsewhere, which may be sums
    if label.method != PINNED and (info is None or info.is_sum):
        label = replace(label, weighted=read_terms(snapshot.store, where).get((label.run_id, key)))
    pairs, threshold = snapshot.pairs_of(key, label.run_id)
    return _LabelRecord(label, pairs, threshold, statistics, run, _said(run, "settings"), top)


def _pair_row(pair: ExamplePair) -> PairRow:
    return {
        "rank": pair.rank,
        "image_id": pair.image_id,
        "activation": pair.activation,
        "contrast_id": pair.contrast_id,
        "contrast_activation": finite(pair.contrast_activation),
        "similarity": finite(pair.similarity),
        "neighbour": pair.neighbour,
        "kind": pair.kind,
    }


def _score_row(score: LabelScore) -> ScoreRow:
    return {
        "text": score.text,
        "score": score.number,
        "low": finite(score.low),
        "high": finite(score.high),
        "share": finite(score.share),
    }


def _methods(table: LayerTable, key: NeuronKey) -> list[MethodRow]:
    """Return the newest label of the neuron by each method, the layer's main method first."""
    names = sorted(table.methods, key=lambda name: (name != table.method, name))
    rows = [(table.methods[name], table.row(key.neuron, name)) for name in names]
    return [
        {
            "method": labels.method,
            "text": row["label"],
            "score": row["score"],
            "state": row["state"],
            "confidence": row["confidence"],
            "probability": row["probability"],
            "uncertain": row["uncertain"],
            "control": labels.method in METHODS and METHODS[labels.method].control,
            "above_layer": below(labels.scores, row["score"]),
            "run_id": labels.runs[key.neuron] if labels.method != PINNED else "",
        }
        for labels, row in rows
        if labels.methods[key.neuron]
    ]


def _facets(snapshot: Snapshot, engine: Engine, record: _LabelRecord) -> list[Facet]:
    """Return the groups among the activating images, each named by the nearest stored text, if there are any.

    A single group is named by the neuron's label.
    """
    partners = {pair.image_id: pair for pair in reversed(record.pairs) if pair.neighbour == 0}
    pairs = sorted(partners.values(), key=lambda pair: pair.rank) or [
        ExamplePair(rank, image, value) for rank, (image, value) in enumerate(record.top[:_FACETED])
    ]
    pairs = pairs[:_FACETED]
    if not pairs:
        return []
    ids = [pair.image_id for pair in pairs]
    contrast = [pair.image_id if pair.contrast_id is None else pair.contrast_id for pair in pairs]
    similarity = [0.0 if pair.contrast_id is None else pair.similarity or 0.0 for pair in pairs]
    vectors = engine.vectors_of([*ids, *contrast])
    method = record.label and record.label.method
    by_gamma = (record.settings.get("method") if method == PINNED else method) in methods_with("gamma")
    gamma = float(record.settings.get("scoring", {}).get("gamma", _GAMMA)) if by_gamma else _GAMMA
    rows = directions(vectors[: len(ids)], vectors[len(ids) :], np.array(similarity, dtype=np.float32), gamma)
    facets = facets_of(rows)
    weights = np.array([max(pair.activation, 0.0) for pair in pairs], dtype=np.float32)
    name = record.label.text if record.label else None
    alone = len(facets) == 1 and name is not None  # one facet alone is what the neuron's label names
    texts = None if alone else snapshot.texts(str(record.settings.get("candidates", "")))
    if texts is None:
        named: list[tuple[str | None, np.ndarray]] = [(name if alone else None, facet) for facet in facets]
    else:
        named = [(texts.names[at], facet) for at, facet in name_facets(rows, weights, facets, texts.directions)]
    return [
        {"label": name, "share": len(facet) / len(ids), "images": [ids[place] for place in facet]}
        for name, facet in named
    ]


def _provenance(snapshot: Snapshot, table: LayerTable, record: _LabelRecord) -> Provenance:
    """Return where the label comes from: its run, the encoder, the layer, the vocabulary, the packages' versions."""
    info, encoder, run = table.info, snapshot.encoder, record.run
    provenance: Provenance = {
        "run": _label_run(run, record.settings) if run else None,
        "encoder": {
            "encoder": encoder.name,
            "width": encoder.width,
            "logit_scale": encoder.logit_scale,
            "identity": encoder.identity,
        },
        "layer": {
            "layer": str(info.key),
            "neurons": info.neurons,
            "pool": info.pool,
            "dtype": info.dtype,
            "identity": info.identity,
        },
        "vocabulary": record.settings.get("candidates"),
        "versions": _said(run, "versions") if run else {"csp_index": csp_index.__version__},
    }
    return cast(Provenance, without_folders(provenance))


def _label_run(run: dict[str, Any], settings: dict[str, Any]) -> LabelRun:
    return {**run_row(run), "settings": settings, "settings_hash": run["settings_hash"]}
