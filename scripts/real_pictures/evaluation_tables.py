"""Tables of what `csp-index evaluate` says of the layers of several model seeds, with intervals over both."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from intervals import LEAST_NEURONS, estimate

#: Metrics of the tables, those of them that a report has.
SHOWN: Final = (
    "agreement-exact",
    "agreement-overlap",
    "simulation",
    "auprc",
    "f1",
    "label-discrimination",
    "discriminative",
)
#: Measures of the neurons themselves, whatever their label.
OF_NEURONS: Final = ("separability", "monosemanticity", "clarity", "redundancy")


def by_method(reports: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[dict[int, float]]]:
    """Return the values of (method, metric) of each report, by neuron; what has no value is left out.

    The method of a measure of the neurons themselves is "".
    """
    result: dict[tuple[str, str], list[dict[int, float]]] = {}
    for place, report in enumerate(reports):
        columns = report["values"]["columns"]
        neuron, method, metric, value = (columns.index(name) for name in ("neuron", "method", "metric", "value"))
        for row in report["values"]["rows"]:
            if row[metric] in (SHOWN if row[method] else OF_NEURONS) and row[value] is not None:
                seeds = result.setdefault((row[method], row[metric]), [{} for _ in reports])
                seeds[place][row[neuron]] = float(row[value])
    return result


def evaluation_table(reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a table of methods by metrics over some reports, one of each model seed."""
    values = by_method(reports)
    methods = list(dict.fromkeys(method for method, _ in values if method))
    own = {metric: estimate([list(seed.values()) for seed in values["", metric]]) for _, metric in _of_neurons(values)}
    metrics = [metric for metric in SHOWN if any((method, metric) in values for method in methods)]
    most = max((sum(len(seed) for seed in seeds) for seeds in values.values()), default=0)
    if most < LEAST_NEURONS:
        return [f"Too few neurons for a judgment: {most}.", ""]
    lines = ["| method | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for method in methods:
        cells = [
            str(estimate([list(seed.values()) for seed in values.get((method, metric), [{}])])) for metric in metrics
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    said = "; ".join(f"{metric} {value}" for metric, value in own.items())
    return [*lines, "", *([f"The neurons themselves: {said}.", ""] if said else [])]


def _of_neurons(values: Mapping[tuple[str, str], object]) -> list[tuple[str, str]]:
    return [("", metric) for metric in OF_NEURONS if ("", metric) in values]


def evaluation_lines(out: Path, seeds: Sequence[int], conditions: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Return the tables of all layers and conditions that were evaluated."""
    lines = ["## csp-index evaluate: labels chosen on half of the images, judged on the other", ""]
    for layer in layers:
        for condition in conditions:
            files = [out / f"seed{seed}" / f"evaluation-{condition}-{layer}" / "evaluation.json" for seed in seeds]
            reports = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]
            if reports:
                seen = max(sum(1 for _ in report["values"]["rows"]) for report in reports)
                head = f"### {layer}; {condition} ({len(reports)} of {len(seeds)} model seeds)"
                lines += [head, "", *(evaluation_table(reports) if seen else ["Nothing was evaluated.", ""])]
    return lines
