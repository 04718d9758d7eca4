"""Agreement by degree: overlap and level computed by hand, from images, from a table, and from a hierarchy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from csp_index.errors import EvaluationError
from csp_index.evaluation.graded_truth import GRADES, grades_by_hierarchy, grades_by_images, read_word_items
from csp_index.evaluation.ground_truth import Truth, agreement
from csp_index.evaluation.hierarchy import Hierarchy
from csp_index.evaluation.metadata_concepts import ConceptTable
from csp_index.records import LayerKey

SHOWING = {
    "clock": range(8),  # 8 images
    "timepiece": range(8),  # a synonym
    "watch": range(1, 8),  # nearly one: 7 of 8, log2(7 / 8) = -0.19
    "one o'clock": range(2),  # narrower: 2 of 8
    "object": range(16),  # broader: 16 over 8
    "mixed": [6, 7, 20, 21, 22, 23, 24, 25],  # of the same size, 2 in common
    "dog": range(30, 34),  # disjoint: 4 images
    "unicorn": [],  # known, of no image
}
TABLE = ConceptTable(
    np.arange(40), {word: np.array(ids, np.int64) for word, ids in SHOWING.items()}, frozenset({*SHOWING, "zyx"})
)
NAN = math.nan


def graded(labels, accepted, table=TABLE):
    columns = grades_by_images(labels, accepted, table)
    assert tuple(columns) == GRADES
    rows = list(zip(*(values.tolist() for values, _ in columns.values()), strict=True))
    return rows, columns["agreement-overlap"][1], columns["agreement-level"][1]


@pytest.mark.parametrize(
    ("label", "grade"),
    [
        ("CLOCK", (1.0, 0.0, 1, 0, 0)),
        ("timepiece", (1.0, 0.0, 1, 0, 0)),
        ("watch", (7 / 8, math.log2(7 / 8), 1, 0, 0)),
        ("one o'clock", (2 / 8, -2.0, 0, 1, 0)),
        ("object", (8 / 16, 1.0, 0, 0, 1)),
        ("mixed", (2 / 14, 0.0, 1, 0, 0)),
        ("dog", (0.0, -1.0, 0, 0, 0)),
    ],
)
def test_synonyms_narrower_broader_and_disjoint_words(label, grade):
    rows, no_overlap, no_level = graded([label], [["clock"]])
    assert rows[0] == pytest.approx(grade)
    assert no_overlap == no_level == [""]


def test_the_closest_accepted_text_counts_and_of_equals_the_nearest_level():
    rows, *_ = graded(["one o'clock", "dog", "watch"], [["object", "zyx", "clock"], ["mixed", "object"], ["Watch"]])
    assert rows[0] == pytest.approx((2 / 8, -2.0, 0, 1, 0))  # clock: 2 / 8, object: 2 / 16
    assert rows[1] == pytest.approx((0.0, -1.0, 0, 0, 0))  # both overlaps are 0; mixed has 8 images, object 16
    assert rows[2] == (1, 0, 1, 0, 0)


def test_what_is_not_defined_is_nan_and_says_why():
    labels = ["unheard of", "clock", "unicorn", "clock", "unicorn", "zyx"]
    accepted = [["clock"], ["zyx"], ["clock"], ["unicorn"], ["Unicorn"], ["ZYX"]]
    rows, no_overlap, no_level = graded(labels, accepted)
    np.testing.assert_array_equal(rows[0], [NAN] * 5)
    np.testing.assert_array_equal(rows[1], [NAN] * 5)
    np.testing.assert_array_equal(rows[2], [0, NAN, 0, 0, 0])
    np.testing.assert_array_equal(rows[3], [0, NAN, 0, 0, 0])
    assert rows[4] == rows[5] == (1, 0, 1, 0, 0)  # an accepted text is right, whatever the metadata holds
    assert "the label is not a value" in no_overlap[0] and no_overlap[0] == no_level[0]
    assert "no accepted text is a value" in no_overlap[1]
    assert no_overlap[2] == "" and "the label is true of no image" in no_level[2]
    assert no_overlap[3] == "" and "the truth is true of no image" in no_level[3]
    empty = ConceptTable(np.arange(3), {"a": np.array([], np.int64), "b": np.array([], np.int64)}, frozenset("ab"))
    rows, no_overlap, _ = graded(["a"], [["b"]], empty)
    np.testing.assert_array_equal(rows[0], [NAN] * 5)
    assert "neither" in no_overlap[0]
    assert graded([], [])[0] == []


def test_pairs_in_several_blocks_are_those_of_one(monkeypatch):
    labels, accepted = [*SHOWING] * 3, [["clock", "object"]] * 24
    whole = graded(labels, accepted)[0]
    monkeypatch.setattr("csp_index.evaluation.graded_truth._PAIR_VALUES", 11)
    np.testing.assert_array_equal(graded(labels, accepted)[0], whole)


def test_random_sets_agree_with_python_sets():
    rng = np.random.default_rng(0)
    sets = {f"w{k}": set(rng.choice(50, rng.integers(0, 20), replace=False).tolist()) for k in range(12)}
    table = ConceptTable(
        np.arange(50), {word: np.array(sorted(own), np.int64) for word, own in sets.items()}, frozenset(sets)
    )
    labels = [f"w{k}" for k in rng.integers(0, 12, 60)]
    truths = [f"w{k}" for k in rng.integers(0, 12, 60)]
    rows, *_ = graded(labels, [[truth] for truth in truths], table)
    for row, label, truth in zip(rows, labels, truths, strict=True):
        a, b = sets[label], sets[truth]
        expected = 1.0 if label == truth else len(a & b) / len(a | b) if a | b else NAN
        np.testing.assert_allclose(row[0], expected)
        if label != truth and a and b:
            assert row[1] == pytest.approx(math.log2(len(a) / len(b)))


# --- by a hierarchy

#         thing
#        /     \
#   animal     tool
#   /    \        \
#  dog    cat     hammer, mallet
#   |
#  poodle
TREE = Hierarchy(
    [["thing"], ["animal"], ["tool"], ["dog"], ["cat"], ["hammer", "mallet"], ["poodle"]],
    [[], [0], [0], [1], [1], [2], [3]],
)


@pytest.mark.parametrize(
    ("label", "truth", "level", "same", "narrower", "broader"),
    [
        ("poodle", "dog", -1, 0, 1, 0),
        ("animal", "poodle", 2, 0, 0, 1),
        ("cat", "dog", 0, 0, 0, 0),  # a sibling: of the same level, and of none of the three
        ("mallet", "hammer", 0, 1, 0, 0),
        ("Dog", "dog", 0, 1, 0, 0),
    ],
)
def test_a_hierarchy_gives_levels_in_steps_and_the_relation(label, truth, level, same, narrower, broader):
    columns = grades_by_hierarchy([label], [[truth]], TREE)
    assert "agreement-overlap" not in columns
    assert [values.item() for values, _ in columns.values()] == [level, same, narrower, broader]


def test_a_hierarchy_takes_the_most_similar_accepted_text_and_says_what_it_lacks():
    columns = grades_by_hierarchy(["poodle", "robot"], [["hammer", "robot", "dog"], ["dog"]], TREE)
    values, notes = columns["agreement-level"]
    np.testing.assert_array_equal(values, [-1, NAN])
    assert notes == ["", "the label or its truth is not in the hierarchy"]


# --- in the agreement of neurons


def test_agreement_grades_only_neurons_with_truth_and_label_and_images_come_before_the_hierarchy():
    truth = Truth(LayerKey("m", "l"), {0: ("clock",), 1: ("dog",), 2: ("clock",), 3: ("clock",)})
    ranked = {0: ["object", "clock"], 5: ["clock"], 2: [], 3: ["unheard of"], 1: ["dog"]}
    found = agreement(truth, ranked, hierarchy=TREE, concepts=TABLE)
    np.testing.assert_array_equal(found.values["agreement-overlap"], [0.5, NAN, NAN, NAN, 1])
    np.testing.assert_array_equal(found.values["agreement-level"], [1, NAN, NAN, NAN, 0])
    np.testing.assert_array_equal(found.values["agreement-broader"], [1, NAN, NAN, NAN, 0])
    notes = found.notes["agreement-level"]
    assert notes[:3] == ("", "no truth for this neuron", "no label") and "not a value of the metadata" in notes[3]
    assert "hierarchy-similarity" in found.values
    assert "agreement-overlap" not in agreement(truth, ranked, hierarchy=TREE).values
    assert "agreement-level" not in agreement(truth, ranked).values


# --- a table of words and items


def test_a_table_says_what_words_are_true_of(tmp_path):
    (tmp_path / "w.tsv").write_text("Item\tWord\n1F552\tclock\n1F550\tClock\n1F550\tone o'clock\n1F550\tclock\n\tx\n")
    table = read_word_items(tmp_path / "w.tsv")
    assert {word: len(ids) for word, ids in table.showing.items()} == {"clock": 2, "one o'clock": 1}
    rows, *_ = graded(["one o'clock"], [["clock"]], table)
    assert rows[0] == pytest.approx((0.5, -1.0, 0, 1, 0))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("word,image\na,b\n", r"lacks the columns word,item \(has: word, image\)"),
        ("word,item\n,1\n", "no row with both a word and an item"),
        ("", "the table of words and items"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "w.csv").write_text(content)
    with pytest.raises(EvaluationError, match=message) as caught:
        read_word_items(tmp_path / "w.csv")
    assert "\n" not in str(caught.value)
