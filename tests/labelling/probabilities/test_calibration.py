"""The regressions from features of labels to the probability that a label is right, and the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from answering import answering

from csp_index.labelling.probabilities import features as module
from csp_index.labelling.probabilities.calibration import Calibration, read_calibrations
from csp_index.labelling.probabilities.features import FEATURES, label_features


def test_a_broken_line_is_followed_and_flat_beyond_its_ends() -> None:
    one = Calibration(np.array([[0.0, 1.0, 2.0], [0.0, 0.0, 1.0]]), np.array([[2.0, -1.0], [0.0, 1.0]]), -1.0)
    rows = np.array([[-5.0, 0.0], [0.5, 0.0], [1.0, 0.0], [9.0, 0.0], [9.0, 9.0], [np.inf, 0.0]])
    odds = np.array([-1.0, 0.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(one.probability(rows)[:-1], 1 / (1 + np.exp(-odds)))
    assert np.isnan(one.probability(rows)[-1])


def test_the_package_calibrates_its_methods_on_the_features_there_are() -> None:
    calibrations = read_calibrations()
    assert set(calibrations) == {"csp", "semanticlens", "pmi", "contrastive-pmi", "consensus", "firing-contrast"}
    for calibration in calibrations.values():
        assert len(calibration.knots) == len(calibration.rises) == len(FEATURES)
        assert calibration.knots.shape[1] == calibration.rises.shape[1] + 1
        assert bool((np.diff(calibration.knots) >= 0).all())


def test_more_evidence_never_lowers_the_probability() -> None:
    rising = [FEATURES.index(name) for name in ("share", "soft", "lead", "height", "fit", "response", "present")]
    for calibration in read_calibrations().values():
        assert bool((calibration.rises[rising] >= 0).all())
        low, high = calibration.knots[:, 0], calibration.knots[:, -1]
        low = np.where(np.isin(np.arange(len(FEATURES)), rising), low, high)
        weak, strong = calibration.probability(np.stack([low, high]))
        assert 0 < weak < 0.1 and weak < strong < 1


def test_features_of_right_and_wrong_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    evidence, scores, leaders, images, activations = answering()
    shares, fit = torch.full(leaders.shape, 1 / 6), torch.full((5,), 0.99)
    columns = label_features(evidence, scores, leaders, shares, 100, fit, images, activations)
    named = dict(zip(FEATURES, columns.T, strict=True))
    wrong = label_features(evidence, scores, leaders.flip(1), shares, 100, fit, images, activations)
    other = dict(zip(FEATURES, wrong.T, strict=True))
    assert bool((named["response"] > other["response"] + 0.1).all())
    assert named["behind"].tolist() == [0.0] * 5 and bool((other["behind"] < -0.1).all())
    c, y = (
        evidence.texts[leaders[2, 0]] @ images.T,
        (activations[2] / (0.5 * evidence.activations[2].mean())).clamp(0, 1),
    )
    assert named["response"][2] == pytest.approx(np.corrcoef(c, y)[0, 1], abs=1e-5)
    monkeypatch.setattr(module, "_NEURONS", 2)
    monkeypatch.setattr(module, "_TEXTS", 7)
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    monkeypatch.setattr(module, "_LOOKED_AT", 12)
    torch.testing.assert_close(
        label_features(evidence, scores, leaders, shares, 100, fit, images, activations), columns
    )
