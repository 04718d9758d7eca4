"""A layer's neurons with the label shown and the newest label of every method, as columns; a neuron is a slice.

Knows the store's rows and nothing about models; does not load torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import NotFoundError
from csp_index.labelling.kept.crop_labels import crop_runs
from csp_index.labelling.label_rule import read_rule
from csp_index.labelling.nulls.ranks import read_ranks, with_rank
from csp_index.labelling.probabilities.stored import read_probabilities
from csp_index.labelling.review.words import PINNED
from csp_index.query.neuron_view import ALWAYS, share_above_mean
from csp_index.records import ExamplePair, Label, LabelScore, NeuronKey, prediction_set_of, rivals_of
from csp_index.records.assurance import NullRank
from csp_index.service.documents.shapes import NeuronRow
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

UNLABELLED: Final = "unlabelled"  # the state of a neuron that no run labelled

_TOP = 4  # images of a neuron in lists
_HEAD = ("run_id", "neuron", "method", "state", "rank", "uncertain", "note")
_SCORES = ("score", "score_low", "score_high", "confidence")
_PAIR = tuple(field.name for field in fields(ExamplePair))
_FEW_RUNS = 100  # named in a condition; of more, all rows of the layer are read


@dataclass(frozen=True, slots=True)
class MethodLabels:
    """A label of each of M neurons: what lists show, [M] each, and all candidates kept.

    It is the newest by one method, or the label that the rule of the index shows; `method` is then that of most.
    Scores are float64 and NaN where there is none; `uncertain` is -1 where nothing was resampled. The candidates of
    neuron i are the rows `offsets[i]` to `offsets[i + 1]` of `candidates`, `values` [R, 4] (score, low, high, share),
    best first.
    """

    method: str
    texts: np.ndarray  # str or None
    states: np.ndarray  # str
    methods: np.ndarray  # str, "" where there is no label
    scores: np.ndarray
    leads: np.ndarray  # of the score over the runner-up's
    confidences: np.ndarray
    probabilities: np.ndarray  # that the label is right
    uncertain: np.ndarray  # int8
    notes: np.ndarray  # str
    runs: np.ndarray  # str, "" where there is no label; of a name that a reader gave, of the label beside it
    ranks: Mapping[tuple[str, int], NullRank]  # in a null, by run and neuron
    crops: frozenset[str]  # the runs in whose labels crops stand in for images
    offsets: np.ndarray
    candidates: pa.DictionaryArray
    values: np.ndarray

    @property
    def labelled(self) -> int:
        """How many neurons have a label."""
        return int((self.states == "labelled").sum())

    @property
    def nbytes(self) -> int:
        """About how much memory this takes."""
        arrays = (self.scores, self.leads, self.confidences, self.probabilities, self.offsets, self.values)
        return sum(a.nbytes for a in arrays) + int(self.candidates.nbytes) + 100 * len(self.states)

    def rank(self, neuron: int) -> NullRank | None:
        """Return where a neuron's label stands in a null."""
        return self.ranks.get((self.runs[neuron], neuron))

    def label(self, key: NeuronKey, top: int) -> Label | None:
        """Return the label of a neuron with its `top` best candidates and without pairs, or None."""
        at = key.neuron
        if not self.methods[at]:
            return None
        if self.methods[at] == PINNED:  # `service.pinned_labels`
            name = LabelScore(self.texts[at], math.nan)
            return Label(key, PINNED, "labelled", (name,), (), self.notes[at], self.runs[at])
        rows = slice(int(self.offsets[at]), int(self.offsets[at + 1]))
        texts = self.candidates[rows].to_pylist()
        values = self.values[rows].tolist()
        scores = [
            LabelScore(text, score, *map(finite, three)) for text, (score, *three) in zip(texts, values, strict=True)
        ]
        label = Label(
            key,
            self.methods[at],
            self.states[at],
            tuple(scores[:top]),
            (),
            self.notes[at],
            self.runs[at],
            bool(self.uncertain[at] > 0),
            rivals_of(scores),
            prediction_set_of(scores),
            probability=finite(float(self.probabilities[at])),
            crop=self.runs[at] in self.crops,
        )
        return with_rank(label, self.rank(at))


@dataclass(frozen=True, slots=True)
class LayerTable:
    """A layer's M neurons: `statistics` (the columns of the `neurons` table, sorted) and newest labels by method.

    `shown` are the labels that the rule of the index shows (`labelling.label_rule`), None if there are none.
    """

    info: LayerInfo
    statistics: pa.Table
    firing_rates: np.ndarray  # [M] float64
    maxima: np.ndarray  # [M] float64
    top_images: np.ndarray  # [M, 4 at most] int64
    methods: Mapping[str, MethodLabels]
    shown_labels: MethodLabels | None

    @property
    def method(self) -> str | None:
        """The method of most of the labels shown."""
        return None if self.shown_labels is None else self.shown_labels.method

    @property
    def images(self) -> int:
        """N: the statistics cover the images 0 .. N - 1."""
        return int(self.statistics["images"][0].as_py())

    @property
    def dead(self) -> np.ndarray:
        """Which neurons [M] never fire."""
        dead: np.ndarray = self.maxima <= 0
        return dead

    @property
    def nbytes(self) -> int:
        """About how much memory this takes."""
        return int(self.statistics.nbytes) + self.top_images.nbytes + sum(m.nbytes for m in self.methods.values())

    def labels(self, method: str | None = None) -> MethodLabels | None:
        """Return the labels by a method, by default those shown; None if no label is shown."""
        if method is None:
            return self.shown_labels
        if method not in self.methods:
            names = ", ".join(self.methods) or "none"
            raise NotFoundError(f"layer {self.info.key} has no labels by {method!r} (has: {names})")
        return self.methods[method]

    def statistics_of(self, neuron: int) -> dict[str, Any]:
        """Return the row of a neuron in the `neurons` table."""
        row: dict[str, Any] = self.statistics.slice(neuron, 1).to_pylist()[0]
        return row

    def lists(self, name: str) -> np.ndarray:
        """Return a column of the `neurons` table that has a list per neuron, [M, K]."""
        flat = self.statistics[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        lists: np.ndarray = flat.reshape(self.info.neurons, -1)
        return lists

    def row(self, neuron: int, method: str | None = None) -> NeuronRow:
        """Return the row of a neuron in lists: address, label by the method, state, statistics, a few images."""
        key, labels = self.info.key, self.labels(method)
        return {
            "neuron": f"{key}/{neuron}",
            "model": key.model,
            "layer": key.layer,
            "index": neuron,
            "label": labels.texts[neuron] if labels else None,
            "method": (labels.methods[neuron] if labels else None) or None,
            "state": labels.states[neuron] if labels else UNLABELLED,
            "score": finite(float(labels.scores[neuron])) if labels else None,
            "lead": finite(float(labels.leads[neuron])) if labels else None,
            "confidence": finite(float(labels.confidences[neuron])) if labels else None,
            "probability": finite(float(labels.probabilities[neuron])) if labels else None,
            "uncertain": bool(labels.uncertain[neuron]) if labels and labels.uncertain[neuron] >= 0 else None,
            "null_percentile": rank.percentile if labels and (rank := labels.rank(neuron)) else None,
            "firing_rate": float(self.firing_rates[neuron]),
            "above_mean": self._above_mean(neuron),
            "max": float(self.maxima[neuron]),
            "dead": bool(self.maxima[neuron] <= 0),
            "top_images": self.top_images[neuron].tolist() if self.maxima[neuron] > 0 else [],
        }

    def _above_mean(self, neuron: int) -> float | None:
        if self.firing_rates[neuron] < ALWAYS:  # so nearly always, and lists are long
            return None
        return share_above_mean(self.statistics_of(neuron))


@dataclass(frozen=True, slots=True)
class Pairs:
    """The example pairs behind a layer's newest labels by one method, R rows sorted by run, neuron, rank and neighbour.

    `keys` [R] (place of the run among `runs` x M + neuron) finds a neuron's rows.
    """

    neurons: int
    runs: Mapping[str, int]
    keys: np.ndarray
    rows: pa.Table  # the fields of ExamplePair, and threshold

    @property
    def nbytes(self) -> int:
        """How much memory this takes."""
        return int(self.rows.nbytes) + self.keys.nbytes

    def rows_of(self, neuron: int, run_id: str) -> pa.Table:
        """Return the rows of a neuron in one of the `runs`."""
        key = self.runs[run_id] * self.neurons + neuron
        first, last = np.searchsorted(self.keys, [key, key + 1])
        return self.rows.slice(int(first), int(last - first))

    def of(self, neuron: int, run_id: str) -> tuple[tuple[ExamplePair, ...], float | None]:
        """Return the pairs of a neuron's label, and the threshold below which an image counted as contrastive."""
        if run_id not in self.runs:
            return (), None
        rows = self.rows_of(neuron, run_id)
        columns = [rows[name].to_pylist() for name in _PAIR]
        threshold = finite(rows["threshold"][0].as_py()) if rows.num_rows else None
        return tuple(ExamplePair(*row) for row in zip(*columns, strict=True)), threshold


def read_layer(store: Store, info: LayerInfo) -> LayerTable:
    """Read a layer. Raises NotFoundError if its statistics are not complete yet."""
    rows = store.read(schema.NEURONS, where=catalog.layer_filter(info)).sort_by("neuron").combine_chunks()
    if rows.num_rows != info.neurons:
        raise catalog.unfinished(info)
    methods, default = _newest_labels(store, info)
    return LayerTable(
        info,
        rows,
        rows["firing_rate"].to_numpy(),
        rows["max"].to_numpy().astype(np.float64),
        _first_of_lists(rows["top_images"].chunk(0), _TOP),
        methods,
        default,
    )


def read_pairs(store: Store, table: LayerTable, method: str) -> Pairs:
    """Read the example pairs of a layer's newest labels by a method."""
    names = sorted({run for run in table.methods[method].runs.tolist() if run})
    where = catalog.layer_filter(table.info)
    if len(names) <= _FEW_RUNS:
        where += f" AND run_id IN ({','.join(map(catalog.sql_text, names))})" if names else " AND false"
    rows = store.read(schema.EXAMPLES, ["run_id", "neuron", *_PAIR, "threshold"], where)
    runs = pc.index_in(rows["run_id"], pa.array(names, pa.string()))
    neuron, rank, neighbour = (rows[name].to_numpy() for name in ("neuron", "rank", "neighbour"))
    place = runs.fill_null(-1).to_numpy().astype(np.int64)
    order = np.lexsort((neighbour, rank, neuron, place))
    order = order[place[order] >= 0]
    keys = place[order] * table.info.neurons + neuron[order]
    ordered = rows.select([*_PAIR, "threshold"]).take(pa.array(order)).combine_chunks()
    return Pairs(table.info.neurons, {name: number for number, name in enumerate(names)}, keys, ordered)


def finite(value: float | None) -> float | None:
    """Return the number, or None for one that JSON cannot express.

    >>> finite(0.5), finite(float("nan"))
    (0.5, None)
    """
    return value if value is not None and math.isfinite(value) else None


def _newest_labels(store: Store, info: LayerInfo) -> tuple[dict[str, MethodLabels], MethodLabels | None]:
    """Return a layer's newest labels by method, and those that the rule of the index shows, None without any."""
    rows = store.read(schema.LABELS, [*_HEAD, "text", *_SCORES], catalog.layer_filter(info))
    if rows.num_rows == 0:
        return {}, None
    run = _codes(rows["run_id"])[1]
    names, method = _codes(rows["method"])
    ranks, probabilities = read_ranks(store, info.key), read_probabilities(store, info.key)
    crops = crop_runs(store)
    neuron, rank = rows["neuron"].to_numpy(), rows["rank"].to_numpy()
    newest = np.full((len(names), info.neurons), -1)
    np.maximum.at(newest, (method, neuron), run)
    is_newest = run == newest[method, neuron]

    def labels(mask: np.ndarray) -> MethodLabels:
        places = np.flatnonzero(mask)
        order = places[np.lexsort((rank[places], neuron[places]))]
        return _by_neuron(rows.take(pa.array(order)).combine_chunks(), info.neurons, ranks, probabilities, crops)

    rule = read_rule(store)
    order_of = np.array([rule.rank(name) for name in names])[:, None]
    order = np.where((newest >= 0) & (order_of >= 0), order_of * (run.max() + 1) + newest, -1)
    best, present = order.argmax(0), order.max(0) >= 0
    by_method = {name: labels(is_newest & (method == place)) for place, name in enumerate(names)}
    return by_method, labels(is_newest & present[neuron] & (method == best[neuron])) if present.any() else None


def _by_neuron(
    rows: pa.Table,
    neurons: int,
    ranks: Mapping[tuple[str, int], NullRank],
    probabilities: Mapping[tuple[str, int], float],
    crops: frozenset[str],
) -> MethodLabels:
    """Return the labels of neurons from their rows, sorted by neuron and rank; each neuron's are of one run."""
    neuron, rank = rows["neuron"].to_numpy(), rows["rank"].to_numpy()
    values = np.stack([rows[name].to_numpy() for name in _SCORES], axis=1)
    heads, second = np.flatnonzero(rank <= 0), np.flatnonzero(rank == 1)

    def spread(rows: np.ndarray, values: np.ndarray, empty: object, kind: Any) -> np.ndarray:
        column = np.full(neurons, empty, dtype=kind)
        column[neuron[rows]] = values
        return column

    def words(name: str, empty: object) -> np.ndarray:
        return spread(heads, np.array(rows[name].take(pa.array(heads)).to_pylist(), dtype=object), empty, object)

    scores = spread(heads, values[heads, 0], np.nan, np.float64)
    doubt = rows["uncertain"].cast(pa.int8()).fill_null(-1).to_numpy()
    ranked = np.flatnonzero(rank >= 0)
    uncertain, runs = spread(heads, doubt[heads], -1, np.int8), words("run_id", "")
    for (run, at), place in ranks.items():
        if runs[at] == run and not place.passes:
            uncertain[at] = 1
    return MethodLabels(
        Counter(rows["method"].take(pa.array(heads)).to_pylist()).most_common(1)[0][0],
        words("text", None),
        words("state", UNLABELLED),
        words("method", ""),
        scores,
        scores - spread(second, values[second, 0], np.nan, np.float64),
        spread(heads, values[heads, 3], np.nan, np.float64),
        np.array([probabilities.get((run, at), np.nan) for at, run in enumerate(runs)], dtype=np.float64),
        uncertain,
        words("note", ""),
        runs,
        ranks,
        crops,
        np.searchsorted(neuron[ranked], np.arange(neurons + 1)),
        rows["text"].take(pa.array(ranked)).combine_chunks().dictionary_encode(),
        values[ranked],
    )


def _codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts of a column, sorted, and each row's place among them."""
    names = sorted(column.unique().to_pylist())
    return names, pc.index_in(column, pa.array(names, pa.string())).to_numpy().astype(np.int64)


def _first_of_lists(lists: pa.ListArray, count: int) -> np.ndarray:
    """Return the first `count` items [M, count] of lists that have equally many, or all where they have fewer."""
    width = len(lists.flatten()) // max(1, len(lists))
    return np.asarray(lists.flatten()).reshape(len(lists), width)[:, :count].copy()
