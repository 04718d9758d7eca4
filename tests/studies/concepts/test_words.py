"""Labels and a word: equal in any spelling, inside a longer label, alike in letters; what is no word."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.errors import SettingError
from csp_index.records import LayerKey
from csp_index.studies.concepts.near_words import near_words
from csp_index.studies.concepts.words import HAS, IS, LabelWords, checked_word

ONE, TWO = LayerKey("net", "one"), LayerKey("net", "two")


@pytest.fixture
def words() -> LabelWords:
    return LabelWords.of(
        {
            ONE: ["striped", "Striped", None, "red star", "starfish", "0.6 striped + 0.3 grass"],
            TWO: ["striped", "Red_Star", "red star", "--", ""],
        }
    )


def test_labels_are_counted_in_one_spelling(words: LabelWords) -> None:
    assert dict(zip(words.spellings, words.counts.tolist(), strict=True)) == {
        "striped": 3,
        "red star": 3,
        "--": 1,
        "0.6 striped + 0.3 grass": 1,
        "starfish": 1,
    }
    assert words.counts.tolist() == sorted(words.counts.tolist(), reverse=True)
    assert words.places[ONE][2] == -1 == words.places[TWO][4]


def test_a_label_is_the_word_or_has_it_as_whole_words(words: LabelWords) -> None:
    says = words.says("STRIPED")
    assert words.of_layer(ONE, says).tolist() == [IS, IS, 0, 0, 0, HAS]
    assert words.of_layer(TWO, words.says("star")).tolist() == [0, HAS, HAS, 0, 0]
    assert words.of_layer(TWO, words.says("red-star")).tolist() == [0, IS, IS, 0, 0]
    assert words.of_layer(TWO, words.says("--")).tolist() == [0, 0, 0, IS, 0]


def test_other_words_are_near_by_meaning_or_by_spelling(words: LabelWords) -> None:
    vectors = np.zeros((len(words.normals), 2), np.float32)
    vectors[words.spellings.index("striped")] = [1, 0]
    vectors[words.spellings.index("red star")] = [0.6, 0.8]
    found, by = near_words(words, "zebra", np.array([0.8, 0.6], np.float32), vectors)
    assert by == "meaning" and [(one.text, one.neurons) for one in found] == [("red star", 3), ("striped", 3)]
    assert [one.similarity for one in found] == pytest.approx([0.96, 0.8])
    found, _ = near_words(words, "Striped", np.array([1, 0], np.float32), vectors)
    assert [one.text for one in found] == ["red star"], "the word itself is no other word"
    found, by = near_words(words, "stripes", None, vectors)
    assert by == "spelling" and found[0].text == "striped" and found[0].similarity is None
    assert "red star" not in [one.text for one in found]
    assert near_words(words, "stripes", np.ones(2, np.float32), 0 * vectors)[1] == "spelling"
    assert near_words(LabelWords.of({ONE: [None]}), "x", None, np.zeros((0, 2)))[0] == ()


def test_a_word_is_stored_as_labels_are_and_what_is_none_is_refused() -> None:
    assert checked_word("  red \n star ") == "red star"
    assert checked_word("e\u0301") == "\xe9"
    for wrong in ("", "  ", "\x00\x1b", "\u200b"):
        with pytest.raises(SettingError, match="the word is empty"):
            checked_word(wrong)
    with pytest.raises(SettingError, match="the word has 5,000 characters: expected 1 to 300"):
        checked_word("x" * 5000)
