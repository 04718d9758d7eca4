"""What people say of labels on pictures (`serve --rate`), for the report of an evaluation: agreement, and each method.

A rating is of a text on a picture, whoever made it, so the ratings of an evaluated label are those of its neuron with
the same text. Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa

from csp_index.evaluation.evaluation import Evaluation, judged_texts
from csp_index.evaluation.metrics.agreement import (
    Estimate,
    activation_share,
    cohen_kappa,
    fleiss_kappa,
    mean_with_interval,
    pair_agreement,
    true_share,
    verdict_correlation,
)
from csp_index.labelling.review.pinned import layer_digest
from csp_index.labelling.review.words import VERDICTS
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.study_tables import RATINGS
from csp_index.store.tables import Store

_ITEM: Final = ("neuron", "text", "image_id")
_COLUMNS: Final = (*_ITEM, "rater", "verdict", "weight", "activation", "layer_digest", "when", "rating_id")
_NUMBER: Final = {"yes": 1.0, "no": 0.0}  # "unsure" is no verdict on the label
_MOST_RATERS: Final = 6  # of whom each pair has a row

_MEASURES: Final = {
    "of_activation": "true of this share of the activation",
    "correlation": "correlation of verdict and activation",
    "of_pictures": "true of this share of all pictures",
}  # in the order of `_of_label`

Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class People:
    """What people say of a layer's labels: how they agree, what they say of each method's, and how much there is."""

    raters: int = 0
    ratings: int = 0
    agreement: Rows | tuple[()] = ()
    methods: Rows | tuple[()] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it for machines: numbers that are undefined are null."""
        return asdict(self)


def people_of(store: Store, evaluation: Evaluation, seed: int = 0) -> People:
    """Return what people said of the labels of an evaluation's layer; empty where nobody rated any.

    Of a rater's ratings of one item the last counts. Agreement is over all items of the layer that several rated.
    """
    key = LayerKey.parse(str(evaluation.settings["layer"]))
    where = catalog.of_layer(key)
    rows = store.read(RATINGS, list(_COLUMNS), where)
    if rows.num_rows == 0:
        return People()
    last = last_ratings(rows)
    raters = sorted({str(row["rater"]) for row in last})
    items = list(dict.fromkeys(tuple(row[name] for name in _ITEM) for row in last))
    votes = np.full((len(items), len(raters)), -1)
    places = {item: place for place, item in enumerate(items)}
    for row in last:
        votes[places[tuple(row[name] for name in _ITEM)], raters.index(str(row["rater"]))] = VERDICTS.index(
            row["verdict"]
        )
    texts = judged_texts(evaluation)
    judged = {(method, int(address.rpartition("/")[2])): text for (address, method), text in texts.items()}
    digest = layer_digest(catalog.layer(store, key))  # activations of other weights say nothing of these
    methods = _methods([row for row in last if row["layer_digest"] == digest], judged, seed)
    return People(len(raters), len(last), agreement_rows(votes, raters, seed), methods)


def agreement_rows(votes: np.ndarray, raters: list[str], seed: int = 0) -> Rows:
    """Return the agreement of R raters from votes [I, R], places in VERDICTS, below 0 where one did not rate.

    A row has measure, raters, value, low, high and items; values that are undefined are None. Pairs are of the raters
    with most ratings.
    """
    counts = np.stack([(votes == place).sum(1) for place in range(len(VERDICTS))], axis=1)
    everybody = ", ".join(raters) if len(raters) <= _MOST_RATERS else f"{len(raters)} raters"
    rows = [
        _row("agreement of pairs", everybody, pair_agreement(counts, seed)),
        _row("Fleiss' kappa", everybody, fleiss_kappa(counts, seed)),
    ]
    most = np.argsort(-(votes >= 0).sum(0), kind="stable")[:_MOST_RATERS]
    for a, b in combinations(sorted(most.tolist()), 2):
        estimate = cohen_kappa(votes[:, a], votes[:, b], len(VERDICTS), seed)
        if estimate.items:
            rows.append(_row("Cohen's kappa", f"{raters[a]}, {raters[b]}", estimate))
    return rows if any(row["items"] for row in rows) else []


def agreement_line(row: Mapping[str, Any]) -> str:
    """Return a row of agreement in words."""
    if row["value"] is None:
        return f"{row['measure']}: undefined, because all say the same ({row['items']:,} labels on pictures)"
    return f"{row['measure']} {_with_interval(row)} over {row['items']:,} labels on pictures"


def method_line(row: Mapping[str, Any]) -> str:
    """Return what people say of a method's labels, in words."""
    parts = [f"{row['method']}: {row['rated']:,} of {row['labels']:,} labels rated"]
    for name, words in _MEASURES.items():
        if row[name] is not None:
            one = {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}
            parts.append(f"{words} {_with_interval(one)}")
    return ", ".join(parts)


def _with_interval(row: Mapping[str, Any]) -> str:
    interval = "" if row["low"] is None else f" ({row['low']:z.2f}..{row['high']:z.2f})"
    return f"{row['value']:z.2f}{interval}"


def _row(measure: str, who: str, estimate: Estimate) -> dict[str, Any]:
    values = {name: _finite(getattr(estimate, name)) for name in ("value", "low", "high")}
    return {"measure": measure, "raters": who, **values, "items": estimate.items}


def _methods(last: Rows, judged: Mapping[tuple[str, int], str], seed: int) -> Rows:
    """Return for each method the mean over its rated labels of what people say, with intervals over labels."""
    by_label: dict[tuple[int, str], dict[int, list[tuple[float, float, float]]]] = {}
    for row in last:
        if row["verdict"] in _NUMBER:
            pictures = by_label.setdefault((row["neuron"], row["text"]), {})
            said = (_NUMBER[row["verdict"]], float(row["activation"]), float(row["weight"]))
            pictures.setdefault(row["image_id"], []).append(said)
    values = {label: _of_label(pictures) for label, pictures in by_label.items()}
    rows: Rows = []
    for method in dict.fromkeys(method for method, _ in judged if method):
        own = [(neuron, text) for (name, neuron), text in judged.items() if name == method]
        rated = np.array([values[label] for label in own if label in values]).reshape(-1, 3)
        if not len(rated):
            continue
        line: dict[str, Any] = {"method": method, "labels": len(own), "rated": len(rated)}
        for name, column in zip(_MEASURES, rated.T, strict=True):
            estimate = mean_with_interval(column, seed)
            parts = {"": estimate.value, "_low": estimate.low, "_high": estimate.high}
            line |= {f"{name}{end}": _finite(value) for end, value in parts.items()}
        rows.append(line)
    return rows


def _of_label(pictures: Mapping[int, list[tuple[float, float, float]]]) -> tuple[float, float, float]:
    """Return what people say of one label: share of the activation, correlation, share of the pictures."""
    verdicts, activations, weights = np.array([np.mean(said, axis=0) for said in pictures.values()]).T
    return (
        activation_share(verdicts, activations, weights),
        verdict_correlation(verdicts, activations, weights),
        true_share(verdicts, weights),
    )


def last_ratings(rows: pa.Table) -> Rows:
    """Return the last rating of every rater and item."""
    ordered = sorted(rows.to_pylist(), key=lambda row: (row["when"], row["rating_id"]))
    last = {(row["rater"], *(row[name] for name in _ITEM)): row for row in ordered if row["verdict"] in VERDICTS}
    return list(last.values())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
