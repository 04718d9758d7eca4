"""Bootstrap intervals, paired tests and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import intervals
from csp_index.evaluation.metrics.intervals import LEAST_PAIRS, holm, mean_interval, signed_rank

NAN = float("nan")


def test_the_interval_covers_the_true_mean_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(400, 60, generator=generator)  # 400 studies of 60 neurons, true mean 0.5
    found = mean_interval(values, rounds=400, level=0.9)
    share = ((found.low <= 0.5) & (found.high >= 0.5)).double().mean().item()
    assert 0.84 < share < 0.95
    width = (found.high - found.low).mean().item()
    assert abs(width - 2 * 1.645 * (1 / 12 / 60) ** 0.5) < 0.01


def test_the_interval_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=80)
    theirs = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    ours = mean_interval(torch.from_numpy(values)[None], rounds=4000)
    assert ours.mean.item() == pytest.approx(values.mean())
    assert ours.low.item() == pytest.approx(theirs.low, abs=0.02)
    assert ours.high.item() == pytest.approx(theirs.high, abs=0.02)


def test_nan_is_left_out_and_counted():
    values = torch.tensor([[1.0, NAN, 3.0, NAN], [NAN] * 4, [NAN, NAN, NAN, 7.0], [1.0, 2.0, 3.0, 4.0]])
    found = mean_interval(values)
    assert found.count.tolist() == [2, 0, 1, 4]
    assert found.mean.tolist()[::2] == [2.0, 7.0]
    assert [x[1].isnan().item() for x in (found.mean, found.low, found.high)] == [True] * 3
    assert found.low[2] == found.high[2] == 7.0
    assert (found.low[3], found.high[3]) > (1.0, 2.5)


def test_an_interval_does_not_depend_on_its_company_or_on_blocks(monkeypatch):
    values = torch.rand(3, 20, generator=torch.Generator().manual_seed(0))
    values[1, 5] = NAN
    together = mean_interval(values, seed=3)
    for row in range(3):
        alone = mean_interval(values[row][~values[row].isnan()][None], seed=3)
        assert (alone.low.item(), alone.high.item()) == (together.low[row].item(), together.high[row].item())
    assert mean_interval(values, seed=4).low[0] != together.low[0]
    monkeypatch.setattr(intervals, "_BLOCK", 20 * 7)  # seven rounds at a time
    torch.testing.assert_close(mean_interval(values, seed=3).high, together.high)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=20))
def test_an_interval_lies_within_the_values(values):
    found = mean_interval(torch.tensor([values], dtype=torch.float64), rounds=50)
    assert min(values) - 1e-9 <= found.low.item() <= found.high.item() <= max(values) + 1e-9


def test_a_difference_is_of_the_neurons_that_have_both():
    generator = torch.Generator().manual_seed(0)
    b = torch.rand(40, generator=generator, dtype=torch.float64)
    a = b + 0.1 + 0.05 * torch.randn(40, generator=generator, dtype=torch.float64)
    a[3], b[7] = NAN, NAN
    both = ~(a.isnan() | b.isnan())
    found, p_values = mean_interval(torch.stack([a - b, b - a])), signed_rank(torch.stack([a - b, b - a]))
    assert found.count.tolist() == [38, 38]
    assert found.mean.tolist() == pytest.approx([(a - b)[both].mean().item(), (b - a)[both].mean().item()])
    assert 0 < found.low[0] < found.mean[0] < found.high[0]
    assert p_values == pytest.approx([stats.wilcoxon(a[both].numpy(), b[both].numpy()).pvalue] * 2)
    assert p_values[0] < 1e-6


def test_a_signed_rank_test_of_ties_and_zeros_warns_of_nothing():
    a, b = torch.tensor([1.0, 2, 3, 4, 5, 5, 5, 7]), torch.tensor([0.0, 1, 2, 4, 5, 4, 4, 7])
    (p_value,) = signed_rank((a - b)[None])
    assert 0 < p_value < 0.1


def test_without_a_difference_p_is_one_and_with_few_there_is_none():
    same, few, none = torch.zeros(10), torch.tensor([3.0] * 5 + [NAN] * 5), torch.full((10,), NAN)
    differences = torch.stack([same, few, none])
    assert signed_rank(differences) == [1.0, None, None]
    found = mean_interval(differences)
    assert found.count.tolist() == [10, 5, 0]
    assert found.mean[:2].tolist() == [0.0, 3.0] and found.low[0] == found.high[0] == 0.0
    assert found.mean[2].isnan() and found.low[2].isnan() and found.high[2].isnan()


def test_holm_steps_down_never_falls_and_never_passes_one():
    assert holm([0.01, 0.02, 0.03]) == pytest.approx((0.03, 0.04, 0.04))
    assert holm([0.9, None, 0.5]) == pytest.approx((1.0, None, 1.0))
    assert holm([]) == () and holm([None]) == (None,)
    assert holm([0.04]) == (0.04,)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_textbook_rejects(p_values):
    """At level 0.05: go up the sorted p-values while p_i <= 0.05 / (m - i), stop at the first that fails."""
    rejected = set()
    for step, place in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[place] * (len(p_values) - step) > 0.05:
            break
        rejected.add(int(place))
    assert {i for i, p in enumerate(holm(p_values)) if p is not None and p <= 0.05} == rejected


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: mean_interval(torch.zeros(3)), "expected \\[R, M\\]"),
        (lambda: mean_interval(torch.zeros(1, 3), rounds=0), "rounds is 0"),
        (lambda: mean_interval(torch.zeros(1, 3), level=95), "level is 95"),
    ],
)
def test_what_does_not_fit_is_said(call, says):
    with pytest.raises(EvaluationError, match=says):
        call()


@pytest.mark.parametrize("seed", range(4))
def test_few_differences_with_ties_have_scipys_exact_p_value(seed):
    difference = torch.tensor(np.random.default_rng(seed).choice([-1.0, 0.0, 0.5, 1.0], 9))
    changed = difference[difference != 0].numpy()
    (found,) = signed_rank(difference[None])
    assert found == pytest.approx(stats.wilcoxon(changed).pvalue, abs=1e-12)


def test_tests_made_together_are_those_made_alone():
    rng = np.random.default_rng(5)
    sizes = [*range(20), 50, 51, 52, 60, 60, 60] * 2
    rows = np.full((len(sizes), 64), NAN)
    for row, size in enumerate(sizes):
        values = rng.normal(0.2, 1, size) if row % 3 else rng.choice([-1.0, 0.0, 0.5, 1.0], size)
        rows[row, rng.permutation(64)[:size]] = values
    for row, p_value in zip(rows, signed_rank(torch.from_numpy(rows)), strict=True):
        present = row[~np.isnan(row)]
        changed = present[present != 0]
        if len(present) < LEAST_PAIRS:
            assert p_value is None
        elif len(changed) > 13:
            assert p_value == stats.wilcoxon(changed).pvalue
        else:
            assert p_value == signed_rank(torch.from_numpy(row[None]))[0] <= 1.0
