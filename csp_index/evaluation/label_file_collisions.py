"""How the labels of files collide, without any index: the figures of labels as other projects publish them."""

from __future__ import annotations

import math
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
    """Return a row per file, or one for all of them `together`: `file`, `of`, the fields of `Collisions`, `left_out`.

    The label of a neuron is its first text, or that of the largest weight; files with weighted sums have a second row,
    in which the whole sets of texts are compared. `each_row` counts every row with a text as a neuron; otherwise the
    rows of a neuron are one sum, or, without weights, the first one counts. `layer` selects the rows of one layer; of
    these `left_out` counts those without a text whose weight, if there are weights, is a finite number other than 0.
    Errors: LabelError for a file that cannot be read, EvaluationError for one without a label.
    """
    found: list[tuple[str, bool, list[tuple[str, ...]], int]] = []
    for file in files:
        table = read_label_table(file)
        rows = [row for row in table.rows if layer is None or row.layer == layer]
        labels, left_out = _labels(rows, table.weighted, each_row)
        if not labels:
            has = ", ".join(sorted({row.layer for row in table.rows if row.layer})) or "none"
            scope = "" if layer is None else f" of layer {layer} (has: {has})"
            raise EvaluationError(f"the labels file {file} has no label{scope}: expected rows with a neuron and a text")
        found.append((file.name, table.weighted, labels, left_out))
    if together:
        names, weighted = ", ".join(name for name, *_ in found), any(weighted for _, weighted, *_ in found)
        every = [label for *_, labels, _ in found for label in labels]
        found = [(names, weighted, every, sum(left_out for *_, left_out in found))]
    result = []
    for name, weighted, labels, left_out in found:
        parts = {"largest weight" if weighted else "label": [label[0] for label in labels]}
        if weighted:
            parts["whole set"] = [" + ".join(sorted(set(label))) for label in labels]
        for what, texts in parts.items():
            counted = collisions(texts)
            if counted is not None:
                result.append({"file": name, "of": what, **asdict(counted), "left_out": left_out})
    return result


def _labels(rows: Sequence[LabelRow], weighted: bool, each_row: bool) -> tuple[list[tuple[str, ...]], int]:
    """Return the texts of each labeled neuron, those of greater weight first, and the number of rows without any."""
    labels: dict[object, list[tuple[str, float]]] = {}
    left_out = 0
    for number, row in enumerate(rows):
        texts = [(text.strip(), _weight(weight)) for text, weight in row.texts if text.strip()]
        texts = [(text, weight) for text, weight in texts if weight or not weighted]
        left_out += not texts
        if texts:
            own = labels.setdefault(number if each_row else (row.layer, str(row.neuron)), [])
            if weighted or not own:  # several rows of a neuron are one sum
                own += texts
    ordered = (sorted(own, key=lambda pair: -pair[1]) if weighted else own for own in labels.values())
    return [tuple(text for text, _ in own) for own in ordered], left_out


def _weight(written: object) -> float:
    try:
        weight = float(str(written))
    except ValueError:
        return 0.0
    return weight if math.isfinite(weight) else 0.0
