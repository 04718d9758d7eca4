"""Neurons that answer to a word: three ways kept apart, their order and counts, and the sentence about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from csp_index.records import LayerKey
from csp_index.studies.concepts.concept import LayerEvidence, find_neurons
from csp_index.studies.concepts.known_classes import KnownClass
from csp_index.studies.concepts.near_words import NearWord
from csp_index.studies.concepts.records import Concept
from csp_index.studies.concepts.words import HAS, IS

KEY, OTHER = LayerKey("net", "one"), LayerKey("net", "two")
M = 40


def layer(key: LayerKey = KEY, **values: Any) -> LayerEvidence:
    """A layer of 40 neurons of which a test sets some values, {neuron: value}."""
    columns: dict[str, np.ndarray] = {
        "labels": np.full(M, None, object),
        "says": np.zeros(M, np.int8),
        "readers": np.zeros(M, bool),
        "uncertain": np.zeros(M, bool),
        "ranks": np.full(M, -1, np.int32),
        "scores": np.full(M, np.nan),
    }
    for name in columns.keys() & values.keys():
        for neuron, value in values[name].items():
            columns[name][neuron] = value
    return LayerEvidence(
        key, **columns, cosines=values.get("cosines"), lead=values.get("lead"), classes=values.get("classes", ())
    )


def numbers(found: Any) -> list[int]:
    return [one.neuron.neuron for one in found]


def test_labels_come_in_order_names_of_readers_first_then_sure_then_high_scores() -> None:
    one = layer(
        labels=dict.fromkeys(range(4), "red") | {4: "red star"},
        says=dict.fromkeys(range(4), IS) | {4: HAS},
        readers={3: True},
        uncertain={0: True},
        scores={0: 0.9, 1: 0.2, 2: 0.3, 5: 0.4, 6: 0.5, 7: 0.1},
        ranks={0: 0, 1: 0, 2: 0, 5: 2, 6: 2, 7: 1},
    )
    found = find_neurons([one], 10)
    assert numbers(found.labeled) == [3, 2, 1, 0] and numbers(found.parts) == [4]
    assert numbers(found.candidates) == [7, 6, 5], "by place, then by score; labeled ones are left out"
    assert [one.says for one in (*found.labeled[:1], *found.parts)] == ["label", "part"]
    counts = found.layers[0]
    assert (counts.labeled, counts.uncertain, counts.parts, counts.candidates) == (4, 1, 1, 3)
    assert numbers(find_neurons([one], 2).labeled) == [3, 2] and find_neurons([one], 2).layers[0].labeled == 4
    assert found.near == () and found.labeled[0].similarity is None


def test_vectors_that_stand_out_are_near_over_all_layers() -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(0, 0.05, M).astype(np.float32) for _ in range(2))
    first[3], first[4], second[9], second[0] = 0.7, np.nan, 0.8, 0.6
    found = find_neurons([layer(cosines=first), layer(OTHER, cosines=second)], 10)
    assert [(str(one.neuron), one.stands_out) for one in found.near] == [
        ("net/two/9", True),
        ("net/one/3", True),
        ("net/two/0", True),
    ]
    assert found.near[0].above_layer == 1.0 and found.near[2].above_layer == pytest.approx(38 / 39)
    assert [one.standing_out for one in found.layers] == [1, 2]
    flat = find_neurons([layer(cosines=rng.normal(0, 0.05, M), lead=0.2), layer(OTHER)], 10)
    assert len(flat.near) == 4 and not any(one.stands_out for one in flat.near), (
        "the nearest, and that chance gives as much"
    )


def grouped(found: Any) -> dict[str, list[int]]:
    return {one.way: numbers(one.neurons) for one in found.groups}


def test_groups_have_each_neuron_once_in_its_strongest_way() -> None:
    cosines = np.zeros(M)
    cosines[[1, 2, 5, 6, 7]] = 0.9, 0.8, 0.7, 0.6, 0.5
    one = layer(says={1: IS, 2: HAS}, ranks={1: 0, 2: 1, 5: 1, 8: 2}, cosines=cosines, lead=0.3)
    found = find_neurons([one], 2)
    assert grouped(found) == {"labeled": [1], "parts": [2], "near": [5, 6], "candidates": [8]}
    assert [(group.total, group.stronger) for group in found.groups] == [(1, 0), (1, 0), (3, 2), (1, 2)]
    assert numbers(found.near) == [1, 2], "the list of a way has all its neurons"
    ways = {one.neuron.neuron: one.ways for group in found.groups for one in group.neurons}
    assert ways == {
        1: ("labeled", "near"),
        2: ("parts", "near", "candidates"),
        5: ("near", "candidates"),
        6: ("near",),
        8: ("candidates",),
    }
    assert {key.neuron for key in found.every()} == ways.keys()


def test_the_nearest_by_chance_are_the_last_group() -> None:
    cosines = np.linspace(0, 0.1, M)
    one = layer(says={39: IS}, ranks={38: 1}, cosines=cosines, lead=0.3)
    found = find_neurons([one], 5)
    assert grouped(found) == {"labeled": [39], "candidates": [38], "near": [37, 36]}
    assert numbers(found.near) == [39, 38, 37, 36] and found.groups[-1].neurons[0].ways == ()
    assert list(grouped(find_neurons([layer(says={3: IS})], 5))) == ["labeled"], "no vectors, no group"


def test_a_class_that_metadata_know_gives_an_auroc() -> None:
    auroc = np.full(M, 0.5)
    auroc[2], auroc[3] = 0.9, np.nan
    known = KnownClass(KEY, "kind", "red", 10, 30, 0.1, auroc)
    found = find_neurons([layer(says={2: IS, 3: IS, 5: IS}, classes=[known])], 9).labeled
    assert [(one.auroc, one.tells_class) for one in found] == [(0.9, True), (None, False), (0.5, False)]
    assert (found[0].auroc_by, found[0].auroc_class) == ("kind", "red")


SENTENCES = {
    "No neuron is labeled “red”. How near concept vectors are is not known.": [layer()],
    "1 neuron is labeled “red”, which is uncertain. How near concept vectors are is not known.": [
        layer(says={1: IS}, uncertain={1: True})
    ],
    "3 neurons in 2 layers are labeled “red”, 1 of them uncertain; 1 has it in a longer label; for 2 it is another "
    "candidate. How near concept vectors are is not known.": [
        layer(says={1: IS, 2: IS, 3: HAS}, uncertain={2: True}, ranks={7: 1, 8: 1}),
        layer(OTHER, says={0: IS}),
    ],
    "No neuron is labeled “red”. By concept vector net/one/5 (cosine 0.90) stands out.": [
        layer(cosines=np.eye(M)[5] * 0.9, lead=0.3)
    ],
    "No neuron is labeled “red”. By concept vector no neuron answers to it more than to chance words: net/one/5 "
    "(cosine 0.20) is nearest.": [layer(cosines=np.eye(M)[5] * 0.2, lead=0.3)],
}


@pytest.mark.parametrize("said", SENTENCES)
def test_the_sentence_says_what_holds(said: str) -> None:
    found = find_neurons(SENTENCES[said], 5)
    assert Concept("red", found, (), "meaning", (), ()).sentence == said


def test_a_concept_is_rows_a_view_and_lines() -> None:
    one = layer(labels={1: "<b>red</b>"}, says={1: IS}, scores={1: 0.5}, ranks={1: 0})
    known = KnownClass(KEY, "kind", "red", 10, 30, 0.1, np.full(M, 0.9))
    concept = Concept(
        "<b>red</b>", find_neurons([one], 5), (NearWord("dark red", 2, 0.5),), "meaning", (known,), ("no encoder",)
    )
    assert concept.lines() == [
        "also: dark red (2 neurons)",
        "metadata know it: kind = red, 10 images; net/one: 40 neurons tell it better than chance",
        "no encoder",
    ]
    rows = pa.table(concept).to_pylist()
    assert len(concept) == len(rows) == 1 and rows[0]["way"] == "labeled" and rows[0]["candidate_rank"] == 0
    assert rows[0]["ways"] == ["labeled"]
    drawn = concept._repr_html_()
    assert "<b>red</b></b>" not in drawn and "&lt;b&gt;red" in drawn and "labeled so" in drawn
    assert repr(concept).startswith("Concept(1 neuron is labeled")
    assert concept.as_json()["classes"][0]["telling"] == 40
