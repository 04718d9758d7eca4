"""Neurons side by side: shared and own labels, similarities, and what cannot be compared."""

from __future__ import annotations

import json

import pytest
from planted import CONCEPTS, PLANTED, WORDS, Served, serve_arrays

from csp_index.errors import NotFoundError, SettingError
from csp_index.records import NeuronKey
from csp_index.service.documents.compare import compare_document
from csp_index.service.documents.neuron import neuron_document


def keys(*addresses: str) -> list[NeuronKey]:
    return [NeuronKey.parse(address) for address in addresses]


@pytest.mark.parametrize("neurons", [(0, 1), (2, 0, 5), (0, 1, 2, 3)])
def test_the_documents_are_those_of_the_neurons_without_queries(planted: Served, neurons: tuple[int, ...]) -> None:
    chosen = keys(*(f"{PLANTED}/{neuron}" for neuron in neurons))
    document = compare_document(*planted, chosen)
    assert list(document) == ["neurons", "shared", "own", "similarity"]
    for key, told in zip(chosen, document["neurons"], strict=True):
        whole = neuron_document(*planted, key)
        assert told == {name: value for name, value in whole.items() if name != "queries"}
    vectors = planted[1].concepts(chosen[0].layer_key).vectors
    for a, row in zip(neurons, document["similarity"], strict=True):
        assert row == pytest.approx([float(vectors[a] @ vectors[b]) for b in neurons], abs=1e-6)
    json.dumps(document, allow_nan=False)


def test_shared_and_own_labels(planted: Served) -> None:
    chosen = keys(f"{PLANTED}/0", f"{CONCEPTS}/2", f"{CONCEPTS}/7")
    document = compare_document(*planted, chosen[:2])
    texts = [[label["text"] for label in told["labels"]] for told in document["neurons"]]
    assert document["shared"] == texts[0]  # the vocabulary is small: all of it is kept with each
    assert sorted(texts[0]) == sorted(texts[1]) == sorted(WORDS)
    assert document["own"] == {str(key): [] for key in chosen[:2]}
    with_bare = compare_document(*planted, [chosen[0], chosen[2]])
    assert with_bare["shared"] == []
    assert with_bare["own"] == {str(chosen[0]): texts[0], str(chosen[2]): []}


def test_labels_of_some_belong_to_nobody_alone(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {0: ["a", "b", "c", "z"], 1: ["c", "b", "d", "z"], 2: ["e", "c", "y", "z"]}

    def documented(snapshot: object, engine: object, key: NeuronKey, method: object) -> dict[str, object]:
        return {
            "labels": [{"text": t, "score": {"y": 0.0, "z": 3e-12}.get(t, -1.0)} for t in kept[key.neuron]],
            "queries": {},
        }

    monkeypatch.setattr("csp_index.service.documents.compare.neuron_document", documented)
    document = compare_document(*planted, keys(*(f"{PLANTED}/{neuron}" for neuron in range(3))))
    assert document["shared"] == ["c"]
    assert document["own"] == {f"{PLANTED}/0": ["a"], f"{PLANTED}/1": ["d"], f"{PLANTED}/2": ["e"]}


def test_a_dead_neuron_is_similar_to_nothing(planted: Served) -> None:
    similarity = compare_document(*planted, keys(f"{PLANTED}/0", f"{PLANTED}/6"))["similarity"]
    assert similarity[0] == [pytest.approx(1), None] and similarity[1] == [None, None]


def test_the_method_chooses_the_labels(planted: Served) -> None:
    document = compare_document(*planted, keys(f"{PLANTED}/0", f"{PLANTED}/1"), "csp")
    assert {told["method"] for told in document["neurons"]} == {"csp"}


def test_neurons_without_labels_can_be_compared(tmp_path_factory: pytest.TempPathFactory) -> None:
    document = compare_document(*serve_arrays(tmp_path_factory), keys("m/l/0", "m/l/1"))
    assert document["shared"] == [] and document["own"] == {"m/l/0": [], "m/l/1": []}
    assert document["similarity"][0][1] == pytest.approx(document["similarity"][1][0])


@pytest.mark.parametrize("neurons", [(), (0,), (0, 0), (0, 1, 2, 3, 4), (0, 1, 0)])
def test_two_to_four_different_neurons(planted: Served, neurons: tuple[int, ...]) -> None:
    with pytest.raises(SettingError, match="expected 2 to 4 different neurons"):
        compare_document(*planted, keys(*(f"{PLANTED}/{neuron}" for neuron in neurons)))


def test_a_neuron_that_is_not_there(planted: Served) -> None:
    with pytest.raises(NotFoundError, match="planted/words/7 does not exist"):
        compare_document(*planted, keys(f"{PLANTED}/0", f"{PLANTED}/7"))
