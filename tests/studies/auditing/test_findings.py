"""Findings from arrays: what is found, in which order, and what is not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from csp_index.studies.auditing.expected import ExpectedConcepts
from csp_index.studies.auditing.findings import (
    THRESHOLD,
    AuditArrays,
    candidates_of,
    inseparable,
    rank_findings,
)
from csp_index.studies.auditing.wording import refutation, statement

IMAGES = 5_000
CLASSES = ("solid star", "striped ring")
EXPECTED = ExpectedConcepts(("star", "ring", "solid", "striped"))


def arrays_of(**others: object) -> AuditArrays:
    """Return two neurons: the first sees the frame, which leaks the first class, the second sees the second class."""
    leak = 0.9
    values = {
        "classes": CLASSES,
        "values": (("frame", "pink"), ("size", "small"), ("shape", "star")),
        "images": IMAGES,
        "effects": np.array([[2.0, 0.1], [-1.0, 3.0]]),
        "own": np.array([[leak, -0.1], [-0.1, 1.0]]),
        "tied": np.array([[1.0, 0.0, 0.6], [-0.1, 0.0, -0.2]]),
        "joint": np.array([[leak, -0.1], [0.0, 0.0], [0.6, -0.2]]),
        "labels": ("red star", "striped ring"),
        "label_tied": np.array([0.5, 0.9]),
        "label_joint": np.array([[0.5, 0.0], [0.0, 0.8]]),
        "plain": ("red star", "ring"),
        "plain_tied": np.array([0.9, 0.9]),
        "plain_joint": np.array([[0.8, 0.0], [0.0, 0.9]]),
        "looks": np.zeros(2),
    }
    return AuditArrays(**(values | others))  # type: ignore[arg-type]


def test_the_neuron_that_follows_the_frame_is_found_and_no_other() -> None:
    (found,) = rank_findings(arrays_of(), EXPECTED)
    assert (found.kind, found.neuron, found.class_name, found.subject) == ("artefact", 0, CLASSES[0], "frame: pink")
    assert found.score == found.effect * found.doubt > THRESHOLD
    assert found.part > 0.99 and not found.absent
    assert found.push == 2.0 and found.push_share == 1.0


def test_an_expected_value_is_no_artefact() -> None:
    tied = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    arrays = arrays_of(tied=tied, own=np.array([[0.6, 0.0], [0.0, 1.0]]))
    assert rank_findings(arrays, EXPECTED) == []
    (found,) = rank_findings(arrays, ExpectedConcepts(("nothing",)))[:1]
    assert found.subject == "shape: star"


def test_of_two_values_the_other_one_is_expected_too() -> None:
    values, ends = (("frame", "pink"), ("frame", "white")), np.array([1.0, -1.0])
    tied, joint = np.array([ends, 0 * ends]), np.array([[0.9, 0.0], [-0.9, 0.0]])
    arrays = arrays_of(values=values, tied=tied, joint=joint)
    assert {one.value for one in rank_findings(arrays, EXPECTED)} == {"pink", "white"}
    assert rank_findings(arrays, ExpectedConcepts((*EXPECTED.texts, "pink"))) == []


def test_the_class_s_own_name_is_always_expected() -> None:
    arrays = arrays_of(labels=("solid star", None), tied=np.zeros((2, 3)))
    assert rank_findings(arrays, ExpectedConcepts(("moon",))) == []


def test_a_label_that_nobody_expects_is_found_where_it_carries_the_class() -> None:
    arrays = arrays_of(labels=("grid background", "striped ring"), tied=np.zeros((2, 3)))
    (found,) = rank_findings(arrays, EXPECTED)
    assert (found.kind, found.subject, found.label) == ("unexpected-label", "grid background", "grid background")
    loose = replace(arrays, label_joint=np.zeros((2, 2)))
    assert rank_findings(loose, EXPECTED) == []


def test_a_label_that_contrast_changes_is_found_by_the_look_that_is_not_needed() -> None:
    looks = {"looks": np.array([0.7, 0.9]), "tied": np.zeros((2, 3))}
    arrays = arrays_of(labels=("red", "striped ring"), plain=("solid star", "ring"), **looks)
    (found,) = rank_findings(replace(arrays, label_tied=np.zeros(2)), EXPECTED)
    assert (found.kind, found.plain, found.label) == ("changed-label", "solid star", "red")
    assert 0 < found.doubt <= 0.7
    loose = replace(arrays, label_tied=np.zeros(2), plain_joint=np.zeros((2, 2)))
    assert rank_findings(loose, EXPECTED) == [], "the look says nothing of the class"
    same = arrays_of(labels=("large star", "ring"), plain=("solid star", "ring"), **looks)
    assert rank_findings(same, EXPECTED) == [], "both name what is expected"


def test_findings_are_in_the_order_of_their_scores_and_below_the_least_there_are_none() -> None:
    arrays = arrays_of(labels=("red", "blue"), plain=("ring", "star"), looks=np.array([0.7, 0.2]))
    scores = [one.score for one in rank_findings(arrays, EXPECTED)]
    assert scores == sorted(scores, reverse=True) and len(scores) > 2
    assert len(rank_findings(arrays, EXPECTED, least=scores[1])) == 1


def test_of_a_neuron_and_a_subject_only_the_strongest_class_is_a_finding() -> None:
    arrays = arrays_of(effects=np.array([[2.0, 1.0], [0.0, 3.0]]), own=np.array([[0.9, 0.5], [0.0, 1.0]]))
    arrays = replace(arrays, joint=np.array([[0.9, 0.5], [0.0, 0.0], [0.0, 0.0]]))
    (found,) = rank_findings(arrays, EXPECTED)
    assert found.class_name == CLASSES[0] and set(found.further) == {CLASSES[1]}


def test_an_absent_value_can_be_the_artefact() -> None:
    own = np.array([[0.9, 0.0], [0.0, 1.0]])
    tied, joint = np.array([[-1.0, 0, 0], [0.0, 0, 0]]), np.array([[-0.9, 0.0], [0.0, 0.0], [0.0, 0.0]])
    (found,) = rank_findings(arrays_of(own=own, tied=tied, joint=joint), EXPECTED)
    assert found.absent and "lack it" in statement(found) and "is added" in refutation(found)


def test_what_is_on_the_same_images_as_a_class_is_no_finding_but_is_said() -> None:
    joint = np.array([[1.0, -0.1], [0.0, 0.0], [0.0, 0.0]])
    arrays = arrays_of(joint=joint)
    assert not [one for one in rank_findings(arrays, EXPECTED) if one.class_name == CLASSES[0]]
    assert inseparable(arrays) == [("frame", "pink", CLASSES[0])]


def test_ids_depend_on_what_is_found_not_on_how_surely() -> None:
    one, other = (rank_findings(arrays_of(images=n), EXPECTED)[0] for n in (IMAGES, 2 * IMAGES))
    assert one.score != other.score
    assert one.identity("net/pooled") == other.identity("net/pooled") != one.identity("net/other")
    assert len(one.identity("net/pooled")) == 12


def test_neurons_without_an_effect_are_not_looked_at() -> None:
    effects = np.array([[1.0, 0.0], [0.01, 0.0], [-1.0, 0.5]])
    assert candidates_of(effects, 0.02).tolist() == [0, 2]


def test_each_kind_has_its_sentences() -> None:
    arrays = arrays_of(labels=("grid background", "striped ring"), plain=("red", "ring"), looks=np.array([0.7, 0.9]))
    found = rank_findings(arrays, EXPECTED)
    assert {one.kind for one in found} == {"artefact", "unexpected-label", "changed-label"}
    for one in found:
        for text in (statement(one), refutation(one)):
            assert text.endswith(".") and "nan" not in text and "None" not in text
