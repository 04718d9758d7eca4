"""The charts of a report, as SVG that takes its colors from the page around it.

Figures are drawn without pyplot, so they leave no global state, and the same values give the same bytes. Text stays
text; every color is a CSS variable with a colorblind-safe fallback (Okabe and Ito's set), so a chart is readable on
white and on dark. Knows nothing about indexes.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final

import matplotlib
import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from csp_index.evaluation.evaluation import ALL
from csp_index.evaluation.metrics.sanity import LEAST_DROP, SanityReport
from csp_index.evaluation.metrics.table import METRICS
from csp_index.evaluation.report.summary import POOLED, Grid
from csp_index.printable import shortened

__all__ = [
    "Mark",
    "calibration_chart",
    "difference_chart",
    "histogram_chart",
    "interval_chart",
    "sanity_chart",
    "to_svg",
]

#: Fallbacks of the CSS variables --series-0 ...; the page sets others for a dark background.
SERIES: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900")
_MARKERS: Final = ("o", "^", "s", "D", "v")
# Placeholders while matplotlib draws; `to_svg` replaces them with the page's variables.
_INK, _RULE, _LINE = "#010101", "#010102", "#010103"
_SHADES = tuple(f"#0102{number:02x}" for number in range(len(SERIES)))
_WIDTH = 4.7  # inches; at the page's usual size a point is about 1.3 pixels
_LONGEST, _LONGEST_TITLE = 30, 44  # characters of a name on the vertical axis, and of a line of its title
_STYLE: Final[Any] = {  # matplotlib types each key of rcParams as a literal
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.unicode_minus": True,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "figure.facecolor": "none",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Mark:
    """A point with its interval, and the row and series it belongs to."""

    row: str
    series: str
    value: float
    low: float
    high: float


def interval_chart(summary: pa.Table, metric: str, floor: str | None = None) -> Figure:
    """Return the methods' means of one metric with their intervals, by kind; a dotted line at the floor's mean.

    `summary` has the rows of `summarise`; `floor` names the control whose mean shows what a meaningless label earns.
    """
    lines = [line for line in summary.to_pylist() if line["metric"] == metric and line["mean"] is not None]
    marks = [Mark(line["method"], line["kind"], line["mean"], line["low"], line["high"]) for line in lines]
    base = [line["mean"] for line in lines if line["method"] == floor and line["kind"] == ALL]
    return _dots(marks, f"mean {metric}{_direction(metric)}", line=base[0] if base else None)


def difference_chart(comparisons: pa.Table, metric: str, leader: str) -> Figure:
    """Return the differences of one method from every other by one metric on the same neurons, with intervals.

    `comparisons` has the rows of `compare`; differences are `leader` minus the other.
    """
    marks = []
    for line in comparisons.to_pylist():
        if line["metric"] != metric or leader not in (line["method_a"], line["method_b"]) or line["low"] is None:
            continue
        low, value, high = line["low"], line["difference"], line["high"]
        if line["method_b"] == leader:
            low, value, high = -high, -value, -low
        other = line["method_b"] if line["method_a"] == leader else line["method_a"]
        marks.append(Mark(other, line["kind"], value, low, high))
    return _dots(marks, f"{metric}: {_short(leader)} minus the other{_direction(metric)}", line=0.0)


def histogram_chart(grid: Grid, metric: str, bins: int = 30) -> Figure:
    """Return a metric's distribution over neurons, one histogram per method on a common axis; a line marks the mean."""
    rows = {method: _present(grid.row(method, metric)) for method in grid.methods_of(metric)}
    rows = {method: values for method, values in rows.items() if len(values)}
    all_values = np.concatenate(list(rows.values())) if rows else np.zeros(1)
    low, high = float(all_values.min()), float(all_values.max())
    edges = np.linspace(low - (low == high) * 0.5, high + (low == high) * 0.5, bins + 1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.55 + 0.42 * max(1, len(rows))), layout="constrained")
        axis = figure.subplots()
        for number, values in enumerate(rows.values()):
            counts = np.histogram(values, edges)[0]
            base = number + 0.4
            axis.stairs(base - 0.8 * counts / counts.max(), edges, baseline=base, fill=True, color=_SHADES[0])
            axis.hlines(base, edges[0], edges[-1], color=_RULE, linewidth=0.6)
            axis.vlines(float(values.mean()), base - 0.85, base, color=_INK, linewidth=1.4)
        _name_rows(axis, list(rows), f"{metric} per neuron{_direction(metric)}")
    return figure


def calibration_chart(calibration: Sequence[Mapping[str, Any]]) -> Figure:
    """Return the share of labels that are right against their stated probability; the diagonal is calibrated.

    Rows: `predicted` (mean probability of a bin), `share` (right, in [0, 1]), `low`, `high`, `count`, and `method`
    where there are several; only `POOLED` is drawn if it is among them.
    """
    pooled = [row for row in calibration if row.get("method") == POOLED]
    calibration = pooled or calibration
    series = list(dict.fromkeys(str(row.get("method", "")) for row in calibration))
    most = max([int(row["count"]) for row in calibration], default=1)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], color=_RULE, linestyle=":", linewidth=1.2)
        for number, name in enumerate(series):
            rows = [row for row in calibration if str(row.get("method", "")) == name and row["share"] is not None]
            rows.sort(key=lambda row: float(row["predicted"]))
            shade, x = _SHADES[number % len(_SHADES)], [row["predicted"] for row in rows]
            for row in rows:
                axis.plot([row["predicted"]] * 2, [row["low"], row["high"]], color=shade, linewidth=1.4)
            axis.plot(x, [row["share"] for row in rows], color=shade, linewidth=1.0)
            sizes = [16 + 60 * int(row["count"]) / most for row in rows]
            marker = _MARKERS[number % len(_MARKERS)]
            axis.scatter(x, [row["share"] for row in rows], sizes, color=shade, marker=marker, label=_short(name))
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axis.set_xlabel("share of resamples in which the label is stable")
        axis.set_ylabel("share of labels that are right")
        axis.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=2, handletextpad=0.3)
    return figure


def sanity_chart(report: SanityReport) -> Figure:
    """Return each metric's smallest drop in each test, over frequencies and neurons; a dotted line at the least drop
    that passes.
    """
    marks = []
    for metric in report.verdicts():
        for test in ("missing", "extra"):
            rows = [row for row in report.rows if (row.metric, row.test) == (metric, test) and row.drop is not None]
            if rows:
                row = min(rows, key=lambda row: -math.inf if row.low is None else row.low)
                ends = (row.drop if end is None else end for end in (row.low, row.high))
                marks.append(Mark(metric, f"{test} labels", row.drop or 0.0, *(float(end or 0.0) for end in ends)))
    return _dots(marks, "smallest drop of the score (1: as low as random labels)", line=LEAST_DROP)


def to_svg(figure: Figure, name: str, description: str) -> str:
    """Return a figure as an SVG element for a page; `name` makes its ids differ from those of other charts."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # A name may have letters that the drawing font lacks; the reader's browser has its own fonts.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # every chart has the id figure_1
    text = re.sub(r"font-family: [^;]*; ", "", text)
    for placeholder, color in _colors():
        text = text.replace(placeholder, color)
    start = f'<svg class="chart" role="img" aria-label="{escape(description)}"'
    return re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1).replace("<svg", start, 1)


def _dots(marks: Sequence[Mark], title: str, line: float | None) -> Figure:
    """Return rows of dots with intervals, the series of a row one below the other."""
    rows = list(dict.fromkeys(mark.row for mark in marks))
    series = list(dict.fromkeys(mark.series for mark in marks))
    if len(series) > len(SERIES):
        series = [name for name in series if name == ALL] or series[: len(SERIES)]
    with matplotlib.rc_context(_STYLE):
        height = 0.75 + 0.25 * (len(series) > 1) + max(1, len(rows)) * (0.2 + 0.11 * len(series))
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axis = figure.subplots()
        if line is not None:
            axis.axvline(line, color=_INK, linestyle=":", linewidth=1.0)
        for number, name in enumerate(series):
            offset = 0.62 * ((number + 0.5) / len(series) - 0.5)
            _draw(axis, [mark for mark in marks if mark.series == name], rows, offset, number, name)
        axis.grid(axis="x")
        axis.set_axisbelow(True)
        _name_rows(axis, rows, title)
        if len(series) > 1:
            figure.legend(loc="outside upper left", ncols=min(4, len(series)), handletextpad=0.2, columnspacing=1.2)
    return figure


def _name_rows(axis: Axes, rows: Sequence[str], title: str) -> None:
    axis.set_yticks(range(len(rows)), [_short(row or "neuron") for row in rows])
    axis.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axis.tick_params(axis="y", length=0)
    axis.locator_params(axis="x", nbins=6)
    axis.spines[["left", "top", "right"]].set_visible(False)
    axis.set_xlabel(textwrap.fill(title, _LONGEST_TITLE))


def _draw(axis: Axes, marks: Sequence[Mark], rows: Sequence[str], offset: float, number: int, name: str) -> None:
    y = [rows.index(mark.row) + offset for mark in marks]
    shade, marker = (_INK, _MARKERS[0]) if name == ALL else (_SHADES[number], _MARKERS[1 + number % 4])
    axis.hlines(y, [mark.low for mark in marks], [mark.high for mark in marks], color=shade, linewidth=1.6)
    axis.scatter([mark.value for mark in marks], y, 22, color=shade, marker=marker, label=_short(name))


def _colors() -> list[tuple[str, str]]:
    series = [(_SHADES[number], f"var(--series-{number}, {SERIES[number]})") for number in range(len(SERIES))]
    return [(_INK, "currentColor"), (_RULE, "var(--rule, #8b8f96)"), (_LINE, "var(--line, #d0d4da)"), *series]


def _direction(metric: str) -> str:
    known = METRICS.get(metric)
    return {True: "", False: " (lower is better)", None: " (0 is best)"}[known.higher_is_better] if known else ""


def _present(values: np.ndarray) -> np.ndarray:
    present: np.ndarray = values[~np.isnan(values)]
    return present


def _short(name: str) -> str:
    return shortened(name, _LONGEST)
