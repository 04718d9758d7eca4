"""Parts by texts: a second meaning that few images show, colors beside one meaning, small parts, priors."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.studies.meanings.text_parts import FULL, TextShares


def shares(*rows: tuple[int, list[float]]) -> TextShares:
    """Return gains of which so many images have each row."""
    return TextShares(np.concatenate([np.tile(np.array(gains, float), (count, 1)) for count, gains in rows]))


def test_a_rare_meaning_is_seen_before_colors_of_a_frequent_one() -> None:
    star, red_star, blue_star, moon = [0], [1], [2], [3]
    known = shares((90, [3, 6, -2, -4]), (90, [3, -2, 6, -4]), (12, [-4, -4, -4, 3]))
    chosen = known.cover(FULL[0])
    assert sorted(chosen) == star + moon, "red and blue stars are explained by their star"
    assert [len(part) for part in known.parts(chosen)] == [180, 12]
    assert [len(part) for part in known.parts(red_star + blue_star + moon)] == [90, 90, 12]


def test_a_text_that_half_explains_all_gives_way_to_two_that_explain_their_own() -> None:
    low, high = FULL
    known = shares((50, [low * 1.1, high, 0.0]), (50, [low * 1.1, 0.0, high]))
    first, second = sorted(known.parts(known.cover(high)), key=lambda part: int(part[0]))
    assert first.tolist() == [*range(50)] and second.tolist() == [*range(50, 100)]
    assert known.cover(low) == [0], "cut low, the first explains all"


def test_small_parts_go_to_the_others_and_an_image_to_its_best_text() -> None:
    known = shares((60, [2, 0, 1]), (35, [0, 2, 1]), (3, [0, 1, 5]))
    first, second = known.parts([0, 1, 2])
    assert first.tolist() == [*range(60)] and second.tolist() == [*range(60, 98)]
    assert [len(part) for part in shares((3, [1.0, 2.0])).parts([0, 1])] == [3], "fewer images than a part needs"


def test_priors_are_those_of_silent_neighbors_and_of_all_images() -> None:
    rng = np.random.default_rng(0)
    images, silent, whole = np.log(rng.random((5, 3))), np.log(rng.random((4, 3))), rng.random(3)
    weights = np.array([3, 1, 1, 2])
    near = np.log(np.average(np.exp(silent), axis=0, weights=weights))
    found = TextShares.of(images, silent, weights, whole).gains
    assert found == pytest.approx(images - near / 2 - np.log(whole) / 2)
    alone = TextShares.of(images, silent[:0], weights[:0], whole).gains
    assert alone == pytest.approx(images - np.log(whole)), "without a silent image"
