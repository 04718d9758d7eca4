"""Phrases of captions, and those that tell two sets of captions apart."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_index.proposers.phrases import MOST_WORDS, contrast_phrases, phrases

# Caption -> phrases that must be there, and words that must not be phrases of their own.
CAPTIONS = {
    "a large solid red star on a plain navy background": (
        "star, red star, large star, large red star, large solid red star, red, large, solid red, "
        "plain navy background, navy background, navy, plain, star on navy background",
        "a, on, background, star on background, red star on background",
    ),
    "two dogs with striped collars near a wooden fence": (
        "dog, collar, striped collar, striped, dog with collar, dog with striped collar, wooden fence, wooden, "
        "collar near fence, striped collar near fence",
        "two, dogs, near, dog near fence",
    ),
    "a small checkered green triangle on a speckled beige background": (
        "checkered, checkered green, green triangle, checkered triangle, speckled, speckled background, "
        "triangle on beige background",
        "small checkered green",
    ),
    "a speckled bird perched on a thin branch": (
        "speckled bird, thin branch, speckled, thin",
        "perched, bird on branch",
    ),
    "a hatched magenta diamond": ("hatched diamond, hatched, magenta, magenta diamond", ""),
    "a honeycomb texture with hexagonal cells": ("honeycomb texture, honeycomb, hexagonal cell", ""),
    "a snow covered mountain": ("snow covered mountain, covered mountain, mountain, snow", ""),
    "a close up of a plate of food": ("plate, food, plate of food", "close, close-up, up"),
    "a group of people in front of a train": ("people, train", "group"),
    "the red and white train": ("red train, white train, red, white", "red white train, red white"),
    "a dog with a red and white collar": ("dog with red collar, dog with white collar", "collar with white collar"),
    "a large, red star": ("large red star", ""),
    "a yellow school bus parked on the street": ("yellow school bus, school bus, school, bus, street", "parked"),
    "people riding horses": ("people, horse", "riding, people horse"),
    "a cat's striped tail": ("striped tail, cat", "s, 's"),
    "A Photo of a DOG.": ("dog", "photo"),
    "a blurry photo of a dog": ("blurry photo, photo of dog, dog", ""),
    "striped": ("striped", ""),
    "navy": ("navy", ""),
}


@pytest.mark.parametrize("caption", CAPTIONS)
def test_a_caption_gives_its_nouns_adjectives_and_noun_phrases(caption: str) -> None:
    wanted, unwanted = (set(filter(None, said.split(", "))) for said in CAPTIONS[caption])
    found = phrases(caption)
    assert wanted <= set(found)
    assert not unwanted & set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("caption", ["", "...", "is on the", "1 2 3", "sits"])
def test_a_caption_without_nouns_and_adjectives_gives_nothing(caption: str) -> None:
    assert phrases(caption) == ()


@given(st.text(max_size=80))
def test_any_text_gives_short_phrases_in_lower_case(caption: str) -> None:
    for phrase in phrases(caption):
        assert 1 <= len(phrase.split(" ")) <= MOST_WORDS
        assert phrase == " ".join(phrase.split()) == phrase.casefold()


def test_a_long_row_of_adjectives_stays_a_short_list() -> None:
    assert len(phrases("a " + "red big old cold dark tall thin " * 10 + "star")) < 2500
    assert "thin star" in phrases("a " + "red big old cold dark tall thin " * 10 + "star")


def best(activating: list[str], contrastive: list[str]) -> str:
    return contrast_phrases(activating, contrastive)[0][0]


def test_a_pair_wins_over_its_halves_where_the_contrast_has_each_alone() -> None:
    activating = ["a large red star on gray", "a small red star on black", "a red star on a navy background"]
    contrastive = ["a large red circle on gray", "a small blue star on black", "a red square on a navy background"]
    assert best(activating, contrastive) == "red star"
    assert {"red", "star"} <= {phrase for phrase, _ in contrast_phrases(activating, contrastive)}


def test_a_single_concept_wins_over_what_both_sets_share() -> None:
    activating = ["a striped red circle", "a striped red circle", "a striped blue circle"]
    contrastive = ["a solid red circle", "a dotted red circle", "a solid blue circle"]
    found = dict(contrast_phrases(activating, contrastive))
    assert next(iter(found)) == "striped"
    assert not {"red circle", "red", "circle", "blue"} & found.keys()


def test_a_wrong_caption_among_the_contrastive_ones_does_not_remove_the_phrase() -> None:
    activating = ["a striped red circle"] * 5 + ["a striped blue square"] * 5
    contrastive = ["a solid red circle"] * 5 + ["a solid blue square"] * 3 + ["a striped blue square"] * 2
    assert best(activating, contrastive) == "striped"


@pytest.mark.parametrize("concept", ["red star", "striped", "star on navy background", "checkered green"])
def test_the_concept_is_found_among_captions_that_err(concept: str) -> None:
    words = {
        "size": ["large", "small"],
        "texture": ["solid", "striped", "checkered"],
        "colour": ["red", "green", "blue"],
        "shape": ["star", "circle", "square"],
        "background": ["navy", "black", "gray"],
    }
    draw = random.Random(concept)

    def scene(fixed: dict[str, str]) -> dict[str, str]:
        return {kind: fixed.get(kind) or draw.choice(values) for kind, values in words.items()}

    def say(drawn: dict[str, str]) -> str:
        said = {kind: draw.choice(words[kind]) if draw.random() < 0.1 else word for kind, word in drawn.items()}
        return "a {size} {texture} {colour} {shape} on a {background} background".format(**said)

    fixed = {kind: word for kind, values in words.items() for word in values if word in concept.split()}
    scenes = [scene(fixed) for _ in range(30)]
    other = []
    for drawn in scenes:  # the nearest scene that lacks one half
        kind = draw.choice(list(fixed))
        other.append({**drawn, kind: draw.choice([word for word in words[kind] if word != fixed[kind]])})
    found = contrast_phrases([say(drawn) for drawn in scenes], [say(drawn) for drawn in other])
    assert found[0][0] == concept


def test_without_contrast_a_phrase_scores_its_share() -> None:
    assert dict(contrast_phrases(["a red star", "a blue star"], []))["star"] == 1.0
    assert dict(contrast_phrases(["a red star", "a blue star"], []))["red star"] == 0.5
    rare = ["a red star"] * 19 + ["a blue circle"]
    assert "circle" not in dict(contrast_phrases(rare, [])), "1 in 20 is below the floor"


def test_scores_are_sorted_cut_and_at_least_the_floor() -> None:
    activating = ["a large red star on a navy background", "a small red star near a wooden fence", "a green ring"]
    contrastive = ["a large red circle", "a blue star"]
    found = contrast_phrases(activating, contrastive, most=5)
    assert len(found) == 5
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    assert all(score >= 0.13 for _, score in contrast_phrases(activating, contrastive, floor=0.13, most=100))
    assert len(contrast_phrases(activating, contrastive, floor=-9.0, most=1000)) > len(found)


def test_equal_sets_and_empty_sets_give_nothing() -> None:
    assert contrast_phrases(["a red star"] * 3, ["a red star"] * 7) == []
    assert contrast_phrases([], ["a red star"]) == []
    assert contrast_phrases(["", "..."], []) == []
