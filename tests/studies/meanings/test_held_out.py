"""Gains on held-out images: correlations as NumPy has them, intervals that cover, and only real gains above 0."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.meanings.held_out import HeldOut


def test_correlations_are_those_of_the_images() -> None:
    rng = np.random.default_rng(0)
    values, one, other = rng.exponential(size=300), rng.random(300) < 0.3, rng.random(300) < 0.5
    found = HeldOut(300, 0).gain(values, one, other)
    assert found.correlation == pytest.approx(np.corrcoef(values, one)[0, 1])
    assert found.single == pytest.approx(np.corrcoef(values, other)[0, 1])
    assert found.gain == pytest.approx(found.correlation - found.single) and found.low < found.gain < found.high


def test_a_real_gain_lies_above_0_and_none_does_rarely() -> None:
    rng, judge = np.random.default_rng(1), HeldOut(1000, 0)
    above = []
    for _ in range(60):
        one, two = rng.random((2, 1000)) < 0.1
        values = (one | two) * rng.uniform(1, 2, 1000)
        assert judge.gain(values, one | two, one).low > 0
        noise = rng.random(1000)
        above.append(judge.gain(noise, one, two).low > 0)
    assert np.mean(above) < 0.12


def test_sets_of_all_or_no_images_explain_nothing() -> None:
    values = np.arange(40.0)
    found = HeldOut(40, 0).gain(values, np.ones(40, bool), np.zeros(40, bool))
    assert (found.correlation, found.single, found.low, found.high) == (0, 0, 0, 0)
    flat = HeldOut(40, 0).gain(np.ones(40), values > 20, values > 30)
    assert (flat.gain, flat.low) == (0, 0)
