"""What a factor carries of a neuron's tie to a class, against least squares by NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.auditing.carried import (
    MomentSums,
    PairedSums,
    auroc,
    carried,
    relative_effects,
    unneeded_look,
)

IMAGES = 4_000


def world(leak: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return a class and a factor, bool [N]: the factor is on `leak` of the class and on .03 of the others."""
    rng = np.random.default_rng(seed)
    inside = rng.random(IMAGES) < 0.1
    return inside, rng.random(IMAGES) < np.where(inside, leak, 0.03)


def correlations(*rows: np.ndarray) -> np.ndarray:
    return np.corrcoef(np.stack([row.astype(float) for row in rows]))


def parts_of(activation: np.ndarray, inside: np.ndarray, factor: np.ndarray) -> tuple[float, float]:
    table = correlations(activation, inside, factor)
    parts = carried(table[0, 1], table[0, 2], table[1, 2], len(activation))
    return float(parts.part), float(parts.sure)


def test_weights_are_those_of_least_squares() -> None:
    inside, factor = world(0.8)
    activation = inside + 2.0 * factor + np.random.default_rng(1).standard_normal(IMAGES)
    columns = [(row - row.mean()) / row.std() for row in (inside.astype(float), factor.astype(float), activation)]
    own, weight = np.linalg.lstsq(np.stack(columns[:2], axis=1), columns[2], rcond=None)[0]
    table = correlations(activation, inside, factor)
    parts = carried(table[0, 1], table[0, 2], table[1, 2], IMAGES)
    assert float(parts.own) == pytest.approx(own)
    assert float(parts.weight) == pytest.approx(weight)
    assert float(parts.part) == pytest.approx(weight * table[1, 2] / table[0, 1])


def test_a_neuron_of_the_factor_is_carried_whole_and_one_of_the_class_not_at_all() -> None:
    inside, factor = world(0.95)
    noise = 0.1 * np.random.default_rng(1).standard_normal(IMAGES)
    part, sure = parts_of(factor + noise, inside, factor)
    assert part == pytest.approx(1, abs=0.03) and 0.85 < sure <= 1
    part, sure = parts_of(inside + noise, inside, factor)
    assert part == pytest.approx(0, abs=0.03) and sure < 0.03


def test_a_factor_that_is_as_frequent_everywhere_carries_nothing() -> None:
    inside, factor = world(0.03)
    part, sure = parts_of(5.0 * factor + inside, inside, factor)
    assert abs(part) < 0.2 and sure == 0


def test_few_images_that_break_the_rule_say_little() -> None:
    few, many = (carried(0.5, 0.55, 0.9, images) for images in (200, 20_000))
    assert few.part == many.part and float(few.sure) < 0.5 * float(many.sure) < 0.5 * float(many.part)


def test_a_factor_that_is_the_class_cannot_be_told_apart() -> None:
    inside, _ = world(0.9)
    assert np.isnan(carried(0.9, 0.9, 1.0, IMAGES).sure)
    assert np.isnan(parts_of(inside + 0.0, inside, inside)[0])


def test_sums_give_the_correlations_of_numpy_however_the_images_come() -> None:
    rng = np.random.default_rng(0)
    activations, factors = rng.random((5, 300), np.float32), rng.random((3, 300), np.float32)
    activations[4] = 0.25  # constant
    sums, paired = MomentSums(5, 3), PairedSums(3)
    for part in (slice(0, 7), slice(7, 100), slice(100, 300)):
        sums.add(activations[:, part], factors[:, part])
        paired.add(activations[:3, part], factors[:, part])
    table = np.corrcoef(np.concatenate([activations[:4], factors]))
    found = sums.correlations()
    assert found.images == 300
    np.testing.assert_allclose(found.tied[:4], table[:4, 4:], atol=1e-4)
    np.testing.assert_allclose(found.joint, table[4:, 4:], atol=1e-4)
    assert (found.tied[4] == 0).all()
    np.testing.assert_allclose(paired.correlations(), np.diag(table[:3, 4:]), atol=1e-4)


def test_effects_are_shares_of_the_strongest_neuron() -> None:
    effects = np.array([[2.0, -1.0, 0.0], [1.0, 0.5, np.nan], [-3.0, 0.25, 0.0]])
    np.testing.assert_allclose(relative_effects(effects), [[1, 0, 0], [0.5, 1, 0], [0, 0.5, 0]])


def test_auroc_counts_ties_one_half() -> None:
    inside, outside = np.array([1.0, 2.0]), np.array([0.0, 1.0, 3.0])
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(np.mean(pairs))
    assert np.isnan(auroc(inside, outside[:0]))


def test_a_shared_look_that_silent_images_share_too_is_not_needed() -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal(500)
    high, low = 3 + rng.standard_normal(30) * 0.1, rng.standard_normal(30) * 0.1
    assert unneeded_look(high, high.copy(), images) > 0.9
    assert unneeded_look(high, low, images) == 0
    assert unneeded_look(low, low.copy(), images) < 0.2
    assert unneeded_look(high, high[:0], images) == 0
