"""Matches are those of the best assignment, by the whole matrix and by a short list."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from csp_index.studies.comparison.matching import match


def in_blocks(matrix: np.ndarray, size: int = 3):
    for start in range(0, len(matrix), size):
        yield matrix[start : start + size]


def best_sum(matrix: np.ndarray) -> float:
    return max(sum(matrix[i, j] for i, j in enumerate(p)) for p in permutations(range(len(matrix))))


@pytest.mark.parametrize("dense", [0, 10**6])
def test_the_sum_is_the_largest_possible(dense: int) -> None:
    for seed in range(5):
        matrix = np.random.default_rng(seed).uniform(-1, 1, (6, 6)).astype(np.float32)
        every = np.ones(6, bool)
        found = match(in_blocks(matrix), every, every, dense=dense)
        assert sorted(found.partners.tolist()) == list(range(6))
        np.testing.assert_allclose(found.scores, matrix[np.arange(6), found.partners], atol=1e-6)
        assert found.scores.sum() == pytest.approx(best_sum(matrix), abs=1e-5)
        np.testing.assert_array_equal(found.best, matrix.max(1))
        np.testing.assert_array_equal(found.best_other, matrix.max(0))


@pytest.mark.parametrize("dense", [0, 10**6])
def test_permuted_neurons_are_found(dense: int) -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(50)
    matrix = rng.uniform(-0.3, 0.3, (50, 50)).astype(np.float32)
    matrix[np.arange(50), order] = 1
    found = match(in_blocks(matrix, 7), np.ones(50, bool), np.ones(50, bool), dense=dense, listed=4)
    np.testing.assert_array_equal(found.partners, order)
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)


@pytest.mark.parametrize("dense", [0, 10**6])
def test_neurons_that_take_no_part_have_no_partner(dense: int) -> None:
    matrix = np.full((4, 3), 0.5, np.float32)
    matrix[0, 1] = matrix[1, 1] = 0.9
    first, second = np.array([False, True, True, True]), np.array([True, True, False])
    found = match(in_blocks(matrix, 2), first, second, dense=dense)
    assert found.partners[0] == -1 and np.isnan(found.scores[0]) and np.isnan(found.best[0])
    assert found.partners[1] == 1 and 2 not in found.partners
    assert sorted(found.partners.tolist()) == [-1, -1, 0, 1]  # three take part on one side, two on the other
    assert np.isnan(found.best_other[2]) and found.best_other[1] == np.float32(0.9)


def test_a_side_without_living_neurons() -> None:
    found = match(in_blocks(np.zeros((2, 2), np.float32)), np.ones(2, bool), np.zeros(2, bool))
    assert found.partners.tolist() == [-1, -1] and np.isnan(found.best).all() and np.isnan(found.best_other).all()


def test_a_short_list_keeps_the_highest_of_rows_and_columns() -> None:
    matrix = np.full((5, 5), 0.1, np.float32)
    matrix[:, 0] = 0.9  # the best of each row; the others come by their columns
    matrix[1, 1] = matrix[2, 2] = matrix[3, 3] = matrix[4, 4] = 0.5
    found = match(in_blocks(matrix, 2), np.ones(5, bool), np.ones(5, bool), dense=0, listed=1)
    assert found.partners.tolist() == [0, 1, 2, 3, 4]
