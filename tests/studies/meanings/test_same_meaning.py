"""Clusters that are one meaning: the three tests, one by one, and in which order clusters are joined."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from csp_index.studies.meanings.same_meaning import Cluster, auroc, meanings, tells_apart

AXES = np.eye(4)


def cluster(ranks: list[int], text: int, shown: list[float], worth: float = 1.0) -> Cluster:
    return Cluster(np.array(ranks), text, AXES[text], np.tile(np.array(shown), (6, 1)), np.array(shown), worth)


def joined(clusters: list[Cluster], scores: dict[tuple[int, int], float]) -> list[list[int]]:
    """Return the ranks of each meaning; `scores` are those of texts on clusters, by first rank and text."""
    known = {one.ranks[0]: one for one in clusters}

    def named(groups: list[np.ndarray]) -> list[Cluster]:
        return [replace(known[group[0]], ranks=group) for group in groups]

    def scored(one: Cluster, places: list[int]) -> np.ndarray:
        return np.array([scores[int(one.ranks[0]), place] for place in places])

    return [one.ranks.tolist() for one in meanings([one.ranks for one in clusters], named, scored).clusters]


PAIR = [cluster([0, 1], 0, [1, 0, 0, 0]), cluster([2, 3], 1, [0, 1, 0, 0])]
APART = {(0, 0): 5.0, (0, 1): 0.5, (2, 0): -1.0, (2, 1): 4.0}


def test_two_meanings_stay_apart() -> None:
    assert joined(PAIR, APART) == [[0, 1], [2, 3]]


@pytest.mark.parametrize(
    ("clusters", "scores"),
    [
        ([PAIR[0], cluster([2, 3], 0, [0, 1, 0, 0])], APART),  # one text
        ([PAIR[0], cluster([2, 3], 1, [1, 0, 0, 0])], APART),  # the images do not differ by it
        (PAIR, APART | {(2, 0): 2.5}),  # the first text explains the second cluster, too
        (PAIR, APART | {(0, 0): -0.1}),  # a text that says nothing of its own cluster
    ],
)
def test_one_meaning_is_joined(clusters: list[Cluster], scores: dict[tuple[int, int], float]) -> None:
    assert joined(clusters, scores) == [[0, 1, 2, 3]]


def test_images_that_fire_by_chance_are_no_meaning_and_join_none() -> None:
    third = cluster([4, 5], 2, [0, 0, 1, 0], worth=0.1)
    assert joined([*PAIR, third], APART) == [[0, 1], [2, 3]]
    assert joined([third, replace(third, ranks=np.array([6, 7]), worth=0.05)], {}) == [[4, 5]], "one is left"


def test_how_clear_meanings_are_is_what_the_texts_do_not_explain() -> None:
    known = {int(one.ranks[0]): one for one in PAIR}
    found = meanings(
        [one.ranks for one in PAIR],
        lambda groups: [known[int(group[0])] for group in groups],
        lambda one, places: np.array([APART[int(one.ranks[0]), place] for place in places]),
    )
    assert found.clear == pytest.approx(1 - 0.5 / 5)


def test_the_most_alike_are_joined_first_and_named_anew() -> None:
    third = cluster([4, 5], 2, [0, 0, 1, 0])
    scores = APART | {(0, 2): 0.0, (2, 2): 3.0, (4, 0): 0.0, (4, 1): 3.5, (4, 2): 4.0}
    assert joined([*PAIR, third], scores) == [[0, 1], [2, 3, 4, 5]]


def test_auroc_is_that_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    one, two = rng.integers(0, 4, 9), rng.integers(0, 4, 7)
    plain = np.mean([(a > b) + (a == b) / 2 for a in one for b in two])
    assert auroc(one, two) == pytest.approx(plain) and auroc(one, np.zeros(0)) == 0.5
    assert tells_apart(*PAIR) == 1
