"""An evaluation beside that of a null, a layer that has learned nothing: how far each measure falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from csp_index.errors import EvaluationError
from csp_index.evaluation.evaluation import Evaluation
from csp_index.evaluation.metrics.table import METRICS, family_of
from csp_index.evaluation.report.summary import make_grid
from csp_index.evaluation.report.wording import CONTROLS, base_name

UNMOVED: Final = "measures the data, not the network"
TOO_FEW: Final = "too few neurons"
FEW: Final = 10  # neurons, below which their number is said with a figure
_Z: Final = 1.959964  # of a 95 % interval


def against_null(evaluation: Evaluation, null: Evaluation) -> Evaluation:
    """Return an evaluation with the rows of `null_rows`, which a report then shows."""
    settings = {**evaluation.settings, "null": null.settings.get("layer")}
    return replace(evaluation, settings=settings, null=tuple(null_rows(evaluation, null)))


def null_rows(evaluation: Evaluation, null: Evaluation) -> list[dict[str, Any]]:
    """Return how each measure falls from a layer to its null, over all neurons, for metrics that both have.

    Keys: metric, method ("" for one of the neurons themselves), mean, null_mean, fall (in the metric's own direction:
    above 0 the null is worse), low, high (95 % by the normal approximation, for the neurons are not the same), neurons,
    null_neurons, verdict: "falls", or `UNMOVED` where the interval reaches 0, or `TOO_FEW`, without an interval, where
    either has one neuron. A metric of which it is not known which
    way is better falls where it differs. Errors: EvaluationError for evaluations by other judges.
    """
    for name in ("judge", "encoder", "candidates"):
        if evaluation.settings.get(name) != null.settings.get(name):
            raise EvaluationError(
                f"the null was evaluated with another {name} ({null.settings.get(name)}, expected "
                f"{evaluation.settings.get(name)}): evaluate both with the same options"
            )
    own, other = make_grid(evaluation), make_grid(null)
    rows = []
    for metric in own.metrics:
        for method in own.methods_of(metric):
            if (method, metric) in other.rows:
                values, of_null = (_present(grid.row(method, metric)) for grid in (own, other))
                if len(values) and len(of_null):
                    rows.append({"metric": metric, "method": method, **_fall(values, of_null, metric)})
    return rows


def fall_line(row: Mapping[str, Any]) -> str:
    """Return a row in words, with the numbers of neurons where they are few."""
    interval = TOO_FEW if row["low"] is None else f"{row['low']:z.2f}..{row['high']:z.2f}"
    few = min(row["neurons"], row["null_neurons"]) < FEW
    counts = f" [{row['neurons']} and {row['null_neurons']} neurons]" if few else ""
    return (
        f"{row['method']} {row['metric']}: {row['mean']:z.2f}, there {row['null_mean']:z.2f}; "
        f"falls by {row['fall']:z.2f} ({interval}){counts}"
    )


def unmoved_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in words which metrics do not fall, with their methods, or "".

    Controls are left out, whose labels mean nothing in either layer, and so is what describes the pairs of images.
    """
    methods: dict[str, list[str]] = {}
    for row in rows:
        if (
            row["verdict"] == UNMOVED
            and base_name(row["method"]) not in CONTROLS
            and family_of(row["metric"]) != "pairs"
        ):
            methods.setdefault(row["metric"], []).append(row["method"])
    named = [f"{metric} ({', '.join(names)})" if any(names) else metric for metric, names in methods.items()]
    return f"do not fall, so each {UNMOVED}: {'; '.join(named)}" if named else ""


def _fall(values: np.ndarray, null: np.ndarray, metric: str) -> dict[str, Any]:
    known = METRICS.get(metric)
    mean, null_mean = float(values.mean()), float(null.mean())
    sign = -1.0 if known is not None and not known.higher_is_better else 1.0
    fall = sign * (mean - null_mean)
    known_spread = min(len(values), len(null)) > 1
    error = _Z * math.sqrt(_variance(values) + _variance(null)) if known_spread else math.inf
    falls = fall - error > 0 or (known is None and fall + error < 0)
    return {
        "mean": mean,
        "null_mean": null_mean,
        "fall": fall,
        "low": fall - error if known_spread else None,
        "high": fall + error if known_spread else None,
        "neurons": len(values),
        "null_neurons": len(null),
        "verdict": "falls" if falls else UNMOVED if known_spread else TOO_FEW,
    }


def _variance(values: np.ndarray) -> float:
    """Return the variance of a mean of two values or more."""
    return float(values.var(ddof=1)) / len(values)


def _present(values: np.ndarray) -> np.ndarray:
    present: np.ndarray = values[~np.isnan(values)]
    return present
