"""From activations and responses to levels, on one label below one broader word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from csp_index.studies.hierarchies.climbing import Climb
from csp_index.studies.hierarchies.levels import resamples
from csp_index.studies.hierarchies.responses import Responses
from csp_index.studies.hierarchies.words import LabelWords, Word

IMAGES = 300
WORDS = LabelWords(
    (Word("leaf", (1,), (0,), 0), Word("family", (), (0, 1), None)), ("leaf",), (0,), ((0,),), ({0: 0, 1: 1},)
)


def level(
    activation: np.ndarray, leaf: np.ndarray, union: np.ndarray, labels: tuple[str | None, ...]
) -> dict[str, Any]:
    """Return what is said of a neuron; the same images choose and judge, half of them each."""
    values = np.stack([leaf, leaf, np.zeros(IMAGES), np.zeros(IMAGES), union]).astype(np.float32)
    has = np.array([True, False]), np.array([False, True])
    sides = [Responses(values[:, start::2], *has) for start in (0, 1)]
    climb = Climb(WORDS, *sides, resamples(IMAGES // 2, 200, 0), 0.9)
    return climb.levels(labels, activation[None, ::2], activation[None, 1::2])[0]


@pytest.fixture
def shown() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    leaf = (rng.random(IMAGES) < 0.1).astype(float)
    return leaf, np.maximum(leaf, rng.random(IMAGES) < 0.3)


def test_a_neuron_of_the_family_climbs_though_its_label_says_nothing(shown: tuple[np.ndarray, np.ndarray]) -> None:
    leaf, family = shown
    unrelated = np.roll(leaf, 7)
    one = level(family, unrelated, family, ("leaf",))
    assert (one["state"], one["level_title"], one["by"], one["steps"]) == ("climbed", "family", "union", 1)
    assert one["correlation"] < 0.2 < 0.99 < one["level_correlation"] and one["low"] > 0.5


def test_a_neuron_of_the_leaf_stays(shown: tuple[np.ndarray, np.ndarray]) -> None:
    leaf, family = shown
    one = level(leaf, leaf, family, ("leaf",))
    assert (one["state"], one["level_title"], one["ended_at"]) == ("kept", "leaf", "family")


def test_a_label_of_two_senses_stands_at_the_one_whose_broader_word_explains_more() -> None:
    rng = np.random.default_rng(0)
    crane = (rng.random(IMAGES) < 0.1).astype(float)
    birds, machines = (np.maximum(crane, rng.random(IMAGES) < share) for share in (0.2, 0.6))
    words = (
        Word("derrick", (2,), (0,), None),
        Word("crane", (3,), (0,), 0),
        Word("machine", (), (0,), None),
        Word("bird", (), (0,), None),
    )
    senses = LabelWords(words, ("crane",), (0,), ((0, 1),), ({0: 0, 1: 0, 2: 1, 3: 1},))
    nothing = np.zeros(IMAGES)
    values = np.stack([crane, nothing, crane, nothing, nothing, nothing, nothing, machines, birds]).astype(np.float32)
    has = np.array([False, True, False, False]), np.array([False, False, True, True])
    sides = [Responses(values[:, start::2], *has) for start in (0, 1)]
    one = Climb(senses, *sides, resamples(IMAGES // 2, 200, 0), 0.9).levels(
        ("crane",), crane[None, ::2], crane[None, 1::2]
    )[0]
    assert (one["state"], one["level"], one["level_title"], one["ended_at"]) == ("kept", 1, "crane", "bird")


def test_a_neuron_that_nothing_explains_stays_unexplained(shown: tuple[np.ndarray, np.ndarray]) -> None:
    one = level(np.random.default_rng(5).random(IMAGES), *shown, ("leaf",))
    assert (one["state"], one["level_title"], one["ended_at"]) == ("unexplained", "leaf", None)


def test_a_broader_word_that_no_image_tells_apart_is_not_chosen(shown: tuple[np.ndarray, np.ndarray]) -> None:
    leaf, _ = shown
    one = level(leaf, leaf, leaf + 1e-4 * np.random.default_rng(1).random(IMAGES), ("leaf",))
    assert (one["state"], one["steps"], one["ended_at"]) == ("kept", 0, None)


def test_constant_neurons_and_those_without_label(shown: tuple[np.ndarray, np.ndarray]) -> None:
    assert level(np.zeros(IMAGES), *shown, ("leaf",))["state"] == "unexplained"
    assert level(shown[0], *shown, (None,))["state"] == "unlabelled"
    assert level(shown[0], *shown, ("other",))["state"] == "unknown"
