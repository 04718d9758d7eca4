"""Short lists of concepts, and concepts as bits, against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.meanings.concept_images import LEVELS, member_images, text_images, text_moments
from csp_index.studies.meanings.shortlist import LISTED, shortlist


def test_texts_are_concepts_at_several_thresholds() -> None:
    rng = np.random.default_rng(0)
    texts, images = rng.standard_normal((150, 6)).astype(np.float32), rng.standard_normal((83, 6)).astype(np.float32)
    names = tuple(map(str, range(150)))
    found = text_images(names, texts, images, text_moments(texts, images))
    assert len(found) == 150 * len(LEVELS) and found.owners[len(LEVELS)] == 1
    cosines = texts @ images.T
    for place in (0, 7, 131):
        for at, level in enumerate(LEVELS):
            expected = cosines[place] > cosines[place].mean() + level * cosines[place].std()
            assert np.array_equal(found.rows(np.array([place * len(LEVELS) + at]))[0], expected)
    assert found.sizes().tolist() == [int(found.rows(np.array([place])).sum()) for place in range(len(found))]


def test_members_are_those_among_the_images() -> None:
    found = member_images(("a", "b"), [np.array([1, 5, 9]), np.array([2])], np.array([1, 2, 3, 9]))
    assert found.rows(np.array([0, 1])).tolist() == [[True, False, False, True], [False, True, False, False]]


def test_the_list_has_the_best_of_each_way() -> None:
    rng = np.random.default_rng(1)
    members = [np.flatnonzero(rng.random(400) < 0.2) for _ in range(60)]
    concepts = member_images(tuple(map(str, range(60))), members, np.arange(400))
    rows = concepts.rows(np.arange(60))
    fired = np.stack([rows[3] | rows[8], rows[5] & ~rows[11], rows[20] & rows[21]])
    found = shortlist(fired, concepts, concepts.sizes())

    def ious(sets: np.ndarray, own: np.ndarray) -> np.ndarray:
        return (sets & own).sum(1) / (sets | own).sum(1)

    for row, own in enumerate(fired):
        alone = ious(rows, own)
        best = rows[alone.argmax()]
        ways = [alone, ious(rows | best, own), ious(rows & best, own), ious(best & ~rows, own)]
        expected = {
            int(place)
            for way, count in zip(ways, LISTED, strict=True)
            for place in np.argsort(-way, kind="stable")[:count]
        }
        assert found.best[row] == alone.argmax()
        assert set(found.listed[row].tolist()) - {-1} == expected
    assert {3, 8} <= set(found.listed[0].tolist()) and {5, 11} <= set(found.listed[1].tolist())
    with pytest.raises(IndexError):
        concepts.rows(np.array([60]))
