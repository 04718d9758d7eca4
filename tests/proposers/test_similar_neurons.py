"""Candidates from similar neurons of other layers, held to cosines written out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest

from csp_index import Index, open_index
from csp_index.contrast.selection import Selection
from csp_index.errors import ProposerError
from csp_index.labelling.concept_vectors import mean_centred_vectors, stored_vectors
from csp_index.proposers.similar_neurons import related_answers, related_revision
from csp_index.records import LayerKey
from csp_index.store import catalog

WORDS = ["red", "green", "blue", "dark", "striped", "round", "flat"]
DEAD = fakes.NEURONS - 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks with layers of which nothing is labelled; two layers are the same."""
    folder = tmp_path_factory.mktemp("related")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 40), encoders=["python:fakes:encoder"])
    rows = index.sql("SELECT embedding FROM embeddings ORDER BY image_id").to_arrow()["embedding"]
    embeddings = np.stack(rows.to_pylist())
    for seed, layer, neurons in ((0, "net/concepts", 10), (1, "net/conv", 7), (0, "other/concepts", 10)):
        file = folder / f"{layer.replace('/', '-')}.npy"
        index.import_arrays(fakes.write_activations(file, embeddings, neurons, seed=seed), layer)
    return folder / "db"


@pytest.fixture
def built(made: Path, tmp_path: Path) -> Index:
    shutil.copytree(made, tmp_path / "db")
    return open_index(tmp_path / "db")


def selection(index: Index, layer: str, neurons: list[int] | None = None) -> Selection:
    target = catalog.layer(index.store, LayerKey.parse(layer))
    return Selection(catalog.encoder(index.store), target, np.array(neurons or range(target.neurons)))


def label(index: Index, layer: str, method: str = "csp", **options: object) -> dict[int, list[str]]:
    found = index.label(layer, method, vocabulary=WORDS, templates="none", **options)
    return {found.neuron.neuron: [score.text for score in found.labels] for found in found}


def ask(index: Index, layer: str, neurons: list[int] | None = None, **options: int):
    asked = selection(index, layer, neurons)
    return list(related_answers(index.store, asked, asked.source, **options))


def written_out(own: np.ndarray, others: dict[str, np.ndarray], texts: dict[str, dict[int, list[str]]], count, top):
    """Return the neighbours of one vector by hand: (cosine, address, texts), most similar first."""
    found = [
        (float(own @ vectors[neuron]), f"{layer}/{neuron}", said[:top])
        for layer, vectors in others.items()
        for neuron, said in texts[layer].items()
        if said
    ]
    return [row for row in sorted(found, key=lambda row: -row[0])[:count] if row[0] > 0]


@pytest.mark.parametrize("whole", [True, False], ids=["csp", "mean-centred"])
def test_labels_come_from_the_most_similar_neurons_of_other_layers(built, whole):
    others = ["net/conv", "other/concepts"]
    texts = {layer: label(built, layer) for layer in others}
    if whole:
        label(built, "net/concepts")
    vectors = {}
    for layer in ("net/concepts", *others):
        asked = selection(built, layer)
        found = stored_vectors(built.store, asked, "csp", 40)
        if not whole:
            found = mean_centred_vectors(built.store, asked)
        vectors[layer] = found
    answers = ask(built, "net/concepts", neighbours=4, top=2)
    assert [answer.neuron.neuron for answer in answers] == list(range(fakes.NEURONS))
    for answer in answers[:DEAD]:
        own = vectors["net/concepts"][answer.neuron.neuron]
        expected = written_out(own, {layer: vectors[layer] for layer in others}, texts, 4, 2)
        raw = json.loads(answer.raw)
        assert raw["vectors"] == ("csp" if whole else "mean-centred")
        assert [row["similarity"] for row in raw["neighbours"]] == pytest.approx([row[0] for row in expected], abs=1e-5)
        for row, (_, _, said) in zip(raw["neighbours"], expected, strict=True):
            assert row["method"] == "csp" and len(row["labels"]) == len(said) == 2
        best: dict[str, float] = {}
        for row in raw["neighbours"]:
            for text in row["labels"]:
                best.setdefault(text, row["similarity"])
        assert answer.texts == tuple(best)
        assert answer.scores == pytest.approx(tuple(best.values()), abs=1e-5)
        assert answer.state == "answered" and answer.requests == 0
    assert (answers[DEAD].state, answers[DEAD].reason) == ("failed", "it never fires on the indexed images")


def test_the_same_network_under_another_name_says_the_same(built):
    texts = label(built, "other/concepts")
    label(built, "net/concepts", keep=True)
    for answer in ask(built, "net/concepts", neighbours=1, top=3)[:DEAD]:
        (row,) = json.loads(answer.raw)["neighbours"]
        assert row["similarity"] == pytest.approx(1.0, abs=1e-5)
        assert list(answer.texts) == texts[answer.neuron.neuron][:3]


def test_the_answer_is_the_same_for_one_neuron_and_for_all(built):
    label(built, "net/conv")
    whole = ask(built, "net/concepts")
    (alone,) = ask(built, "net/concepts", [4])
    assert (alone.texts, alone.raw) == (whole[4].texts, whole[4].raw)
    assert alone.scores == pytest.approx(whole[4].scores)


def test_neither_the_own_layer_nor_controls_are_asked(built):
    label(built, "net/concepts")
    label(built, "net/conv", "random-label")
    asked = selection(built, "net/concepts")
    with pytest.raises(ProposerError, match=r"no layer other than net/concepts has labels .*--layer net/conv"):
        related_answers(built.store, asked, asked.source)  # told at once, not when the first answer is taken
    label(built, "net/conv", "semanticlens")
    label(built, "net/conv", "random-contrast")
    (answer,) = ask(built, "net/concepts", [0])
    assert {row["method"] for row in json.loads(answer.raw)["neighbours"]} == {"semanticlens"}


def test_the_newest_label_of_a_neuron_counts(built):
    label(built, "net/conv", "semanticlens")
    newest = label(built, "net/conv", "mean-centred")
    (answer,) = ask(built, "net/concepts", [0], neighbours=6, top=1)
    for row in json.loads(answer.raw)["neighbours"]:
        assert row["method"] == "mean-centred"
        assert row["labels"] == newest[int(row["neuron"].rpartition("/")[2])][:1]


def test_the_revision_changes_when_another_layer_is_labelled(built):
    target = catalog.layer(built.store, LayerKey.parse("net/concepts"))
    first = related_revision(built.store, target)
    label(built, "net/concepts")
    assert related_revision(built.store, target) == first
    label(built, "net/conv")
    second = related_revision(built.store, target)
    assert second != first
    label(built, "other/concepts", "random-label")
    assert related_revision(built.store, target) == second
