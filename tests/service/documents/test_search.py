"""Search by text, picture, image and neuron: held to plain products, and what is said where something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from PIL import Image
from planted import CONCEPTS, DERIVED, PLANTED, WORDS, Served, opened

from csp_index.errors import NotFoundError, SettingError
from csp_index.records import NeuronKey
from csp_index.service.documents.search import SearchQuery, search_document

KEYS = ["query", "means", "excites", "by_name", "images", "note"]


def find(served: Served, **asked: Any) -> dict[str, Any]:
    document = search_document(*served, SearchQuery(**asked))
    assert list(document) == KEYS
    json.dumps(document, allow_nan=False)
    return document


def expected(served: Served, vector: np.ndarray, but: str = "") -> list[tuple[str, float]]:
    """The neurons of all layers that fire, by the cosine of their vectors, one by one."""
    snapshot, engine = served
    found = []
    for info in snapshot.layers():
        concepts, table = engine.concepts(info.key), snapshot.layer(info.key)
        for neuron in range(info.neurons):
            if table.maxima[neuron] > 0 and f"{info.key}/{neuron}" != but:
                found.append((f"{info.key}/{neuron}", float(concepts.vectors[neuron] @ vector)))
    return sorted(found, key=lambda row: -row[1])


@pytest.mark.parametrize("word", WORDS[:4])
def test_a_text_finds_the_neuron_that_was_planted_for_it(planted: Served, word: str) -> None:
    document = find(planted, text=f" {word} ")
    assert document["query"] == {"kind": "text", "text": f" {word} ", "image_id": None, "neuron": None}
    assert document["note"] == "" and document["excites"] is None
    vector = fakes.encoder().embed_texts([word])[0].numpy()
    wanted = expected(planted, vector)
    assert [row["neuron"] for row in document["means"]] == [neuron for neuron, _ in wanted[:12]]
    assert [row["similarity"] for row in document["means"]] == pytest.approx([c for _, c in wanted[:12]], abs=1e-5)
    assert f"{PLANTED}/{WORDS.index(word)}" in [row["neuron"] for row in document["means"][:3]]
    cosines = planted[1].models().vectors_of(range(40)) @ vector
    assert [row["image_id"] for row in document["images"]] == np.argsort(-cosines, kind="stable")[:12].tolist()
    assert document["images"][0].keys() == {"image_id", "similarity"}


def test_names_hold_the_text_and_shorter_ones_come_first(planted: Served) -> None:
    snapshot, _ = planted
    every = [snapshot.layer(info.key).row(n) for info in snapshot.layers() for n in range(info.neurons)]
    wanted = [row for row in every if "red" in (row["label"] or "").lower()]
    found = find(planted, text="RED")["by_name"]
    assert found == sorted(wanted, key=lambda row: len(row["label"]))
    assert {row["label"] for row in found} == {"red", "Red ring"}
    assert find(planted, text="RED", limit=1)["by_name"] == found[:1]
    assert find(planted, text="zebra")["by_name"] == []


def test_an_image_finds_neurons_and_other_images(planted: Served) -> None:
    document = find(planted, image_id=4, limit=5)
    assert document["query"]["kind"] == "image" and document["query"]["image_id"] == 4
    vector = planted[1].models().vectors_of([4])[0]
    assert [row["neuron"] for row in document["means"]] == [neuron for neuron, _ in expected(planted, vector)[:5]]
    assert 4 not in [row["image_id"] for row in document["images"]] and len(document["images"]) == 5
    assert document["excites"] and document["by_name"] == []
    derived = find(planted, image_id=DERIVED)
    assert derived["images"][0]["image_id"] == 0 and derived["excites"] == []


def test_a_neuron_finds_others_like_it(planted: Served) -> None:
    key = NeuronKey.parse(f"{PLANTED}/3")
    document = find(planted, neuron=key)
    vector = planted[1].concepts(key.layer_key).vectors[3]
    assert document["query"] == {"kind": "neuron", "text": None, "image_id": None, "neuron": str(key)}
    assert [row["neuron"] for row in document["means"]] == [n for n, _ in expected(planted, vector, str(key))[:12]]
    assert document["excites"] is None and document["images"] and document["note"] == ""


def test_a_dead_neuron_is_found_by_nothing_and_finds_nothing(planted: Served) -> None:
    document = find(planted, neuron=NeuronKey.parse(f"{PLANTED}/6"))
    assert document["means"] == document["images"] == []
    assert document["note"].startswith(f"{PLANTED}/6 has no meaning to compare with")
    found = {row["neuron"] for row in find(planted, text="red", limit=200)["means"]}
    assert f"{PLANTED}/6" not in found and f"{CONCEPTS}/9" not in found


def test_a_picture_finds_what_it_excites_and_what_means_it(planted: Served) -> None:
    picture = Image.new("RGB", (20, 10), (200, 30, 30))
    document = find(planted, upload=picture, limit=4)
    assert document["query"] == {"kind": "upload", "text": None, "image_id": None, "neuron": None}
    vector = planted[1].models().embed_image(picture)
    assert [row["neuron"] for row in document["means"]] == [neuron for neuron, _ in expected(planted, vector)[:4]]
    excited = planted[1].models().excited(picture, 4)
    labelled = {row["neuron"]: row["label"] is not None for row in document["excites"]}
    in_order = sorted(excited, key=lambda one: not labelled[one.neuron])
    assert excited and [(row["neuron"], row["activation"]) for row in document["excites"]] == [
        (one.neuron, one.activation) for one in in_order
    ]
    assert document["note"] == ""


def test_without_an_encoder_only_names_are_searched(arrays: Served) -> None:
    document = find(arrays, text="red")
    assert document["means"] == document["images"] == document["by_name"] == []
    assert document["note"].startswith("only names were searched: ")
    picture = find(arrays, upload=Image.new("RGB", (8, 8)))
    assert picture["excites"] is None and "meanings were not searched" in picture["note"]
    assert "no network can be loaded" in picture["note"]
    assert find(arrays, image_id=0)["means"] and find(arrays, neuron=NeuronKey("m", "l", 0))["means"]


def test_an_index_without_embeddings_is_searched_by_name(planted: Served) -> None:
    snapshot, engine = opened(Path(planted[0].store.uri))
    snapshot.encoders.clear()
    document = find((snapshot, engine), text="red")
    assert document["by_name"] and document["note"].startswith("only names were searched: the index has no")
    assert "image 1 has no embedding" in find((snapshot, engine), image_id=1)["note"]
    assert find((snapshot, engine), neuron=NeuronKey.parse(f"{PLANTED}/0"))["means"] == []
    assert not engine.ready  # nothing of it was needed


def test_layers_that_do_not_fit_into_memory_are_named(planted: Served) -> None:
    small = type(planted[0])(planted[0].store.uri, held_bytes=1000)
    document = find((small, planted[1]), text="red", limit=200)
    assert {row["model"] for row in document["means"]} == {"net"}
    assert document["note"] == "1 of 2 layers were not searched by meaning: raise serve_held_bytes"
    own = find((small, planted[1]), neuron=NeuronKey.parse(f"{PLANTED}/0"))
    assert {row["model"] for row in own["means"]} == {"planted"}


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"text": "red", "image_id": 1},
        {"text": "  "},
        {"text": "x" * 301},
        {"text": "red", "limit": 0},
    ],
)
def test_what_cannot_be_asked_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        SearchQuery(**asked)


@pytest.mark.parametrize(
    "asked",
    [
        {"image_id": 40},
        {"image_id": -1},
        {"image_id": DERIVED + 1},
        {"neuron": NeuronKey.parse(f"{PLANTED}/7")},
        {"neuron": NeuronKey("no", "layer", 0)},
    ],
)
def test_what_is_not_there_is_told(planted: Served, asked: dict[str, Any]) -> None:
    with pytest.raises(NotFoundError):
        find(planted, **asked)
