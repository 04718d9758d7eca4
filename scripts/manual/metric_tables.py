"""The tables of metrics, family by family, as the manual shows them."""

from __future__ import annotations

from markdown_text import escape, table

from csp_index.evaluation.metrics.families import FAMILIES, Family
from csp_index.evaluation.metrics.table import METRICS, Metric, named


def metric_tables() -> str:
    """Return a heading, the question and the table of metrics of each family, in the order of a report."""
    return "\n\n".join(_family(family) for family in FAMILIES)


def _family(family: Family) -> str:
    info = FAMILIES[family]
    heads = ["metric", "what it measures", "better", "range", "needs"]
    rows = [_row(METRICS[name]) for name in named(family)]
    return f"### {info.title}\n\n{escape(info.question)}\n\n{table(heads, rows)}"


def _row(metric: Metric) -> list[str]:
    better = {True: "higher", False: "lower", None: "near 0"}[metric.higher_is_better]
    needs = ", ".join(f"`--{need}`" for need in metric.needs)
    return [f"`{metric.name}`", escape(metric.summary), better, _range(metric), needs]


def _range(metric: Metric) -> str:
    if metric.low is None:
        return "any" if metric.high is None else f"at most {metric.high:g}"
    return f"at least {metric.low:g}" if metric.high is None else f"{metric.low:g} to {metric.high:g}"
