"""Sigmoids of cosines, probabilities without ground truth, and reliability."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import calibration
from csp_index.evaluation.metrics.calibration import (
    TextCalibration,
    expected_calibration_error,
    fit_sigmoid,
    reliability,
)
from csp_index.evaluation.metrics.detection import average_precision, pearson

NAN = float("nan")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- sigmoid --------------------------------------------------------------------------------------------------------


def simulated(neurons: int = 6, images: int = 800, seed: int = 0):
    """Neurons that fire on the upper end of their label's cosine: from rarely to often, from softly to sharply."""
    similarity = 0.2 + 0.03 * torch.randn(neurons, images, generator=seeded(seed))
    z = (similarity - 0.2) / 0.03
    border = torch.linspace(0, 2.5, neurons)[:, None]
    return similarity, 7 * torch.sigmoid(torch.linspace(1, 8, neurons)[:, None] * (z - border))


def test_the_sigmoid_is_the_best_one():
    similarity, activations = simulated()
    found = fit_sigmoid(similarity, activations)
    assert found.fitted.all()
    for k in range(len(similarity)):
        z = ((similarity[k] - found.mean[k]) / found.deviation[k]).double().numpy()
        y = (activations[k] / activations[k].max()).double().numpy()

        def loss(x, z=z, y=y):
            t = x[0] * z + x[1]
            return np.mean(np.logaddexp(0, t) - y * t) + 0.5e-3 * x[0] ** 2

        best = minimize(loss, [0.0, 0.0], tol=1e-10)
        ours = [found.slope[k].item(), found.bias[k].item()]
        assert loss(ours) <= best.fun + 1e-6
        assert ours == pytest.approx(best.x, abs=0.02)


def test_a_fitted_sigmoid_carries_over_and_beats_the_cosine():
    similarity, activations = simulated()
    new, truth = simulated(seed=1)
    plain = pearson(new, truth)
    calibrated = pearson(fit_sigmoid(similarity, activations).apply(new), truth)
    assert (calibrated > plain).all() and (calibrated > 0.93).all()
    assert (calibrated[1:] > plain[1:] + 0.05).all()  # the first neuron is nearly linear in its cosine


def test_a_clean_split_and_a_contrary_label_stay_finite():
    similarity = torch.linspace(-1, 1, 100)[None].repeat(2, 1)
    activations = torch.stack(((similarity[0] > 0.9).float(), (similarity[0] < 0).float()))
    found = fit_sigmoid(similarity, activations)
    assert found.slope[0] > 1 and found.slope[1] < -1
    predicted = found.apply(similarity)
    assert predicted.isfinite().all() and ((predicted >= 0) & (predicted <= 1)).all()
    assert (predicted[1, :40] > 0.9).all() and (predicted[1, 60:] < 0.1).all()


def test_what_cannot_be_fitted_predicts_a_constant(monkeypatch):
    similarity = torch.rand(5, 20, generator=seeded())
    activations = torch.rand(5, 20, generator=seeded(1))
    similarity[0] = 0.3  # the same cosine everywhere
    activations[1] = 0.0  # never fires
    activations[2] = -1.0  # never fires, in a layer without ReLU
    similarity[3, 4] = NAN
    monkeypatch.setattr(calibration, "_BLOCK", 40)  # two rows a block
    found = fit_sigmoid(similarity, activations)
    assert found.fitted.tolist() == [False, False, False, False, True]
    predicted = found.apply(torch.rand(5, 7, generator=seeded(2)))
    assert (predicted[:4] == 0.5).all() and predicted[4].unique().numel() == 7
    assert fit_sigmoid(torch.zeros(0, 4), torch.zeros(0, 4)).apply(torch.zeros(0, 3)).shape == (0, 3)
    assert not fit_sigmoid(torch.zeros(2, 0), torch.zeros(2, 0)).fitted.any()


# --- texts ----------------------------------------------------------------------------------------------------------


def hills(centres, shares, images=4000, noise=0.01, seed=0):
    """Cosines [1, images] of several hills, and which images belong to the highest one."""
    generator = seeded(seed)
    which = torch.multinomial(torch.tensor(shares), images, replacement=True, generator=generator)
    cosines = torch.tensor(centres)[which] + noise * torch.randn(images, generator=generator)
    return cosines[None], (which == len(centres) - 1)[None]


@pytest.mark.parametrize(
    ("centres", "shares"),
    [
        ((0.1, 0.2), (0.8, 0.2)),  # a single concept
        ((0.1, 0.2), (0.97, 0.03)),  # a rare one
        ((0.1, 0.16, 0.22), (0.7, 0.25, 0.05)),  # a pair: those that show one half make a hill too
        ((0.1, 0.15, 0.2, 0.25), (0.5, 0.2, 0.2, 0.1)),
    ],
)
def test_the_highest_hill_is_the_concept(centres, shares):
    cosines, _ = hills(centres, shares)
    held_out, present = hills(centres, shares, seed=1)
    found = TextCalibration.fit(cosines)
    assert found.separated.all()
    probability = found.apply(held_out)
    assert probability.dtype == torch.float32
    assert expected_calibration_error(probability, present) < 0.02
    assert average_precision(probability, present).item() > 0.95
    assert probability.mean().item() == pytest.approx(shares[-1], rel=0.25)
    order = held_out[0].argsort()
    assert (probability[0, order].diff() >= 0).all()  # never falls with the cosine


def test_texts_are_fitted_each_for_itself_and_found_by_row():
    rows = [hills((0.1, 0.2), (0.9, 0.1))[0], hills((0.1, 0.2), (0.5, 0.5), seed=1)[0]]
    both = TextCalibration.fit(torch.cat(rows))
    for k in range(2):
        torch.testing.assert_close(both.apply(rows[k], torch.tensor([k])), TextCalibration.fit(rows[k]).apply(rows[k]))
    picked = both.apply(torch.cat((rows[1], rows[1], rows[0])), torch.tensor([1, 1, 0]))
    torch.testing.assert_close(picked[0], picked[1])
    torch.testing.assert_close(picked[2], both.apply(torch.cat(rows))[0])


def test_one_hill_gives_a_guess_that_says_so():
    """No valley: an upper tail of 10 % that overlaps the rest; the probability still rises, not all or nothing."""
    cosines, present = hills((0.1, 0.12), (0.9, 0.1))
    found = TextCalibration.fit(cosines)
    assert not found.separated.any()
    probability = found.apply(cosines)
    assert expected_calibration_error(probability, present) < 0.1
    assert (probability[0, cosines[0].argsort()].diff() >= 0).all()
    assert 0.02 < probability.mean() < 0.3


def test_a_few_outliers_are_no_concept():
    cosines = 0.1 + 0.01 * torch.randn(1, 2000, generator=seeded())
    cosines[0, :5] = 0.4
    assert not TextCalibration.fit(cosines).separated.any()
    cosines[0, :20] = 0.4
    assert TextCalibration.fit(cosines).separated.all()


def test_constant_and_broken_rows_have_no_probability():
    cosines = torch.cat((hills((0.1, 0.2), (0.8, 0.2), images=300)[0], torch.full((1, 300), 0.3), torch.rand(1, 300)))
    cosines[2, 7] = NAN
    found = TextCalibration.fit(cosines)
    assert found.separated.tolist() == [True, False, False]
    probability = found.apply(cosines)
    assert probability[1:].isnan().all() and probability[0].isfinite().all()
    new = torch.tensor([[0.1, 0.2, 0.9, -0.9, NAN]])
    away = found.apply(new, torch.tensor([0]))[0]
    assert away[:4].round().tolist() == [0.0, 1.0, 1.0, 0.0] and away[4].isnan()
    assert TextCalibration.fit(torch.tensor([[0.1, 0.2, 0.4]])).apply(torch.tensor([[0.2]])).isfinite().all()
    assert TextCalibration.fit(torch.zeros(0, 3)).apply(torch.zeros(0, 2)).shape == (0, 2)


# --- reliability ----------------------------------------------------------------------------------------------------


def test_reliability_equals_sklearn_and_scipy():
    probability = torch.rand(500, generator=seeded(), dtype=torch.float64)
    right = torch.rand(500, generator=seeded(1)) < probability**2
    found = reliability(probability, right, bins=8)
    share, mean = calibration_curve(right.numpy(), probability.numpy(), n_bins=8)
    np.testing.assert_allclose(found.right.numpy(), share)
    np.testing.assert_allclose(found.mean.numpy(), mean)
    assert found.count.sum() == 500
    for k in range(8):
        hits = round(found.right[k].item() * found.count[k].item())
        wilson = binomtest(hits, found.count[k].item()).proportion_ci(method="wilson")
        assert (found.low[k].item(), found.high[k].item()) == pytest.approx((wilson.low, wilson.high))
    expected = (found.count / 500 * (found.mean - found.right).abs()).sum().item()
    assert expected_calibration_error(probability, right, 8) == pytest.approx(expected)


def test_reliability_of_what_is_right_as_often_as_said_is_near_zero():
    probability = torch.rand(20_000, generator=seeded())
    right = torch.rand(20_000, generator=seeded(1)) < probability
    assert expected_calibration_error(probability, right) < 0.015
    assert expected_calibration_error(torch.full((100,), 0.9), torch.zeros(100, dtype=torch.bool)) == pytest.approx(0.9)


def test_nan_empty_bins_and_the_edges_of_reliability():
    found = reliability(torch.tensor([1.0, 0.0, NAN, 0.55]), torch.tensor([True, False, True, True]), bins=10)
    assert found.count.tolist() == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert found.mean[1].isnan() and found.right[1].isnan() and found.low[1].isnan()
    assert found.low[9] < 0.3 and found.high[9] == 1.0  # one of one is not certainty
    assert np.isnan(expected_calibration_error(torch.tensor([NAN]), torch.tensor([True])))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: fit_sigmoid(torch.zeros(2, 3), torch.zeros(2, 4)), "do not match"),
        (lambda: fit_sigmoid(torch.rand(2, 3), torch.rand(2, 3)).apply(torch.zeros(3, 3)), r"expected \[2, N\]"),
        (lambda: TextCalibration.fit(torch.zeros(2, 0)), "with some images"),
        (lambda: TextCalibration.fit(torch.rand(2, 9)).apply(torch.zeros(1, 3)), r"expected \[2, N\]"),
        (lambda: reliability(torch.zeros(2), torch.zeros(3)), "one shape"),
        (lambda: reliability(torch.tensor([1.5]), torch.tensor([True])), "expected 0 to 1"),
    ],
)
def test_what_does_not_fit_is_said(call, says):
    with pytest.raises(EvaluationError, match=says):
        call()
