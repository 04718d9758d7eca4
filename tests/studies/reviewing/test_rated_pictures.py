"""Which pictures are rated: as many as asked, each once, with the probabilities that their weights undo."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.reviewing.rated_pictures import (
    draw_pictures,
    inclusion_probabilities,
    picture_chances,
    systematic_draw,
)

ACTIVATIONS = np.maximum(np.random.default_rng(0).standard_normal(200), 0).astype(np.float32)


def test_probabilities_are_proportional_to_chances_below_one_and_sum_to_the_count():
    chances = picture_chances(ACTIVATIONS)
    assert chances.sum() == pytest.approx(1) and chances.min() > 0.2 / 200 - 1e-12
    distance = np.abs(ACTIVATIONS.astype(float) - ACTIVATIONS.astype(float).mean())
    assert np.allclose(chances, 0.8 * distance / distance.sum() + 0.2 / 200)
    for count in (1, 20, 150, 200):
        inclusion = inclusion_probabilities(chances, count)
        assert inclusion.sum() == pytest.approx(count) and inclusion.max() <= 1
        below = inclusion < 1
        ratio = inclusion[below] / chances[below]
        assert not below.any() or np.ptp(ratio) < 1e-9 * ratio.max()
    assert (inclusion_probabilities(chances, 200) == 1).all()


def test_a_draw_has_every_picture_once_as_often_as_its_probability():
    inclusion = inclusion_probabilities(picture_chances(ACTIVATIONS), 20)
    rng, rounds, counts = np.random.default_rng(1), 3000, np.zeros(200)
    for _ in range(rounds):
        drawn = systematic_draw(inclusion, rng)
        assert len(drawn) == 20 == len(set(drawn.tolist()))
        counts[drawn] += 1
    error = np.abs(counts / rounds - inclusion) / np.sqrt(inclusion * (1 - inclusion) / rounds + 1e-12)
    assert error.max() < 4.5


@pytest.mark.parametrize("draw", ["importance", "uniform"])
def test_weighted_means_over_drawn_pictures_are_means_over_all(draw):
    verdict = (ACTIVATIONS > 0.8).astype(float)
    values = ACTIVATIONS.astype(float) * verdict
    sums = []
    for key in range(800):
        drawn = draw_pictures(ACTIVATIONS, 20, draw, str(key))
        assert np.array_equal(drawn.activations, ACTIVATIONS[drawn.images])
        sums.append([(drawn.weights * values[drawn.images]).mean(), drawn.weights.mean()])
    mean, ones = np.mean(sums, axis=0)
    spread = np.std(sums, axis=0) / np.sqrt(len(sums))
    assert abs(mean - values.mean()) < 4 * spread[0] and abs(ones - 1) < 4 * spread[1] + 1e-9
    if draw == "uniform":
        assert np.allclose(drawn.weights, 1)


def test_a_draw_is_the_same_for_its_key_and_another_for_another():
    first, again, other = (draw_pictures(ACTIVATIONS, 20, "importance", key).images.tolist() for key in ("a", "a", "b"))
    assert first == again != other


def test_few_pictures_are_all_drawn_and_a_constant_neuron_draws_uniformly():
    drawn = draw_pictures(ACTIVATIONS[:5], 20, "importance", "k")
    assert sorted(drawn.images.tolist()) == [0, 1, 2, 3, 4] and np.allclose(drawn.weights, 1)
    same = draw_pictures(np.full(50, 2.0, np.float32), 10, "importance", "k")
    assert np.allclose(same.weights, 1) and len(set(same.images.tolist())) == 10
