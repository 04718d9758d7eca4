"""The tables of a report: methods by metrics, one group of rows per kind of neurons.

The cells are figures as text; what the paired tests decide is marked, and CoSy's metrics are withheld where no
companion has a value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from csp_index.evaluation.evaluation import ALL
from csp_index.evaluation.metrics.table import METRICS, family_of
from csp_index.evaluation.report.summary import COMPANIONS, NOT_ALONE, Grid
from csp_index.evaluation.report.wording import CONTROLS, DASH, arrow, base_name, figure, interval, meaning


@dataclass(frozen=True, slots=True)
class Cell:
    """A mean in a table; `best` says that the paired tests put it above every other method."""

    mean: str
    interval: str = ""
    count: str = ""  # for example 35 of 40, where some neurons have no value
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """The head of a column."""

    metric: str
    arrow: str
    title: str
    companion: bool = False  # shown only so that the others are not alone


@dataclass(frozen=True, slots=True)
class Row:
    """A method's cells."""

    method: str
    control: bool
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of methods by metrics; its groups are (title, rows), one per kind."""

    caption: str
    columns: list[Column]
    groups: list[tuple[str, list[Row]]]


class Sheets:
    """Makes the tables of one evaluation from its summary and its paired tests."""

    def __init__(self, grid: Grid, summary: pa.Table, comparisons: pa.Table) -> None:
        """Take the grid of an evaluation with the results of `summarise` and `compare`."""
        self._grid = grid
        self._methods = [method for method in grid.methods if method]
        self._lines = {(line["method"], line["metric"], line["kind"]): line for line in summary.to_pylist()}
        self._better: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
        for line in comparisons.to_pylist():
            self._better.setdefault((line["metric"], line["kind"]), []).append(line)

    def mean(self, method: str, metric: str) -> float | None:
        """Return a method's mean over all neurons, None without a value."""
        mean: float | None = self._lines[method, metric, ALL]["mean"]
        return mean

    def sheet(
        self, caption: str, names: Sequence[str], methods: Sequence[str] | None = None, companions: Sequence[str] = ()
    ) -> Sheet:
        """Return a table with a column per metric and a row per method, by default all methods that label.

        A method without a row of values for any of the metrics is left out. `companions` are the metrics that are shown
        only so that the others are not alone.
        """
        listed = list(self._methods if methods is None else methods)
        evaluated = [method for method in listed if any((method, name) in self._grid.rows for name in names)]
        groups = []
        for kind in self._grid.groups:
            size = int(self._grid.columns(kind).sum())
            title = "all neurons" if kind == ALL else kind
            rows = [
                Row(
                    method or "neurons",
                    base_name(method) in CONTROLS,
                    [self._cell(method, name, kind) for name in names],
                )
                for method in evaluated
            ]
            groups.append((f"{title} ({size:,})", rows))
        columns = [
            Column(name, arrow(METRICS.get(name)), meaning(METRICS.get(name)), name in companions) for name in names
        ]
        return Sheet(caption, columns, groups)

    def _cell(self, method: str, metric: str, kind: str) -> Cell:
        line = self._lines.get((method, metric, kind))
        if line is None or line["mean"] is None:
            return Cell(DASH)
        if family_of(metric) == NOT_ALONE and not self._accompanied(method, kind):
            return Cell("withheld", "no companion metric")
        count = f"{line['neurons']:,} of {line['neurons'] + line['missing']:,}" if line["missing"] else ""
        return Cell(figure(line["mean"]), interval(line["low"], line["high"]), count, self._best(method, metric, kind))

    def _accompanied(self, method: str, kind: str) -> bool:
        return any(
            line["mean"] is not None
            for (of, metric, group), line in self._lines.items()
            if of == method and group == kind and family_of(metric) in COMPANIONS
        )

    def _best(self, method: str, metric: str, kind: str) -> bool:
        """Return whether the paired tests put a method above each of the others."""
        lines = [
            line for line in self._better.get((metric, kind), []) if method in (line["method_a"], line["method_b"])
        ]
        return bool(lines) and all(line["better"] == method for line in lines)
