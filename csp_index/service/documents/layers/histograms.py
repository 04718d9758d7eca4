"""Histograms of a layer's neurons: how many have which values of a column. Pure functions of arrays."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Context
from typing import Final

import numpy as np

from csp_index.service.documents.layers.overview_shapes import Histogram

BINS: Final = 40
_DIGITS: Final = 4  # of an edge: people read them, and addresses have them
_SKEWED: Final = 10  # values whose median is so many times below the largest are shown by their logarithm
_DECADES: Final = 1e-4  # of the largest value: what is below shares the first bin


def histogram_of(column: str, values: np.ndarray, shown: np.ndarray) -> Histogram | None:
    """Return the histogram of values [M] of a layer's neurons, NaN where one has none; None without any value.

    `shown` [M] are those that the query leaves. Edges have four digits, and are none but the ends of ranges that hold
    the values between them: whoever filters by two edges gets the neurons of the bins between them.
    """
    known = np.isfinite(values)
    if not known.any():
        return None
    edges = edges_of(values[known])
    return {
        "column": column,
        "edges": edges.tolist(),
        "counts": np.histogram(values[known], edges)[0].tolist(),
        "shown": np.histogram(values[known & shown], edges)[0].tolist(),
        "without": int((~known).sum()),
    }


def edges_of(values: np.ndarray) -> np.ndarray:
    """Return rising edges [B + 1] of bins that hold all values [V], V > 0, finite.

    Bins are equally wide, or where most values are far below the largest and none is negative, equally wide for the
    eye on a scale of logarithms; 0 is then in the first bin.
    """
    low, high = float(values.min()), float(values.max())
    if low == high:
        margin = 0.5 * abs(low) or 0.5
        return np.unique(_rounded(np.linspace(low - margin, high + margin, BINS + 1)))
    if low >= 0 and np.median(values) * _SKEWED < high:
        least = max(float(values[values > 0].min()), high * _DECADES)
        edges = np.concatenate([[0.0], np.geomspace(least, high, BINS)])
    else:
        edges = np.linspace(low, high, BINS + 1)
    return np.unique(_rounded(edges))


def _rounded(edges: np.ndarray) -> np.ndarray:
    """Return edges with few digits; the first rounded down and the last up, so that they still hold all values."""
    ways = [ROUND_FLOOR, *[ROUND_HALF_EVEN] * (len(edges) - 2), ROUND_CEILING]
    few = (Context(_DIGITS, way).create_decimal(edge) for edge, way in zip(edges.tolist(), ways, strict=True))
    return np.array([float(edge) for edge in few])
