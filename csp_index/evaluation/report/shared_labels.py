"""How the labels of a whole layer collide, one row per method: figures of the layer, which no single neuron has."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from csp_index.evaluation.evaluation import Evaluation
from csp_index.evaluation.metrics.collisions import collisions
from csp_index.evaluation.report.summary import Grid, make_grid


def collision_rows(evaluation: Evaluation, grid: Grid | None = None) -> list[dict[str, Any]]:
    """Return the method and the fields of `Collisions` for each method with a label, over all neurons evaluated."""
    grid = grid or make_grid(evaluation)
    labels_of: dict[str, list[str]] = {method: [] for method in grid.methods if method}
    for (method, _), text in grid.texts.items():
        labels_of[method].append(text)
    found = {method: collisions(labels) for method, labels in labels_of.items()}
    return [{"method": method, **asdict(result)} for method, result in found.items() if result is not None]


def collision_line(row: dict[str, Any]) -> str:
    """Return a row of `collision_rows` in words."""
    bits = "" if row["bits"] is None else f", {row['bits']:.1%} of the bits that name a neuron"
    return (
        f"{row['distinct']:,} distinct labels of {row['labels']:,} neurons (reuse {row['reuse']:.2f}), "
        f"{row['shared']:.1%} shared{bits}; most common: {row['most_common']} ({row['most_neurons']:,})"
    )
