"""Floors against chance: how often unrelated neurons are above, and that related ones do not raise them."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.concepts.chance import (
    chance_floor,
    chance_lead,
    pairs_floor,
    random_cosines,
    spread,
    word_floor,
)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rows_of_one(rng.standard_normal(shape).astype(np.float32))


def rows_of_one(rows: np.ndarray) -> np.ndarray:
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


@pytest.mark.parametrize("count", [40, 300], ids=["few words", "words to draw from"])
def test_a_word_stands_out_above_chance_words(count: int) -> None:
    rng = np.random.default_rng(3)
    vectors, words = unit(rng, 200, 64), unit(rng, count, 64)
    cosines, lead = vectors @ vectors[7], chance_lead(vectors, words)
    floor = word_floor(cosines, lead)
    assert np.flatnonzero(cosines > floor).tolist() == [7]
    shifted = word_floor(cosines + 0.3, lead)
    assert shifted == pytest.approx(floor + 0.3, abs=1e-5), "a word near to all neurons has a higher floor"


def test_a_word_that_the_encoder_does_not_know_seldom_stands_out() -> None:
    """Words join a shape, a color and a texture, as a toy encoder has it: all else is near to some neuron."""
    rng = np.random.default_rng(0)
    factors = np.linalg.qr(rng.standard_normal((64, 30)))[0].T.reshape(3, 10, 64)
    places = rng.integers(10, size=(3, 400))
    words = rows_of_one(sum(of[place] for of, place in zip(factors, places, strict=True)))
    neurons = rows_of_one(factors.reshape(30, 64) + 0.05 * rng.standard_normal((30, 64)))
    unknown = rows_of_one(rng.standard_normal((300, 30)) @ factors.reshape(30, 64))

    def standing_out(asked: np.ndarray, known: np.ndarray) -> float:
        lead = chance_lead(neurons, known)
        return float(np.mean([one.max() > word_floor(one, lead) for one in (neurons @ asked.T).T]))

    assert standing_out(unknown, words) < 0.1, "5 of 100 are meant"
    assert standing_out(factors.reshape(30, 64), words) == 1
    assert standing_out(unknown, words[:63]) > 0.9, "the spread of cosines alone does not tell"


def test_what_is_too_little_to_know_has_no_floor() -> None:
    vectors = unit(np.random.default_rng(4), 5, 8)
    assert spread(np.arange(19.0)) is None and spread(np.full(30, np.nan)) is None
    assert chance_floor(0.0, None, 3) is None and chance_floor(0.0, 0.1, 0) is None
    assert chance_floor(0.9, 0.5, 1000) == 1.0
    assert word_floor(np.zeros(7), 0.1) is None and chance_lead(vectors[:0], vectors) is None
    assert (
        len(random_cosines(vectors, vectors, same=True)) == 0 == len(random_cosines(vectors[:0], vectors, same=False))
    )


def test_random_pairs_have_no_neuron_with_itself() -> None:
    vectors = unit(np.random.default_rng(5), 8, 16)
    assert random_cosines(vectors, vectors, same=True).max() < 0.999
    assert random_cosines(vectors, vectors, same=False).max() > 0.999
