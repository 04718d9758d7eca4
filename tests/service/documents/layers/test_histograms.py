"""Histograms of a layer's neurons: edges that hold all values, in few digits, and the parts that a query leaves."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.service.documents.layers.histograms import BINS, edges_of, histogram_of


@pytest.mark.parametrize(
    "values",
    [
        [0.0],
        [-3.25],
        [0.0, 1.0],
        [0.123456789, 0.987654321, 0.5],
        [-1e-7, 2e-7],
        [0.0, 1e-9, 1e-3, 1.0],
        [1e30, 2.0, 1.0, 1.0, 1.0],
        [5e-324, 1.0],
        [0.30004999, 0.30005],
    ],
)
def test_edges_rise_hold_all_values_and_have_few_digits(values: list[float]) -> None:
    edges = edges_of(np.array(values))
    assert np.all(np.diff(edges) > 0) and len(edges) <= BINS + 1
    assert edges[0] <= min(values) and edges[-1] >= max(values)
    assert all(float(f"{edge:.3e}") == edge for edge in edges)


def test_most_values_far_below_the_largest_are_told_apart() -> None:
    rates = np.random.default_rng(0).lognormal(-6, 1.5, 500).clip(0, 1)
    rates[:20] = 0
    counts = np.histogram(rates, edges_of(rates))[0]
    assert counts[0] >= 20 and counts.max() < 0.2 * len(rates)
    even = np.histogram(rates, BINS)[0]
    assert even.max() > 0.7 * len(rates), "as bins of equal width show them"


def test_counts_are_of_all_and_of_those_shown_and_none_is_lost() -> None:
    values = np.append(np.random.default_rng(1).normal(0.3, 0.1, 99), np.nan)
    shown = values > 0.3
    made = histogram_of("score", values, shown)
    assert made is not None
    assert (sum(made["counts"]), sum(made["shown"]), made["without"]) == (99, shown.sum(), 1)
    assert all(part <= every for part, every in zip(made["shown"], made["counts"], strict=True))
    low, high = made["edges"][5], made["edges"][9]
    assert ((values >= low) & (values < high)).sum() == sum(made["counts"][5:9]), "a range by edges is those bins"
    assert histogram_of("effect", np.full(3, np.nan), np.ones(3, bool)) is None
