"""Agreement of raters against plain NumPy, published examples, and resamples of items one by one."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics.agreement import (
    activation_share,
    cohen_kappa,
    fleiss_kappa,
    mean_with_interval,
    pair_agreement,
    true_share,
    verdict_correlation,
)

RNG = np.random.default_rng(0)
# Fleiss 1971, as in textbooks: ten subjects, fourteen raters, five categories; kappa is 0.210
FLEISS = np.array(
    [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
)


def cohen_oracle(a: np.ndarray, b: np.ndarray) -> float:
    both = (a >= 0) & (b >= 0)
    a, b = a[both], b[both]
    chance = sum((a == c).mean() * (b == c).mean() for c in range(3))
    return float(((a == b).mean() - chance) / (1 - chance))


def fleiss_oracle(counts: np.ndarray) -> float:
    rows = [row for row in counts if row.sum() > 1]
    agreed = np.mean([sum(n * (n - 1) for n in row) / (row.sum() * (row.sum() - 1)) for row in rows])
    chance = sum(np.mean([row[c] / row.sum() for row in rows]) ** 2 for c in range(counts.shape[1]))
    return float((agreed - chance) / (1 - chance))


def test_kappas_are_those_of_the_oracle_and_of_the_publication():
    a, b = RNG.integers(-1, 3, 200), RNG.integers(-1, 3, 200)
    b[:120] = a[:120]
    found = cohen_kappa(a, b, 3)
    assert found.value == pytest.approx(cohen_oracle(a, b)) and found.items == ((a >= 0) & (b >= 0)).sum()
    assert fleiss_kappa(FLEISS).value == pytest.approx(0.210, abs=5e-4)
    counts = RNG.integers(0, 4, (60, 3))
    assert fleiss_kappa(counts).value == pytest.approx(fleiss_oracle(counts))
    assert fleiss_kappa(counts).items == (counts.sum(1) > 1).sum()
    assert pair_agreement(counts).value == pytest.approx(
        np.mean([sum(n * (n - 1) for n in row) / (row.sum() * (row.sum() - 1)) for row in counts if row.sum() > 1])
    )


def test_intervals_are_those_of_resampled_items():
    a, b = RNG.integers(0, 3, 80), RNG.integers(0, 3, 80)
    b[:50] = a[:50]
    counts = RNG.integers(0, 4, (80, 3))
    draws = RNG.integers(80, size=(4000, 80))
    for found, drawn in (
        (cohen_kappa(a, b, 3, rounds=4000), [cohen_oracle(a[pick], b[pick]) for pick in draws[:1500]]),
        (fleiss_kappa(counts, rounds=4000), [fleiss_oracle(counts[pick]) for pick in draws[:300]]),
    ):
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert found.low < found.value < found.high
        assert abs(found.low - low) < 0.03 and abs(found.high - high) < 0.03
    assert cohen_kappa(a, b, 3) == cohen_kappa(a, b, 3) != cohen_kappa(a, b, 3, seed=1)


def test_agreement_by_chance_is_near_zero_and_full_agreement_is_one():
    a, b = RNG.choice(3, 5000, p=[0.7, 0.2, 0.1]), RNG.choice(3, 5000, p=[0.7, 0.2, 0.1])
    assert abs(cohen_kappa(a, b, 3).value) < 0.03 and (a == b).mean() > 0.5
    assert cohen_kappa(a, a, 3).value == 1
    assert fleiss_kappa(np.eye(3, dtype=int)[a] * 3).value == 1


def test_what_is_undefined_is_nan_and_counts_no_item():
    same = np.zeros(10, np.int64)
    assert np.isnan(cohen_kappa(same, same, 3).value) and cohen_kappa(same, same, 3).items == 10
    assert np.isnan(fleiss_kappa(np.array([[2, 0], [2, 0]])).value)
    nothing = pair_agreement(np.array([[1, 0], [0, 1]]))
    assert np.isnan(nothing.value) and nothing.items == 0
    assert cohen_kappa(same, same - 1, 3).items == 0
    with pytest.raises(EvaluationError, match="expected one per item"):
        cohen_kappa(same, same[:5], 3)
    with pytest.raises(EvaluationError, match=r"expected \[items, categories\]"):
        fleiss_kappa(same)


def test_what_people_say_of_a_label_is_weighted():
    verdicts, activations = RNG.integers(0, 2, 30).astype(float), RNG.standard_normal(30)
    weights = RNG.integers(1, 4, 30)
    repeated = np.repeat(np.arange(30), weights)  # a weight of 3 is the same picture three times
    ones = np.ones(len(repeated))
    assert verdict_correlation(verdicts, activations, weights) == pytest.approx(
        np.corrcoef(verdicts[repeated], activations[repeated])[0, 1]
    )
    assert true_share(verdicts, weights) == pytest.approx(verdicts[repeated].mean())
    fired = np.maximum(activations, 0)
    assert activation_share(verdicts, activations, weights) == pytest.approx(
        (verdicts * fired)[repeated].sum() / fired[repeated].sum()
    )
    assert activation_share(verdicts[repeated], activations[repeated], ones) == pytest.approx(
        activation_share(verdicts, activations, weights)
    )
    assert np.isnan(verdict_correlation(np.ones(5), activations[:5], np.ones(5)))
    assert np.isnan(activation_share(np.ones(5), -np.ones(5), np.ones(5))) and np.isnan(
        true_share(np.ones(0), np.ones(0))
    )


def test_the_mean_over_labels_leaves_out_what_is_undefined():
    found = mean_with_interval(np.array([0.5, np.nan, 0.7]))
    assert found.value == pytest.approx(0.6) and found.items == 2 and found.low >= 0.5 and found.high <= 0.7
    assert mean_with_interval(np.array([np.nan])).items == 0
