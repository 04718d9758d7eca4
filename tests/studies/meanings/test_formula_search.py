"""Formulas: the best one by going through all of them, planted ones, bounds that leave out nothing."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from csp_index.studies.meanings.formula_search import PAIRS, TRIPLES, Formula, best_formula

OWNERS = np.arange(6)


def concepts(seed: int, count: int = 6, images: int = 300) -> np.ndarray:
    return np.random.default_rng(seed).random((count, images)) < 0.3


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def every_formula(rows: np.ndarray, owners: np.ndarray = OWNERS) -> list[Formula]:
    """Return all formulas with their IoU left open."""
    found = []
    for size in (2, 3):
        for places in permutations(range(len(rows)), size):
            if len({int(owners[place]) for place in places}) == size:
                triples = range(len(TRIPLES)) if size == 3 else (-1,)
                found += [Formula(places, pair, triple) for pair in range(len(PAIRS)) for triple in triples]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_no_formula_is_better(seed: int) -> None:
    rows = concepts(seed)
    fired = np.random.default_rng(seed + 50).random(300) < 0.25
    fired |= rows[0] & ~rows[1] | rows[2]
    found = best_formula(rows, fired, OWNERS)
    most = {
        size: max(
            iou(one.images(rows[list(one.places)]), fired) for one in every_formula(rows) if len(one.places) == size
        )
        for size in (2, 3)
    }
    expected = most[3] if most[3] >= most[2] + 0.02 else most[2]
    assert found is not None and found.iou == pytest.approx(expected)
    assert iou(found.images(rows[list(found.places)]), fired) == pytest.approx(found.iou), "it is what it says"


@pytest.mark.parametrize("pair", range(len(PAIRS)))
@pytest.mark.parametrize("triple", range(-1, len(TRIPLES)))
def test_a_planted_formula_is_found(pair: int, triple: int) -> None:
    rows = concepts(9)
    planted = Formula((0, 1) if triple < 0 else (0, 1, 2), pair, triple)
    fired = planted.images(rows[list(planted.places)])
    found = best_formula(rows, fired, OWNERS, float(max(iou(row, fired) for row in rows)))
    assert found is not None and found.iou == 1
    assert np.array_equal(found.images(rows[list(found.places)]), fired)


def test_what_adds_little_is_left_out() -> None:
    rows = concepts(1)
    assert best_formula(rows, rows[0], OWNERS, 1.0) is None
    assert best_formula(rows, np.zeros(300, bool), OWNERS) is None and best_formula(rows[:1], rows[0], OWNERS) is None
    found = best_formula(rows, rows[0] | rows[1], OWNERS)
    assert found is not None and set(found.places) == {0, 1}, "a third concept adds nothing"


def test_concepts_of_one_name_are_not_joined() -> None:
    rows = concepts(2)
    fired = rows[0] | rows[1]
    owners = np.array([0, 0, 1, 2, 3, 4])
    found = best_formula(rows, fired, owners)
    assert found is not None and len({int(owners[place]) for place in found.places}) == len(found.places)
    assert found.iou == pytest.approx(
        max(iou(one.images(rows[list(one.places)]), fired) for one in every_formula(rows, owners)), abs=0.02
    )


def test_a_formula_in_words() -> None:
    names = ["red", "star", "moon"]
    assert Formula((0, 1), 0).text(names) == "red OR star"
    assert [Formula((0, 1, 2), 2, way).text(names) for way in range(4)] == [
        "(red AND NOT star) OR moon",
        "(red AND NOT star) AND moon",
        "(red AND NOT star) AND NOT moon",
        "moon AND NOT (red AND NOT star)",
    ]
