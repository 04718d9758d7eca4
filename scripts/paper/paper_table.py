"""The table of `reproduce_paper.py`: our means beside the figures that are published, each with its source.

`paper_figures.json` holds what could be read word for word together with the method it belongs to; everything else is
shown as not found.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

FIGURES = Path(__file__).with_name("paper_figures.json")
_NOTE = (
    "DMA: mean activation on generated pictures over the maximal one on the indexed images. Ties count one half in "
    "AUC; the paper's code counts them as lost. The simulation correlation runs over all indexed images, those that "
    "chose the label among them, as in the paper's code: it flatters every method alike."
)

Scores = Mapping[tuple[str, str], Sequence[Mapping[str, Any]]]  # (subject, method) -> a row a neuron


def files(scores: Scores, metrics: Sequence[str], settings: Mapping[str, str]) -> dict[str, str]:
    """Return table.json, table.csv and table.md by name."""
    published = json.loads(FIGURES.read_text(encoding="utf-8"))
    rows = rows_of(scores, metrics, published["figures"])
    notes = {name: value for name, value in published.items() if name != "figures"}
    sheet = io.StringIO()
    writer = csv.DictWriter(sheet, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {
        "table.json": json.dumps({"rows": rows, "settings": settings, **notes}, indent=1),
        "table.csv": sheet.getvalue(),
        "table.md": markdown(rows, metrics, notes),
    }


def rows_of(scores: Scores, metrics: Sequence[str], figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for every subject, method and metric: our mean over the neurons with a value, and the paper's."""
    told = {(figure["subject"], figure["method"], figure["metric"]): figure for figure in figures}
    rows = []
    for (subject, method), neurons in scores.items():
        for metric in metrics:
            values = [neuron[metric] for neuron in neurons if neuron[metric] is not None]
            figure = told.get((subject, method, metric), {})
            row: dict[str, Any] = {"subject": subject, "method": method, "metric": metric}
            row |= {"ours": sum(values) / len(values) if values else None, "neurons": len(values)}
            rows.append(row | {"published": figure.get("value"), "source": figure.get("source")})
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], notes: Mapping[str, Any]) -> str:
    """Return one table a subject, and a line on every source."""
    lines = []
    columns = "".join(f" {metric} ours | {metric} published |" for metric in metrics)
    for subject, part in groupby(rows, key=lambda row: row["subject"]):
        lines += [f"## {subject}", "", f"| method |{columns} neurons |", "|---" * (2 * len(metrics) + 2) + "|"]
        for method, cells in groupby(part, key=lambda row: row["method"]):
            held = list(cells)
            shown = "".join(f" {_said(row['ours'], '-')} | {_said(row['published'], 'not found')} |" for row in held)
            lines.append(f"| {method} |{shown} {min(row['neurons'] for row in held)} |")
        lines.append("")
    lines += [f"Published figures: {where}." for where in notes["sources"].values()]
    lines.append(f"Not found: {notes['not_found']}.")
    listed = "; ".join(f"{item['dataset']}: {item['figure']}" for item in notes["unattributed"])
    lines.append(f"Not comparable: {listed} ({notes['unattributed_source']}).")
    return "\n\n".join(["\n".join(lines), _NOTE]) + "\n"


def _said(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.3f}"
