"""Correlations and their resamples against ten lines of NumPy; climbing against graphs small enough to see through."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.hierarchies.levels import (
    Compared,
    Resampled,
    correlations,
    interval,
    reached,
    resamples,
    standardized,
)


def oracle(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left, right)[0, 1])


def test_correlations_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((3, 50)) + 4, rng.standard_normal((4, 50))
    rows, columns = np.array([0, 2, 2, 1]), np.array([3, 0, 1, 1])
    found = correlations(standardized(left), standardized(right), rows, columns)
    expected = [oracle(left[row], right[column]) for row, column in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_resamples_are_those_of_drawing_images() -> None:
    rng = np.random.default_rng(1)
    left, right = rng.random((2, 40)), rng.random((2, 40))
    weights = resamples(40, 7, 3)
    assert (weights.sum(0) == 40).all()
    parts = [Resampled.of(standardized(values), weights) for values in (left, right)]
    found = parts[0].correlations(parts[1], np.array([0, 1]), np.array([1, 1]))
    for column in range(7):
        ids = np.repeat(np.arange(40), weights[:, column].astype(int))
        for place, row in enumerate((0, 1)):
            assert found[place, column] == pytest.approx(oracle(left[row, ids], right[1, ids]), abs=1e-4)


def test_what_is_constant_correlates_with_nothing() -> None:
    flat = np.full((1, 30), 0.1, np.float32)
    assert not standardized(flat).any()
    weights = resamples(30, 5, 0)
    of_flat, other = (
        Resampled.of(standardized(values), weights) for values in (flat, np.random.default_rng(0).random((1, 30)))
    )
    assert not of_flat.correlations(other, np.array([0]), np.array([0])).any()


def test_an_interval_covers_what_it_says() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for turn in range(100):
        base = rng.standard_normal(200)
        left, right = base + rng.standard_normal(200), base + rng.standard_normal(200)
        weights = resamples(200, 200, turn)
        parts = [Resampled.of(standardized(values[None]), weights) for values in (left, right)]
        low, high = interval(parts[0].correlations(parts[1], np.array([0]), np.array([0])))
        covered += bool(low[0] <= 0.5 <= high[0])
    assert 88 <= covered <= 100


def compared(**values: float) -> Compared:
    usual = {"broader": 0.5, "high": 0.1, "least": 0.3, "alike": 0.6}
    return Compared(0.5, **{name: np.array([value]) for name, value in (usual | values).items()})


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, "bears"),
        ({"broader": 0.9, "high": 0.5}, "bears"),
        ({"broader": 0.44, "high": 0.01}, "worse"),  # within the interval, and a tenth is lost
        ({"broader": 0.46, "high": -0.01}, "worse"),  # surely worse
        ({"least": -0.01}, "worse"),
        ({"alike": 0.999, "high": -0.01}, "alike"),
    ],
)
def test_a_broader_word_bears_a_neuron_where_it_explains_it_as_well(values: dict[str, float], verdict: str) -> None:
    assert compared(**values).verdicts(0.9) == [verdict]


# 0 poodle, 1 toy dog, 2 dog, 3 pet, 4 animal; a dog is a pet and an animal
PARENTS = [(1,), (2,), (3, 4), (), ()]


def test_the_climb_goes_on_while_words_bear_the_neuron() -> None:
    found, ends = reached([0], PARENTS, {1: "bears", 2: "bears", 3: "worse", 4: "bears"})
    assert found == {1: 1, 2: 2, 4: 3} and ends == [3]


def test_words_that_nothing_tells_apart_are_passed_and_not_chosen() -> None:
    found, ends = reached([0], PARENTS, {1: "alike", 2: "bears", 3: "worse", 4: "worse"})
    assert found == {2: 2} and ends == [3, 4]


def test_a_climb_ends_at_the_first_word_that_is_worse() -> None:
    found, ends = reached([0], PARENTS, {1: "worse", 2: "bears", 3: "bears", 4: "bears"})
    assert found == {} and ends == [1]
