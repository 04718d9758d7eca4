"""The words of a report: what a metric means, what the controls show, and how a figure is printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from csp_index.evaluation.metrics.table import Metric

DASH: Final = "\N{EN DASH}"
#: Methods whose labels are wrong by design, and what each shows.
CONTROLS: Final[dict[str, str]] = {
    "random-label": "draws each label at random from the candidates: its score is that of a meaningless label",
    "random-contrast": "uses random silent images instead of similar ones: what a method scores above it is due to "
    "similarity",
}


def base_name(method: str) -> str:
    """Return the method's name without its options: csp of csp:gamma=0.5."""
    return method.partition(":")[0]


def meaning(metric: Metric | None) -> str:
    """Return what a metric means and which way is better, in a sentence."""
    if metric is None:
        return "A metric from elsewhere."
    better = {True: "Higher is better", False: "Lower is better", None: "Near 0 is best"}[metric.higher_is_better]
    text = f"{metric.summary[:1].upper()}{metric.summary[1:]}. {better}"
    if metric.low is not None and metric.high is not None:
        return f"{text}, from {metric.low:g} to {metric.high:g}."
    return f"{text}; at least {metric.low:g}." if metric.low is not None else f"{text}."


def arrow(metric: Metric | None) -> str:
    """Return an arrow in the better direction, or "→0"."""
    return "" if metric is None else {True: "↑", False: "↓", None: "→0"}[metric.higher_is_better]


def figure(value: float | None, sign: bool = False) -> str:
    """Return a value as a report prints it, a dash for None."""
    if value is None:
        return DASH
    digits = ".3f" if abs(value) < 100 else ",.0f"
    text = format(value, f"{'+' if sign else ''}{digits}")
    return text.replace("-", "\N{MINUS SIGN}")


def interval(low: float | None, high: float | None) -> str:
    """Return an interval in words, "" for None."""
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def chance(p: float | None) -> str:
    """Return a p-value as a report prints it."""
    return "too few neurons" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def number(value: object) -> str:
    """Return a whole number with separated thousands, anything else as text."""
    return f"{value:,}" if isinstance(value, int) else str(value)


def given_lines(settings: Mapping[str, object]) -> dict[str, list[str]]:
    """Return what is said of each set of labels made elsewhere, by name: that it was not chosen here, and its notes."""
    labels = settings.get("labels")
    lines = {}
    for name, about in labels.items() if isinstance(labels, Mapping) else ():
        lines[name] = [
            f"{name}: labels made elsewhere ({about['file']}, {about['layout']}), not chosen on these choosing images: "
            "which images they were chosen on is not known, and the judging ones may be among them",
            *about["notes"],
        ]
    return lines
