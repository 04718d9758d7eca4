"""The content of a report's page: an evaluation as tables, charts and comparisons of neurons, for the template.

Kinds are shown separately, and CoSy's metrics never without one that punishes an over-specific label. Writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from csp_index.errors import CspIndexError
from csp_index.evaluation.evaluation import Evaluation
from csp_index.evaluation.metrics.families import FAMILIES
from csp_index.evaluation.metrics.sanity import SanityReport
from csp_index.evaluation.metrics.table import HEADLINES, METRICS, family_of
from csp_index.evaluation.report import charts
from csp_index.evaluation.report.rendering import data_uri
from csp_index.evaluation.report.sheets import Sheet, Sheets
from csp_index.evaluation.report.summary import (
    COMPANIONS,
    NOT_ALONE,
    Grid,
    NeuronComparison,
    missing_notes,
    winners,
)
from csp_index.evaluation.report.wording import (
    CONTROLS,
    base_name,
    chance,
    figure,
    given_lines,
    interval,
    meaning,
    number,
)
from csp_index.printable import not_turned

Cards = Callable[[str, str], bytes | None]
Rows = Sequence[Mapping[str, Any]]

_QUALITY: Final = "pairs"  # the family that describes what chose the labels, not the labels
_MOST_NOTES = 100


@dataclass(frozen=True, slots=True)
class Definition:
    """What a metric means and which way is better, in a sentence."""

    name: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """A family of metrics: what it asks, its table, its definitions and its charts."""

    anchor: str
    title: str
    lead: str
    sheet: Sheet
    definitions: list[Definition]
    charts: list[Markup]


@dataclass(frozen=True, slots=True)
class Card:
    """A neuron's picture card under one method, as a data URI; "" without a card."""

    method: str
    text: str
    value: str
    uri: str
    missing: str


@dataclass(frozen=True, slots=True)
class NeuronCards:
    """One neuron under two methods, with both cards."""

    neuron: str
    kind: str
    gain: str
    cards: list[Card]


class Page:
    """Everything the template shows of one evaluation."""

    def __init__(self, evaluation: Evaluation, grid: Grid, summary: pa.Table, comparisons: pa.Table) -> None:
        """Take an evaluation with the results of `summarise` and `compare`."""
        self._evaluation, self._grid = evaluation, grid
        self._summary, self._comparisons = summary, comparisons
        self._missing = missing_notes(evaluation)
        self._sheets = Sheets(grid, summary, comparisons)
        self.methods = [method for method in grid.methods if method]
        self.controls = [(name, CONTROLS[base_name(name)]) for name in self.methods if base_name(name) in CONTROLS]
        self.floor = next((name for name, _ in self.controls if base_name(name) == "random-label"), None)
        self.headline = self._headline()
        self.primary = next((name for name in self.headline if family_of(name) in COMPANIONS), None)
        self.leaders = self._leaders()

    def facts(self) -> list[tuple[str, str]]:
        """Return the heading's facts: layer, neurons, images, split, encoders."""
        settings = self._evaluation.settings
        split = settings.get("split")
        halves = split if isinstance(split, Mapping) else {}
        facts = [("Layer", self.layer), ("Neurons", self._neuron_counts())]
        if "choosing" in halves and "judging" in halves:
            choosing, judging = halves["choosing"], halves["judging"]
            facts.append(("Images", f"{number(choosing)} chose the labels, {number(judging)} others judged them"))
        origin = [str(halves[name]) for name in ("origin",) if name in halves]
        origin += [f"{name} {halves[name]}" for name in ("seed", "key") if name in halves]
        if origin:
            facts.append(("Split", ", ".join(origin)))
        facts += [("Labels made elsewhere", "; ".join(lines)) for lines in given_lines(settings).values()]
        facts.append(("Encoder that labels", str(settings.get("encoder", "not stated"))))
        facts.append(("Encoder that judges", str(settings.get("judge") or settings.get("encoder", "not stated"))))
        return facts

    @property
    def layer(self) -> str:
        """The layer under study."""
        return str(self._evaluation.settings.get("layer") or "")

    @property
    def null_layer(self) -> str:
        """The layer that has learned nothing, against which this one was evaluated."""
        return str(self._evaluation.settings.get("null") or "a null")

    @property
    def same_encoder(self) -> bool:
        """Whether the encoder that chose the labels also judged them."""
        settings = self._evaluation.settings
        stated = settings.get("same_encoder")
        return bool(stated) if stated is not None else settings.get("judge") in (None, settings.get("encoder"))

    def glance(self) -> Sheet:
        """Return the first table of the page: one metric of each family."""
        return self._sheets.sheet("One metric of each family", self.headline)

    def sections(self) -> list[Section]:
        """Return a section for each family with values, then one for the neurons and one for the contrast."""
        sections = []
        for family, info in FAMILIES.items():
            names = [name for name in self._grid.metrics if family_of(name) == family and self._judged(name)]
            if family != _QUALITY and any(self._valued(name) for name in names):
                sections.append(self._section(family, info.title, info.question, names))
        others = [name for name in self._grid.metrics if name not in METRICS and self._judged(name)]
        if others:
            lead = "Metrics from elsewhere: which way is better is unknown, so none is marked best."
            sections.append(self._section("other", "Other metrics", lead, others))
        neurons = [name for name in self._grid.metrics if ("", name) in self._grid.rows]
        if neurons:
            lead = "Properties of the neurons, whatever their labels: one meaning or several, unique or redundant."
            title = "The neurons themselves"
            sheet = self._sheets.sheet(title, neurons, [""])
            sections.append(Section("neurons", title, lead, sheet, self._definitions(neurons), []))
        pairs = [name for name in self._grid.metrics if family_of(name) == _QUALITY]
        if pairs:
            info = FAMILIES[_QUALITY]
            sections.append(self._section(_QUALITY, info.title, info.question, pairs))
        return sections

    def differences(self) -> list[Markup]:
        """Return a chart for each headline metric of the leader against the others."""
        if not self.leaders:
            return []
        leader = self.leaders[0]
        metrics = [name for name in self.headline if (leader, name) in self._grid.rows and self._rivals(name)]
        return [
            self._chart(charts.difference_chart(self._comparisons, name, leader), f"difference-{name}", name)
            for name in metrics
        ]

    def comparisons(self) -> list[dict[str, str]]:
        """Return the rows of the table of paired tests, headline metrics only."""
        return [
            {
                "metric": line["metric"],
                "kind": line["kind"],
                "pair": f"{line['method_a']} minus {line['method_b']}",
                "neurons": number(line["neurons"]),
                "difference": figure(line["difference"], sign=True),
                "interval": interval(line["low"], line["high"]),
                "p": chance(line["p_holm"]),
                "better": line["better"] or "undecided",
            }
            for metric in self.headline
            for line in self._comparisons.to_pylist()
            if line["metric"] == metric
        ]

    def spreads(self) -> list[Markup]:
        """Return histograms over neurons, for headline metrics that take more than two values."""
        drawn = []
        for name in self.headline:
            values = self._grid.matrix[[self._grid.rows[method, name] for method in self._grid.methods_of(name)]]
            if len(np.unique(values[~np.isnan(values)])) > 2:
                drawn.append(self._chart(charts.histogram_chart(self._grid, name), f"spread-{name}", name))
        return drawn

    def comparison_cards(self, cards: Cards | None, count: int) -> tuple[list[NeuronCards], list[NeuronCards]]:
        """Return the neurons on which the leader gains most over the second, and those on which it loses most."""
        if len(self.leaders) < 2 or self.primary is None:
            return [], []
        extremes = winners(self._evaluation, self.primary, self.leaders[0], self.leaders[1], count)
        gains = [self._cards(comparison, cards) for comparison in extremes.gains]
        return gains, [self._cards(comparison, cards) for comparison in extremes.losses]

    def notes(self) -> list[dict[str, str]]:
        """Return the reasons for missing values, the most frequent first."""
        return [
            {
                "reason": missing.reason,
                "metrics": "all" if len(missing.metrics) == len(self._grid.metrics) else ", ".join(missing.metrics),
                "methods": "all" if set(missing.methods) == set(self.methods) else ", ".join(missing.methods),
                "neurons": number(missing.neurons),
                "count": number(missing.values),
            }
            for missing in self._missing[:_MOST_NOTES]
        ]

    @property
    def notes_left_out(self) -> int:
        """The number of reasons that `notes` leaves out."""
        return max(0, len(self._missing) - _MOST_NOTES)

    def calibration(self, rows: Rows | None) -> Markup | None:
        """Return the chart of how often labels of a given stability are right."""
        return (
            self._chart(charts.calibration_chart(rows), "calibration", "share right by probability") if rows else None
        )

    def sanity(self, report: SanityReport | None) -> Markup | None:
        """Return the chart of the metrics' own test."""
        return self._chart(charts.sanity_chart(report), "sanity", "drops of the metrics") if report else None

    def _judged(self, metric: str) -> bool:
        """Return whether the metric is one of labels, not of the neurons themselves."""
        return any(self._grid.methods_of(metric))

    def _rivals(self, metric: str) -> bool:
        return len([method for method in self._grid.methods_of(metric) if method]) > 1

    def _headline(self) -> list[str]:
        """Return one metric per family: its first headline, else its first metric."""
        valued = [name for name in self._grid.metrics if self._judged(name) and self._valued(name)]
        headline = []
        for family in FAMILIES:
            names = [name for name in valued if family_of(name) == family and family != _QUALITY]
            headline += ([name for name in names if name in HEADLINES] or names)[:1]
        return headline

    def _valued(self, metric: str) -> bool:
        rows = [row for (method, name), row in self._grid.rows.items() if name == metric and method]
        return not np.isnan(self._grid.matrix[rows]).all()

    def _leaders(self) -> list[str]:
        """Return the best method by mean of the first headline metric, and the next that differs; no controls."""
        if self.primary is None:
            return []
        names = [name for name in self._grid.methods_of(self.primary) if name and base_name(name) not in CONTROLS]
        means = {name: mean for name in names if (mean := self._sheets.mean(name, self.primary)) is not None}
        higher_is_better = METRICS[self.primary].higher_is_better
        sign = -1 if higher_is_better else 1
        ranked = sorted(means, key=lambda name: abs(means[name]) if higher_is_better is None else sign * means[name])
        if len(ranked) < 2:
            return ranked
        first = self._grid.row(ranked[0], self.primary)
        others = [name for name in ranked[1:] if np.nansum(np.abs(first - self._grid.row(name, self.primary))) > 0]
        return [ranked[0], (others or ranked[1:])[0]]

    def _neuron_counts(self) -> str:
        counts = [(kind, int(self._grid.columns(kind).sum())) for kind in self._grid.groups]
        apart = ", ".join(f"{count:,} {kind}" for kind, count in counts[:-1])
        return f"{counts[-1][1]:,}" + (f" ({apart})" if apart else "")

    def _section(self, anchor: str, title: str, lead: str, names: list[str]) -> Section:
        """Return a section that shows some metrics."""
        columns = names
        if anchor == NOT_ALONE:
            columns = [name for name in self.headline if family_of(name) in COMPANIONS] + names
        drawn_names = [name for name in columns if name in self.headline or len(names) == 1]
        drawn = [
            self._chart(charts.interval_chart(self._summary, name, self.floor), f"{anchor}-{name}", name)
            for name in drawn_names
        ]
        sheet = self._sheets.sheet(title, columns, companions=[name for name in columns if name not in names])
        return Section(anchor, title, lead, sheet, self._definitions(names), drawn)

    def _definitions(self, names: Sequence[str]) -> list[Definition]:
        return [Definition(name, meaning(METRICS.get(name))) for name in names]

    def _cards(self, comparison: NeuronComparison, cards: Cards | None) -> NeuronCards:
        sides = zip(
            self.leaders, (comparison.text_a, comparison.text_b), (comparison.value_a, comparison.value_b), strict=True
        )
        neuron_cards = []
        for method, text, value in sides:
            uri, missing = _picture(cards, comparison.neuron, method)
            neuron_cards.append(Card(method, text or "no label", figure(value), uri, missing))
        return NeuronCards(comparison.neuron, comparison.kind, figure(comparison.gain, sign=True), neuron_cards)

    def _chart(self, drawing: Any, name: str, description: str) -> Markup:
        drawn = not_turned(charts.to_svg(drawing, name, f"Chart: {description}"))
        return Markup(drawn)  # the SVG escapes its own texts  # nosec B704


def _picture(cards: Cards | None, neuron: str, method: str) -> tuple[str, str]:
    """Return a card as a data URI, or why there is none."""
    if cards is None:
        return "", ""
    try:
        picture = cards(neuron, method)
    except CspIndexError as exc:
        return "", f"no card: {exc}"
    return (data_uri(picture), "") if picture else ("", "no card")
