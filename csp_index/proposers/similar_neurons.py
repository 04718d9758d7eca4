"""Candidates without a model: labels of similar neurons in other layers and networks of the index.

Neurons are similar if their concept vectors are, in the space of one encoder.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from csp_index.contrast.selection import Selection
from csp_index.errors import ProposerError
from csp_index.labelling.concept_vectors import comparable_vectors
from csp_index.labelling.label_rule import read_rule
from csp_index.labelling.linear.label_terms import read_terms
from csp_index.labelling.methods import controls
from csp_index.labelling.review.pinned import pins_of
from csp_index.labelling.review.words import PINNED
from csp_index.labelling.vocabularies import clean_text
from csp_index.ordering import leaders_of
from csp_index.proposers.proposer import Answer
from csp_index.records import NeuronKey
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_ROWS = 1024  # neurons compared at once


@dataclass(frozen=True, slots=True)
class _Labeled:
    """The labeled neurons [L] of another layer, with the method and the best texts of each."""

    target: LayerInfo
    neurons: np.ndarray
    methods: Sequence[str]
    texts: Sequence[tuple[str, ...]]


def related_answers(
    store: Store, selection: Selection, source: EncoderInfo, *, neighbours: int = 5, top: int = 3
) -> Iterator[Answer]:
    """Return one answer per selected neuron: the labels of the most similar neurons outside its layer.

    Of each of `neighbours` similar neurons, the `top` best candidates of the label shown are taken (by any method
    except the random controls). A text's score is the cosine of the two concept vectors, in (0, 1], the greatest if
    several neurons have the text. `raw` is JSON with the labels of each similar neuron. Concept vectors are those
    stored by labeling with `csp`, if every layer involved has them, else mean-centered ones computed here. A dead
    neuron, or one without a similar neuron, fails. Errors: ProposerError if no other layer has labels.
    """
    started = time.perf_counter()
    others = _labeled(store, selection.target, top)
    method, arrays = comparable_vectors(store, source, [selection.target, *(other.target for other in others)])
    vectors = map(torch.from_numpy, arrays)
    alive = torch.from_numpy(catalog.fires(selection.statistics(store)))
    own = next(vectors)[torch.from_numpy(selection.neurons)] * alive[:, None]
    cosines, layers, rows = _nearest(own, [next(vectors)[torch.from_numpy(o.neurons)] for o in others], neighbours)
    seconds = (time.perf_counter() - started) / max(1, len(own))

    def answer(row: int, neuron: int) -> Answer:
        nearest = zip(cosines[row].tolist(), layers[row].tolist(), rows[row].tolist(), strict=True)
        similar = [(value, others[layer], other_row) for value, layer, other_row in nearest if value > 0]
        if similar:
            return Answer(selection.key(neuron), "answered", *_combined(method, similar), seconds=seconds)
        reason = "no labeled neuron is similar to it" if alive[row] else "it never fires on the indexed images"
        return Answer(selection.key(neuron), "failed", reason=reason, seconds=seconds)

    return (answer(row, neuron) for row, neuron in enumerate(selection.neurons.tolist()))


def related_revision(store: Store, target: LayerInfo) -> str:
    """Return a hash of the labels behind the answers about a layer, which changes when other layers are labeled."""
    rows = store.read(schema.LABELS, ["run_id"], f"rank = 0 AND {_elsewhere(target)}")
    runs = sorted(set(rows["run_id"].to_pylist()))
    others = [info for info in catalog.layers(store) if info.key != target.key]
    names = [
        f"{info.key}/{neuron} {pin.text}" for info in others for neuron, pin in sorted(pins_of(store, info).items())
    ]
    return hashlib.sha256(" ".join([*runs, *names]).encode()).hexdigest()[:12]


def _elsewhere(target: LayerInfo) -> str:
    """Return the condition for labels of other layers, without those of random controls."""
    names = ",".join(catalog.sql_text(name) for name in controls())
    return f"NOT ({catalog.layer_filter(target)}) AND method NOT IN ({names})"


def _labeled(store: Store, target: LayerInfo, top: int) -> list[_Labeled]:
    """Return the other layers that have labels, with the label that each neuron shows."""
    layers = [info for info in catalog.layers(store) if catalog.is_finished(store, info)]
    columns = ["model", "layer", "neuron", "run_id", "method", "text"]
    rows = store.read(schema.LABELS, [*columns, "rank"], f"rank >= 0 AND rank < {top} AND {_elsewhere(target)}")
    labels_of: dict[tuple[str, str], dict[int, tuple[tuple[int, str], str, list[str]]]] = {}
    rule, sums = read_rule(store), read_terms(store, _elsewhere(target))
    parts = (column.to_pylist() for column in rows.sort_by("rank").select(columns).columns)
    for model, layer, neuron, run_id, method, text in zip(*parts, strict=True):
        layer_labels = labels_of.setdefault((model, layer), {})
        order = (rule.rank(method), run_id)
        if neuron not in layer_labels or layer_labels[neuron][0] < order:
            layer_labels[neuron] = (order, method, [])
        if layer_labels[neuron][0] == order:
            weighted = None if layer_labels[neuron][2] else sums.get((run_id, NeuronKey(model, layer, neuron)))
            layer_labels[neuron][2].extend([text] if weighted is None else _named(weighted))
    others = []
    for info in layers:
        labels = labels_of.get((info.key.model, info.key.layer), {})
        for neuron, pin in pins_of(store, info).items() if info.key != target.key else ():
            labels[neuron] = ((0, ""), PINNED, [pin.text])  # the name that a reader gave is the label shown
        if labels:
            neurons = sorted(labels)
            texts = [tuple(labels[n][2]) for n in neurons]
            others.append(_Labeled(info, np.array(neurons), [labels[n][1] for n in neurons], texts))
    if not others:
        names = [str(info.key) for info in layers if info.key != target.key]
        step = (
            f"label one first: csp-index label {store.uri} --layer {names[0]}" if names else "index another layer first"
        )
        raise ProposerError(f"no layer other than {target.key} has labels to take candidates from: {step}")
    return others


def _named(weighted: WeightedLabel) -> list[str]:
    """Return the texts of a sum that raise the activation: each is a candidate of its own."""
    return [term.text for term in weighted.terms if term.weight > 0]


def _nearest(
    own: torch.Tensor, others: Sequence[torch.Tensor], count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the greatest cosines of unit vectors own [M, D] with rows of others [L, D], with their layers and rows.

    All are [M, count], best first, and 0 where there are fewer. Among equals, the earlier layer and row comes first.
    """
    values = torch.zeros(len(own), count)
    layers, rows = (torch.zeros(len(own), count, dtype=torch.int64) for _ in range(2))
    for number, other in enumerate(others):
        for start in range(0, len(own), _ROWS):
            pick = slice(start, start + _ROWS)
            cosines = own[pick] @ other.T
            best = leaders_of(cosines, min(count, len(other)))
            joined = torch.cat([values[pick], cosines.gather(1, best)], 1).sort(dim=1, descending=True, stable=True)
            order = joined.indices[:, :count]
            layer = torch.cat([layers[pick], torch.full_like(best, number)], 1).gather(1, order)
            row = torch.cat([rows[pick], best], 1).gather(1, order)
            values[pick], layers[pick], rows[pick] = joined.values[:, :count], layer, row
    return values, layers, rows


def _combined(
    method: str, similar: Sequence[tuple[float, _Labeled, int]]
) -> tuple[str, tuple[str, ...], tuple[float, ...]]:
    """Return the raw answer, its texts and their scores, most similar neuron first."""
    scores: dict[str, tuple[str, float]] = {}
    sources = []
    for value, other, row in similar:
        value = min(value, 1.0)
        neuron = f"{other.target.key}/{other.neurons[row]}"
        label = {"similarity": round(value, 6), "method": other.methods[row], "labels": list(other.texts[row])}
        sources.append({"neuron": neuron, **label})
        for text in other.texts[row]:
            scores.setdefault(clean_text(text).casefold(), (text, value))
    raw = json.dumps({"vectors": method, "neighbours": sources}, ensure_ascii=False)
    return raw, tuple(text for text, _ in scores.values()), tuple(score for _, score in scores.values())
