"""How the labels of files collide, without any index: the figures of labels as other projects publish them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics.collisions import collisions
from csp_index.labelling.elsewhere.layouts import LabelRow, read_label_table


def file_collisions(
    files: Sequence[Path], *, layer: str | None = None, each_row: bool = False, together: bool = False
) -> list[dict[str, Any]]:
    """Return a row per file, or one for all of them `together`: `file`, `of`, and the fields of `Collisions`.

    The label of a neuron is its first text, or that of the largest weight; files with weighted sums have a second row,
    in which the whole sets of texts are compared. `each_row` counts every row with a text as a neuron; otherwise the
    first one of a neuron counts. `layer` selects the rows of one layer. Errors: LabelError for a file that cannot be
    read, EvaluationError for one without a label.
    """
    found: list[tuple[str, bool, list[tuple[str, ...]]]] = []
    for file in files:
        table = read_label_table(file)
        rows = [row for row in table.rows if layer is None or row.layer == layer]
        labels = _labels(rows, table.weighted, each_row)
        if not labels:
            has = ", ".join(sorted({row.layer for row in table.rows if row.layer})) or "none"
            scope = "" if layer is None else f" of layer {layer} (has: {has})"
            raise EvaluationError(f"the labels file {file} has no label{scope}: expected rows with a neuron and a text")
        found.append((file.name, table.weighted, labels))
    if together:
        names, weighted = ", ".join(name for name, *_ in found), any(weighted for _, weighted, _ in found)
        found = [(names, weighted, [label for *_, labels in found for label in labels])]
    result = []
    for name, weighted, labels in found:
        parts = {"largest weight" if weighted else "label": [label[0] for label in labels]}
        if weighted:
            parts["whole set"] = [" + ".join(sorted(label)) for label in labels]
        for what, texts in parts.items():
            counted = collisions(texts)
            if counted is not None:
                result.append({"file": name, "of": what, **asdict(counted)})
    return result


def _labels(rows: Sequence[LabelRow], weighted: bool, each_row: bool) -> list[tuple[str, ...]]:
    """Return the texts of each labeled neuron, those of greater weight first."""
    labels: dict[object, tuple[str, ...]] = {}
    for number, row in enumerate(rows):
        texts = [(text.strip(), _weight(weight)) for text, weight in row.texts if text.strip()]
        if weighted:
            texts = sorted((pair for pair in texts if pair[1]), key=lambda pair: -pair[1])
        if texts:
            labels.setdefault(number if each_row else (row.layer, str(row.neuron)), tuple(text for text, _ in texts))
    return list(labels.values())


def _weight(written: object) -> float:
    try:
        return float(str(written))
    except ValueError:
        return 0.0
