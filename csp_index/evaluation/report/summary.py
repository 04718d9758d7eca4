"""The figures of an evaluation: means with intervals, comparisons of methods on the same neurons, and extreme neurons.

Reads only an `Evaluation`. A value that is null, NaN or infinite counts as missing and enters no mean. The kinds of a
truth file (single, pair, ...) are always reported separately, as well as all neurons together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index.errors import EvaluationError
from csp_index.evaluation.evaluation import ALL, Evaluation
from csp_index.evaluation.metrics.families import Family
from csp_index.evaluation.metrics.intervals import ROUNDS, holm, mean_interval, signed_rank
from csp_index.evaluation.metrics.table import METRICS, Metric, family_of

POOLED: Final = "all methods"  # the labels of several methods together
NOT_ALONE: Final[Family] = "generation"
#: Families that punish an over-specific label, of which at least one is shown wherever CoSy's metrics are.
COMPANIONS: Final[tuple[Family, ...]] = ("simulation", "detection", "agreement")
SIGNIFICANT: Final = 0.05

SUMMARY: Final = pa.schema(
    [
        ("metric", pa.string()),
        ("family", pa.string()),  # "" for a metric that is not in the table
        ("kind", pa.string()),
        ("method", pa.string()),
        ("neurons", pa.int64()),  # with a value
        ("missing", pa.int64()),  # without
        ("mean", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ]
)
COMPARISONS: Final = pa.schema(
    [
        ("metric", pa.string()),
        ("kind", pa.string()),
        ("method_a", pa.string()),
        ("method_b", pa.string()),
        ("neurons", pa.int64()),  # with a value of both methods
        ("difference", pa.float64()),  # mean of a - b
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p_value", pa.float64()),
        ("p_holm", pa.float64()),
        ("better", pa.string()),  # the method that the test and the interval both favor; "" for neither
    ]
)


@dataclass(frozen=True, slots=True)
class Grid:
    """The values of an evaluation as a matrix [R, M]: a row per (method, metric), a column per neuron.

    `matrix` is float64 with NaN for missing values. `kinds` has each neuron's kind, `groups` the kinds in the order of
    the report with "all" last; `texts` has the label by (method, column). Methods are in the order of the settings,
    metrics in that of their table, unknown ones last.
    """

    neurons: tuple[str, ...]
    kinds: tuple[str, ...]
    groups: tuple[str, ...]
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: dict[tuple[str, str], int]
    matrix: np.ndarray
    texts: dict[tuple[str, int], str]

    def row(self, method: str, metric: str) -> np.ndarray:
        """Return the values [M] of a method by a metric. Raises EvaluationError if there are none."""
        if (method, metric) not in self.rows:
            has = ", ".join(sorted({f"{name} ({of})" if of else name for of, name in self.rows})) or "nothing"
            raise EvaluationError(f"metric {metric!r} of method {method!r} is not in this evaluation (has: {has})")
        values: np.ndarray = self.matrix[self.rows[method, metric]]
        return values

    def columns(self, kind: str) -> np.ndarray:
        """Return which neurons [M] are of a kind; all neurons for "all"."""
        return np.array([kind in (ALL, own) for own in self.kinds], dtype=bool)

    def methods_of(self, metric: str) -> list[str]:
        """Return the methods that have the metric, in order; [""] for a metric of the neurons themselves."""
        return [method for method in self.methods if (method, metric) in self.rows]


@dataclass(frozen=True, slots=True)
class NeuronComparison:
    """One neuron under two methods: their labels and values, and the gain of a over b (a loss if below 0)."""

    neuron: str
    kind: str
    text_a: str
    text_b: str
    value_a: float
    value_b: float
    gain: float


@dataclass(frozen=True, slots=True)
class Winners:
    """The neurons on which a method gains most over another, and those on which it loses most."""

    metric: str
    method_a: str
    method_b: str
    gains: tuple[NeuronComparison, ...]
    losses: tuple[NeuronComparison, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """A reason for missing values, with the metrics and methods, and the numbers of neurons and values."""

    reason: str
    metrics: tuple[str, ...]
    methods: tuple[str, ...]
    neurons: int
    values: int


def make_grid(evaluation: Evaluation) -> Grid:
    """Return the values as a matrix.

    Raises EvaluationError for a repeated value, for a neuron of two kinds, and for a kind named "all".
    """
    table = evaluation.values
    address = pc.binary_join_element_wise(table["model"], table["layer"], table["neuron"].cast(pa.string()), "/")
    neurons, columns = _encoded(address)
    methods, of_method = _encoded(table["method"])
    names, of_metric = _encoded(table["metric"])
    pairs, rows = np.unique(of_method * max(1, len(names)) + of_metric, return_inverse=True)
    values = pc.fill_null(table["value"], np.nan).to_numpy().astype(np.float64)
    flat = rows * max(1, len(neurons)) + columns
    if len(np.unique(flat)) < len(flat):
        first = int(np.flatnonzero(np.bincount(flat)[flat] > 1)[0])
        value_name = f"{table['metric'][first]} of {address[first]} by {table['method'][first].as_py() or 'no method'}"
        raise EvaluationError(f"the evaluation has {value_name} twice: expected one value of each")
    matrix = np.full((len(pairs), len(neurons)), np.nan)
    matrix[rows, columns] = np.where(np.isfinite(values), values, np.nan)
    order = {(methods[pair // len(names)], names[pair % len(names)]): row for row, pair in enumerate(pairs.tolist())}
    kinds = _kinds(table, neurons, columns)
    return Grid(
        neurons=tuple(neurons),
        kinds=tuple(kinds),
        groups=(*(kind for kind in dict.fromkeys(kinds) if kind), ALL),
        methods=tuple(_ordered(methods, _named_methods(evaluation))),
        metrics=tuple(_ordered(names, list(METRICS))),
        rows=order,
        matrix=matrix,
        texts=_texts(table, methods, of_method, columns),
    )


def summarise(evaluation: Evaluation, rounds: int = ROUNDS, seed: int = 0) -> pa.Table:
    """Return the mean of each metric, method and kind with its 95 % bootstrap interval over neurons [rows of SUMMARY].

    Mean and interval are null where no neuron of the kind has a value.
    """
    grid = make_grid(evaluation)
    entries: dict[tuple[str, str, str], tuple[int, int, float | None, float | None, float | None]] = {}
    for kind in grid.groups:
        columns = grid.columns(kind)
        intervals = mean_interval(torch.from_numpy(grid.matrix[:, columns]), rounds, seed=seed)
        for (method, metric), row in grid.rows.items():
            count = int(intervals.count[row])
            figures = [float(x[row]) if count else None for x in (intervals.mean, intervals.low, intervals.high)]
            entries[metric, kind, method] = (count, int(columns.sum()) - count, figures[0], figures[1], figures[2])
    keys = [(m, kind, method) for m in grid.metrics for kind in grid.groups for method in grid.methods_of(m)]
    families = [family_of(metric) for metric, _, _ in keys]
    lines = [
        (metric, family, kind, method, *entries[metric, kind, method])
        for (metric, kind, method), family in zip(keys, families, strict=True)
    ]
    return _table(lines, SUMMARY)


def compare(
    evaluation: Evaluation, metrics: Sequence[str] | None = None, rounds: int = ROUNDS, seed: int = 0
) -> pa.Table:
    """Return each pair of methods on the neurons that both have, by metric and kind [rows of COMPARISONS].

    The p-value is Wilcoxon's, two-sided. `p_holm` corrects it for the number of pairs within one metric and kind, not
    for the number of metrics: among many metrics, some differences are due to chance.
    """
    grid = make_grid(evaluation)
    selected = list(grid.metrics) if metrics is None else list(metrics)
    for metric in selected:
        if metric not in grid.metrics:
            raise EvaluationError(f"metric {metric!r} is not in this evaluation (has: {', '.join(grid.metrics)})")
    trios = [(m, *pair) for m in selected for pair in combinations(filter(None, grid.methods_of(m)), 2)]
    lines = [line for kind in grid.groups for line in _paired(grid, trios, kind, rounds, seed)]
    blocks: dict[tuple[str, str], list[dict[str, Any]]] = {(m, kind): [] for m in selected for kind in grid.groups}
    for line in lines:
        blocks[line["metric"], line["kind"]].append(line)
    for (metric, _), block in blocks.items():
        for line, p in zip(block, holm([line["p_value"] for line in block]), strict=True):
            line["p_holm"] = p
            line["better"] = _better(line, METRICS.get(metric))
    return pa.Table.from_pylist([line for block in blocks.values() for line in block], schema=COMPARISONS)


def winners(evaluation: Evaluation, metric: str, method_a: str, method_b: str, count: int) -> Winners:
    """Return at most `count` neurons on which a method gains most over another, and as many on which it loses most.

    A gain is in the metric's own direction; among equal gains the first neuron is returned. Raises EvaluationError for
    a metric or method that the evaluation lacks.
    """
    grid = make_grid(evaluation)
    a, b = grid.row(method_a, metric), grid.row(method_b, metric)
    better = METRICS[metric].higher_is_better if metric in METRICS else True
    gain = np.abs(b) - np.abs(a) if better is None else a - b if better else b - a
    present = np.flatnonzero(~np.isnan(gain))
    order = present[np.argsort(-gain[present], kind="stable")]
    best = [column for column in order.tolist() if gain[column] > 0][:count]
    order = present[np.argsort(gain[present], kind="stable")]
    worst = [column for column in order.tolist() if gain[column] < 0][:count]

    def compared(columns: list[int]) -> tuple[NeuronComparison, ...]:
        return tuple(
            NeuronComparison(
                grid.neurons[column],
                grid.kinds[column],
                grid.texts.get((method_a, column), ""),
                grid.texts.get((method_b, column), ""),
                float(a[column]),
                float(b[column]),
                float(gain[column]),
            )
            for column in columns
        )

    return Winners(metric, method_a, method_b, compared(best), compared(worst))


def check_not_alone(grid: Grid) -> None:
    """Refuse an evaluation whose only metrics of labels are CoSy's.

    These cannot punish an over-specific label, so they are never shown without a metric of COMPANIONS.
    """
    names_of: dict[str, list[str]] = {}
    for (_, metric), row in grid.rows.items():
        if metric in METRICS and not np.isnan(grid.matrix[row]).all():
            names_of.setdefault(METRICS[metric].family, []).append(metric)
    if NOT_ALONE in names_of and not set(COMPANIONS) & set(names_of):
        names = ", ".join(dict.fromkeys(names_of[NOT_ALONE]))
        raise EvaluationError(
            f"{names} would stand alone, and cannot punish an over-specific label: "
            f"evaluate {', '.join(COMPANIONS[:-1])} or {COMPANIONS[-1]} as well"
        )


def missing_notes(evaluation: Evaluation) -> list[Missing]:
    """Return the reasons for missing values, the most frequent first."""
    table = evaluation.values
    missing_rows = table.filter(pc.invert(pc.is_finite(pc.fill_null(table["value"], np.nan))))
    parts = [("metric", "distinct"), ("method", "distinct"), ("neuron", "count_distinct"), ("metric", "count")]
    known, methods = list(METRICS), _named_methods(evaluation)
    reasons = [
        Missing(
            line["note"] or "no reason given",
            tuple(_ordered(line["metric_distinct"], known)),
            tuple(filter(None, _ordered(line["method_distinct"], methods))),
            line["neuron_count_distinct"],
            line["metric_count"],
        )
        for line in missing_rows.group_by("note", use_threads=False).aggregate(parts).to_pylist()
    ]
    return sorted(reasons, key=lambda missing: (-missing.values, missing.reason))


def _paired(
    grid: Grid, trios: Sequence[tuple[str, str, str]], kind: str, rounds: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the row of COMPARISONS of each (metric, a, b), without the columns that depend on other rows."""
    columns = grid.columns(kind)
    rows = [[grid.rows[method, metric] for method in pair] for metric, *pair in trios]
    a, b = torch.from_numpy(grid.matrix[:, columns])[torch.tensor(rows, dtype=torch.int64).reshape(-1, 2).T]
    # All tests at once: one by one, they would draw neurons again for every pair, a minute for thousands of neurons.
    intervals, p_values = mean_interval(a - b, rounds, seed=seed), signed_rank(a - b)
    for row, (metric, method_a, method_b) in enumerate(trios):
        count = int(intervals.count[row])
        yield {
            "metric": metric,
            "kind": kind,
            "method_a": method_a,
            "method_b": method_b,
            "neurons": count,
            "difference": float(intervals.mean[row]) if count else None,
            "low": float(intervals.low[row]) if count else None,
            "high": float(intervals.high[row]) if count else None,
            "p_value": p_values[row],
        }


def _better(line: dict[str, Any], metric: Metric | None) -> str:
    """Return the method that both the corrected test and the interval favor, or ""."""
    if metric is None or metric.higher_is_better is None or line["p_holm"] is None:
        return ""
    if line["p_holm"] >= SIGNIFICANT or line["low"] <= 0 <= line["high"]:
        return ""
    return str(line["method_a"] if (line["low"] > 0) == metric.higher_is_better else line["method_b"])


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts in order of appearance, and the index of each row's text among them."""
    encoded = pa.chunked_array(column, type=pa.string()).combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)


def _kinds(table: pa.Table, neurons: list[str], columns: np.ndarray) -> list[str]:
    names, of_row = _encoded(pc.fill_null(table["kind"], ""))
    if ALL in names:
        raise EvaluationError(f"the truth has a kind {ALL!r}, which means all neurons together: rename it")
    kinds = [""] * len(neurons)
    for code, column in sorted(set(zip(of_row.tolist(), columns.tolist(), strict=True))):
        if names[code] and kinds[column] and kinds[column] != names[code]:
            raise EvaluationError(
                f"neuron {neurons[column]} is of kind {kinds[column]!r} and {names[code]!r}: expected one kind for each"
            )
        kinds[column] = names[code] or kinds[column]
    return kinds


def _texts(
    table: pa.Table, methods: list[str], of_method: np.ndarray, columns: np.ndarray
) -> dict[tuple[str, int], str]:
    rows = np.flatnonzero(pc.is_valid(table["text"]).to_numpy())
    keys = of_method[rows] * (int(columns.max(initial=0)) + 1) + columns[rows]
    _, first = np.unique(keys, return_index=True)
    sample = rows[first]
    texts = table["text"].take(pa.array(sample)).to_pylist()
    return {
        (methods[method], column): text
        for method, column, text in zip(of_method[sample].tolist(), columns[sample].tolist(), texts, strict=True)
    }


def _named_methods(evaluation: Evaluation) -> list[str]:
    methods = evaluation.settings.get("methods", ())
    return [str(name) for name in methods] if isinstance(methods, list | tuple | dict) else []


def _ordered(names: Sequence[str], order: Sequence[str]) -> list[str]:
    """Return the names in an order, those outside it last."""
    return [name for name in dict.fromkeys(order) if name in names] + [name for name in names if name not in order]


def _table(lines: Sequence[tuple[object, ...]], fields: pa.Schema) -> pa.Table:
    columns = list(zip(*lines, strict=True)) or [()] * len(fields)
    return pa.table([pa.array(list(c), type=f.type) for c, f in zip(columns, fields, strict=True)], schema=fields)
