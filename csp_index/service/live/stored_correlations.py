"""Correlations with texts read back from the labels of a run: they depend on no knob of the example sets.

A run stored the best candidates of each neuron with their scores, for `linear` also the sum that comes first. A query
for as many candidates of the same vocabulary needs no look at the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from csp_index.contrast.selection import Selection
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.linear.explanation import MOST_TERMS, Explanation, LinearTerms
from csp_index.labelling.linear.label_terms import TermKey, read_terms
from csp_index.labelling.request import KEPT, LabelRequest
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, schema
from csp_index.store.stored_json import read_object

_LABEL_BYTES = 500  # of a label's terms in memory, about


def stored_correlations(
    snapshot: Snapshot, selection: Selection, request: LabelRequest, texts: CandidateTexts
) -> Explanation | None:
    """Return the selected neurons' kept correlations, -inf for all other texts; None where no run stored them."""
    labels = snapshot.layer(selection.target.key).methods.get(request.method)
    if labels is None or selection.pool is not None or texts.own is not None:
        return None
    places = snapshot.cache.get(
        ("places of texts", texts.key), lambda: {text: place for place, text in enumerate(texts.texts)}, _size
    )
    images, needed = selection.images(snapshot.store), min(max(KEPT, request.top), len(places))
    same: dict[str, bool] = {}
    correlation = torch.full((len(selection.neurons), len(texts.texts)), -torch.inf)
    sums: list[tuple[float, WeightedLabel]] = []
    for row, neuron in enumerate(selection.neurons.tolist()):
        run = str(labels.runs[neuron])
        if run not in same:
            same[run] = _answers(snapshot.run(run), selection, request, texts, images)
        label = labels.label(selection.key(neuron), needed)
        if not same[run] or label is None or label.state != "labelled" or len(label.labels) < needed:
            return None
        names, scores = [one.text for one in label.labels], [one.score for one in label.labels]
        if request.info.is_sum:
            weighted = _terms(snapshot, selection).get((run, label.neuron))
            if weighted is None:
                return None
            sums.append((scores[0], weighted))
            names, scores = names[1:], scores[1:]
        if len(places) < len(texts.texts) or not all(name in places for name in names):
            return None
        correlation[row, torch.tensor([places[name] for name in names], dtype=torch.int64)] = torch.tensor(scores)
    return Explanation(correlation, _linear_terms(sums, places) if request.info.is_sum else None)


def _answers(
    run: Mapping[str, Any] | None, selection: Selection, request: LabelRequest, texts: CandidateTexts, images: int
) -> bool:
    """Return whether a run computed the correlations that a request needs, over all images of the index."""
    settings = read_object(run["settings"], schema.RUNS, "settings") if run else {}
    same = {
        "images": images,
        "encoder_identity": selection.source.identity,
        "layer_identity": selection.target.identity,
        "method": request.method,
        "candidates": texts.key,
    }
    if any(settings.get(name) != value for name, value in same.items()):
        return False
    stored, requested = settings["scoring"], asdict(request.scoring)
    return all(stored.get(name) == requested[name] for name in ("seed", "renormalise_text"))


def _terms(snapshot: Snapshot, selection: Selection) -> dict[TermKey, WeightedLabel]:
    where = catalog.layer_filter(selection.target)
    return snapshot.cache.get(
        ("terms", selection.target.key), lambda: read_terms(snapshot.store, where), lambda terms: _size(terms)
    )


def _size(values: Mapping[Any, Any]) -> int:
    return _LABEL_BYTES * (1 + len(values))


def _linear_terms(sums: list[tuple[float, WeightedLabel]], places: Mapping[str, int]) -> LinearTerms:
    """Return the weighted sums of neurons, each with its correlation."""
    columns = torch.zeros(3, len(sums), MOST_TERMS)
    at = torch.full((len(sums), MOST_TERMS), -1, dtype=torch.int64)
    for row, (_, label) in enumerate(sums):
        for column, term in enumerate(label.terms):
            at[row, column] = places[term.text]
            columns[:, row, column] = torch.tensor([term.weight, term.slope or 0.0, term.shift or 0.0])
    bias = torch.tensor([label.bias for _, label in sums])
    correlation = torch.tensor([score for score, _ in sums])
    weights, slope, shift = columns
    return LinearTerms(at, weights, bias, slope, shift, correlation)
