"""Worlds of the search with categories: regions of scenes, graded truth, neurons, embeddings."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "method_search"))

import search_categories
import search_worlds


def test_overlaps_are_those_of_the_scenes() -> None:
    codes = search_categories.all_codes()
    assert len({tuple(row) for row in codes.tolist()}) == 9216
    star, red = (("shape", ("star",)),), (("colour", ("red",)),)
    both = (("shape", ("star",)), ("colour", ("red",)))
    regions = np.array([search_categories.inside(codes, box) for box in (star, red, both)])
    overlap = search_categories.overlaps(regions, regions)
    np.testing.assert_allclose(overlap, [[1, 1 / 15, 1 / 8], [1 / 15, 1, 1 / 8], [1 / 8, 1 / 8, 1]], rtol=1e-6)


def test_either_member_is_the_best_word_of_an_or_and_a_broader_word_gets_part() -> None:
    codes, words = search_categories.all_codes(), search_categories.words_of(2, True)
    boxes = [(("shape", (value,)),) for value in ("circle", "ring")]
    truth = search_categories.inside(codes, boxes[0]) | search_categories.inside(codes, boxes[1])
    grades = search_categories.relative(
        search_categories.overlaps(truth[None], search_categories.word_regions(2, True))
    )[0]
    category = words.index((search_categories.CATEGORIES["round shape"],))
    assert grades[category] == 1 and grades[words.index(boxes[0])] == pytest.approx(0.75)
    assert not grades[-search_worlds.UNRELATED :].any() and len(grades) == len(words) + search_worlds.UNRELATED


def test_the_neurons_of_a_seed_have_regions_that_hold_what_they_say() -> None:
    neurons = search_categories.draw_neurons(3, True)
    assert {neuron.what for neuron in neurons} == set(search_categories.WHAT)
    codes = search_categories.all_codes()[::7]
    for kind in search_categories.FIRING:
        fired = search_categories.fire(neurons, codes, 3, kind)
        for row, neuron in zip(fired, neurons, strict=True):
            truth = torch.from_numpy(neuron.regions[0][::7])
            assert row[truth].mean() > 0.2 > row[~truth].mean()
    first, second = (search_categories.fire(neurons, codes, 3, "leaky") for _ in range(2))
    assert torch.equal(first, second)


def test_a_category_lies_nearer_to_its_members_than_to_other_images() -> None:
    codes = search_categories.all_codes()[::3]
    images, texts, _ = search_categories._category_model(codes, 0, 0.3)
    words = search_categories.words_of(2, True)
    for part in search_categories.CATEGORIES.values():
        inside = torch.from_numpy(search_categories.inside(codes, (part,)))
        cosines = images @ texts[words.index((part,))]
        assert cosines[inside].mean() > cosines[~inside].mean() + 0.02
