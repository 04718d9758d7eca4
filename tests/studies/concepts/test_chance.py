"""Floors against chance: how often unrelated neurons are above, and that related ones do not raise them."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.concepts.chance import (
    chance_floor,
    pairs_floor,
    random_cosines,
    spread,
    word_floor,
    words_spread,
)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_nearest_of_unrelated_neurons_is_seldom_above_the_floor() -> None:
    vectors = unit(np.random.default_rng(1), 400, 128)
    floor = pairs_floor(random_cosines(vectors, vectors, same=True), 399)
    cosines = vectors @ vectors.T - 2 * np.eye(400)
    share = (cosines.max(1) > floor).mean()
    assert 0.01 < share < 0.1, "5 of 100 are meant"


def test_related_neurons_do_not_raise_the_floor() -> None:
    rng = np.random.default_rng(2)
    alone = unit(rng, 300, 64)
    family = alone.copy()
    family[:60] = 0.9 * alone[:1] + 0.1 * alone[:60]
    family /= np.linalg.norm(family, axis=1, keepdims=True)
    floors = [pairs_floor(random_cosines(rows, rows, same=True), 299) for rows in (alone, family)]
    assert floors[1] == pytest.approx(floors[0], abs=0.05)
    assert family[0] @ family[1] > floors[1]


def test_a_word_stands_out_by_the_spread_of_other_words() -> None:
    rng = np.random.default_rng(3)
    vectors, words = unit(rng, 200, 64), unit(rng, 64, 64)
    cosines = vectors @ vectors[7]
    floor = word_floor(cosines, words_spread(vectors, words))
    assert np.flatnonzero(cosines > floor).tolist() == [7]
    shifted = word_floor(cosines + 0.3, words_spread(vectors, words))
    assert shifted == pytest.approx(floor + 0.3, abs=1e-5), "a word near to all neurons has a higher floor"


def test_what_is_too_little_to_know_has_no_floor() -> None:
    vectors = unit(np.random.default_rng(4), 5, 8)
    assert spread(np.arange(19.0)) is None and spread(np.full(30, np.nan)) is None
    assert chance_floor(0.0, None, 3) is None and chance_floor(0.0, 0.1, 0) is None
    assert chance_floor(0.9, 0.5, 1000) == 1.0
    assert word_floor(np.zeros(7), 0.1) is None and words_spread(vectors[:0], vectors) is None
    assert (
        len(random_cosines(vectors, vectors, same=True)) == 0 == len(random_cosines(vectors[:0], vectors, same=False))
    )


def test_random_pairs_have_no_neuron_with_itself() -> None:
    vectors = unit(np.random.default_rng(5), 8, 16)
    assert random_cosines(vectors, vectors, same=True).max() < 0.999
    assert random_cosines(vectors, vectors, same=False).max() > 0.999
