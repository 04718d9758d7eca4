"""The name that a reader gave is the neuron's label wherever one is shown, with who and when; methods keep theirs."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from planted import PLANTED, WORDS, make_planted, opened

from csp_index import EvaluationOptions, Index, open_index
from csp_index.errors import LabelError
from csp_index.evaluation.options import parse_methods
from csp_index.labelling.review.pinned import layer_digest, pins_of
from csp_index.labelling.review.words import PINNED
from csp_index.proposers.similar_neurons import related_revision
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.card import card_of
from csp_index.service.documents.compare import compare_document
from csp_index.service.documents.layer import GalleryQuery, layer_document
from csp_index.service.documents.layer_map import layer_map
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.documents.search import SearchQuery, search_document
from csp_index.store import catalog

NEURON = f"{PLANTED}/1"
NAME = "ann's own <name>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    db = make_planted(tmp_path_factory.mktemp("pinned"))
    open_index(db).note(NEURON, "rename", NAME, by="ann")
    return db


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    return open_index(shutil.copytree(made, tmp_path / "planted.db"))


def test_the_name_is_shown_everywhere_and_the_method_keeps_its_label(made):
    index, key = open_index(made), NeuronKey.parse(NEURON)
    snapshot, engine = opened(made)
    gallery = {row["index"]: row for row in layer_document(snapshot, engine, key.layer_key, GalleryQuery())["neurons"]}
    page = neuron_document(snapshot, engine, key)
    compared = compare_document(snapshot, engine, [key, NeuronKey.parse(f"{PLANTED}/2")])
    shown = {
        "view": index.view(NEURON).label.text,
        "search": {row["neuron"]: row["label"] for row in index.search("red", layer=PLANTED, top=8).rows()}[NEURON],
        "export": next(row["text"] for row in index.labels(PLANTED).rows() if row["neuron"] == NEURON),
        "sql": index.sql(f"SELECT text FROM neuron_labels WHERE address = '{NEURON}'").rows()[0]["text"],
        "gallery": gallery[1]["label"],
        "page": page["label"],
        "compare": compared["neurons"][0]["label"],
        "map": {point["index"]: point["label"] for point in layer_map(snapshot, engine, key.layer_key)["points"]}[1],
        "by name": search_document(snapshot, engine, SearchQuery("own <name"))["by_name"][0]["label"],
    }
    assert set(shown.values()) == {NAME}, shown
    assert gallery[1]["method"] == PINNED and gallery[2]["method"] == "semanticlens"
    assert index.view(NEURON, "csp").label.text in WORDS and index.view(NEURON, PINNED).label.text == NAME
    assert [row["method"] for row in page["methods"]] == ["semanticlens", "csp", PINNED]
    assert neuron_document(snapshot, engine, key, "csp")["label"] in WORDS
    assert card_of(page, lambda image: b"")[:4] == b"\x89PNG"


def test_a_name_says_who_gave_it_and_when_and_has_no_score(made, tmp_path):
    index = open_index(made)
    label, other = index.view(NEURON).label, index.view(NEURON, "semanticlens").label
    assert label.note.startswith("named by ann on 20") and label.note.endswith(f"; semanticlens: {other.text}")
    assert label.pairs == other.pairs and label.run_id == other.run_id
    assert math.isnan(label.labels[0].score) and label.as_json()["labels"][0]["score"] is None
    row = index.sql(f"SELECT * FROM neuron_labels WHERE address = '{NEURON}'").rows()[0]
    assert (row["method"], row["state"], row["score"], row["uncertain"]) == (PINNED, "labelled", None, None)
    assert row["note"] == label.note and row["run_id"] == other.run_id
    page = neuron_document(*opened(made), NeuronKey.parse(NEURON))
    assert page["note"] == label.note and page["score"] is None and page["pairs"]
    assert [score["score"] for score in page["labels"]] == [None] and not page["terms"]
    assert index.card(label, tmp_path / "card.png").stat().st_size > 0
    named = index.sql("SELECT * FROM pinned").rows()
    assert [(one["address"], one["text"], one["reader"], one["layer_changed"]) for one in named] == [
        (NEURON, NAME, "ann", False)
    ]


def test_exports_have_one_row_per_neuron_and_names_by_their_own_method(made):
    index = open_index(made)
    rows = index.labels(PLANTED, top=3).rows()
    assert [row["rank"] for row in rows if row["neuron"] == NEURON] == [0]
    assert [row["neuron"] for row in index.labels(PLANTED, method=PINNED).rows()] == [NEURON]
    every = index.labels(PLANTED, method="all").rows()
    assert {row["method"] for row in every if row["neuron"] == NEURON} == {"csp", "semanticlens", PINNED}
    assert not [row for row in index.labels(PLANTED, method="csp").rows() if row["text"] == NAME]
    counts = index.sql("SELECT count(*) AS a, count(DISTINCT address) AS b FROM neuron_labels").rows()[0]
    assert counts["a"] == counts["b"] == 17


def test_a_name_outlives_labels_and_can_be_taken_back(index):
    for _ in range(2):
        index.label(PLANTED, "semanticlens", vocabulary=WORDS, templates="none", recompute=True)
    index.prefer("csp")
    assert index.view(NEURON).label.text == NAME
    index.note(NEURON, "unname", by="bob")
    assert index.view(NEURON).label.method == "csp"
    assert index.sql("SELECT count(*) AS n FROM pinned").rows() == [{"n": 0}]
    with pytest.raises(LabelError, match=r"no reader has named planted/words/1: csp-index note .* --rename TEXT"):
        index.view(NEURON, PINNED)


def test_a_neuron_without_a_label_and_a_dead_one_can_be_named(index):
    dead = 6  # of the planted layer
    index.note(f"{PLANTED}/{dead}", "rename", "never fires", by="ann")
    assert index.view(f"{PLANTED}/{dead}").label.state == "labelled"
    snapshot, _ = opened(Path(index.uri))
    table = snapshot.layer(LayerKey.parse(PLANTED))
    assert table.labels() is not None and table.labels().texts[dead] == "never fires"
    concepts = f"{LayerKey('net', 'concepts')}"
    unlabelled = next(
        row["address"]
        for row in index.sql(
            f"SELECT address FROM neuron_labels WHERE state = 'unlabelled' AND address LIKE '{concepts}/%'"
        ).rows()
    )
    index.note(unlabelled, "rename", "unseen", by="ann")
    label = index.view(unlabelled).label
    assert (label.text, label.pairs, label.run_id) == ("unseen", (), "") and label.note.startswith("named by ann")
    page = neuron_document(*opened(Path(index.uri)), NeuronKey.parse(unlabelled))
    assert page["label"] == "unseen" and page["provenance"]["run"] is None


def test_names_are_candidates_of_similar_neurons_and_change_their_revision(index):
    target = catalog.layer(index.store, LayerKey("net", "concepts"))
    before = related_revision(index.store, target)
    index.note(f"{PLANTED}/2", "rename", "another name", by="ann")
    assert related_revision(index.store, target) != before
    for neuron in range(6):
        index.note(f"{PLANTED}/{neuron}", "rename", f"name {neuron}", by="ann")
    index.propose("net/concepts/0", neighbours=True)
    texts = {row["text"] for row in index.sql("SELECT text FROM candidates WHERE kind = 'neighbours'").rows()}
    assert texts and texts <= {f"name {neuron}" for neuron in range(6)}


def test_names_are_judged_beside_methods(index):
    for neuron in range(4):
        index.note(f"{PLANTED}/{neuron}", "rename", WORDS[neuron], by="ann")
    options = EvaluationOptions(methods=parse_methods([PINNED, "semanticlens"]))
    evaluation = index.evaluate(PLANTED, options, vocabulary=WORDS, templates="none")
    rows = evaluation.values.to_pylist()
    assert {row["text"] for row in rows if row["method"] == PINNED and row["text"]} == set(WORDS[:4])
    index.note(f"{PLANTED}/0", "rename", WORDS[5], by="ann")
    again = index.evaluate(PLANTED, options, vocabulary=WORDS, templates="none").values.to_pylist()
    assert WORDS[5] in {row["text"] for row in again if row["method"] == PINNED}  # stored values were of other names


def test_pins_say_whether_the_layer_has_changed(index):
    target = catalog.layer(index.store, LayerKey.parse(PLANTED))
    assert not pins_of(index.store, target)[1].changed
    assert layer_digest(target) == pins_of(index.store, target)[1].layer_digest
    assert np.array_equal(sorted(pins_of(index.store, target)), [1])
