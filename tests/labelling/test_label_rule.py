"""Which label of a neuron is shown: one rule, and everything that shows a label follows it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from planted import PLANTED, WORDS, make_planted, opened

from csp_index import Index, open_index
from csp_index.errors import LabelError, SettingError
from csp_index.labelling.label_rule import LabelRule, prefer, read_rule
from csp_index.labelling.methods import METHODS, RECOMMENDED, WITHOUT_SCALE, controls
from csp_index.query.reader import Reader
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.layer import GalleryQuery, layer_document
from csp_index.service.documents.neuron import neuron_document
from csp_index.store.runs import record_run

NEURON = f"{PLANTED}/1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted index, its layer labeled by csp, semanticlens and, last, both controls."""
    db = make_planted(tmp_path_factory.mktemp("rule"))
    for method in controls():
        open_index(db).label(PLANTED, method, vocabulary=WORDS, templates="none")
    return db


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    return open_index(shutil.copytree(made, tmp_path / "planted.db"))


def shown(index: Index) -> dict[str, Any]:
    """Return the method whose label of one neuron each place shows."""
    snapshot, engine = opened(Path(index.uri))
    key = NeuronKey.parse(NEURON)
    gallery = layer_document(snapshot, engine, LayerKey.parse(PLANTED), GalleryQuery())["neurons"]
    found = {
        "view": index.view(NEURON).label.method,
        "search": {row["labelled_by"] for row in index.search("red", layer=PLANTED).rows()},
        "export": {row["method"] for row in index.labels(PLANTED).rows()},
        "sql": index.sql(f"SELECT method FROM neuron_labels WHERE address = '{NEURON}'").rows()[0]["method"],
        "page": neuron_document(snapshot, engine, key)["method"],
        "gallery": {row["method"] for row in gallery},
    }
    return {
        place: next(iter(value)) if isinstance(value, set) and len(value) == 1 else value
        for place, value in found.items()
    }


def test_without_a_preference_the_newest_that_is_no_control_is_shown_everywhere(index):
    assert set(shown(index).values()) == {"semanticlens"}


def test_the_recommended_method_comes_before_newer_ones(index):
    index.label(PLANTED, vocabulary=WORDS, templates="none")
    index.label(PLANTED, "csp", vocabulary=WORDS, templates="none", recompute=True)
    assert set(shown(index).values()) == {RECOMMENDED}


def test_the_preferred_method_comes_before_the_recommended_one_until_it_is_taken_back(index):
    index.label(PLANTED, vocabulary=WORDS, templates="none")
    index.prefer("csp")
    assert set(shown(index).values()) == {"csp"}
    assert index.status()["preferred"] == "csp"
    assert index.label(NEURON, vocabulary=WORDS, templates="none")[0].method == "csp"  # and it labels by default
    index.prefer(None)
    assert set(shown(index).values()) == {RECOMMENDED}


def test_a_neuron_without_a_label_by_the_preferred_method_shows_the_next(index):
    index.label(f"{PLANTED}/0", "pmi", vocabulary=WORDS, templates="none")
    index.prefer("pmi")
    methods = [row["method"] for row in index.sql("SELECT method FROM neuron_labels ORDER BY address").rows()]
    assert methods.count("pmi") == 1
    snapshot, engine = opened(Path(index.uri))
    rows = layer_document(snapshot, engine, LayerKey.parse(PLANTED), GalleryQuery())["neurons"]
    assert {row["index"]: row["method"] for row in rows} == {i: "pmi" if i == 0 else "semanticlens" for i in range(7)}


def test_a_control_is_shown_by_its_name_alone(index):
    assert index.view(NEURON, "random-label").label.method == "random-label"
    assert {row["method"] for row in index.labels(PLANTED, method="random-label").rows()} == {"random-label"}
    assert {row["method"] for row in index.labels(PLANTED, method="all").rows()} == {"csp", "semanticlens", *controls()}
    with pytest.raises(SettingError, match=r"random-label is a control, .*prefer another, for example"):
        index.prefer("random-label")
    with pytest.raises(LabelError, match="'nonsense' is unknown"):
        index.prefer("nonsense")
    assert read_rule(index.store) == LabelRule()


def test_only_controls_are_no_label(index):
    store = index.store
    with store.write_lock():
        store.delete("labels", "method NOT LIKE 'random%'")
    rows = Reader(index.uri).sql(f"SELECT * FROM neuron_labels WHERE address LIKE '{PLANTED}/%'").rows()
    assert [(row["text"], row["state"]) for row in rows] == [(None, "unlabelled")] * 7
    snapshot, engine = opened(Path(index.uri))
    assert neuron_document(snapshot, engine, NeuronKey.parse(NEURON))["method"] is None


def test_every_neuron_has_one_row(index):
    rows = index.sql("SELECT count(*) AS rows, count(DISTINCT address) AS neurons FROM neuron_labels").rows()
    assert (
        rows
        == [{"rows": 17, "neurons": 17}]
        == index.sql("SELECT count(*) AS rows, count(*) AS neurons FROM neurons").rows()
    )


def test_where_the_scale_is_unknown_the_default_is_another(index, tmp_path):
    from fakes import write_arrays

    from csp_index.labelling.candidates import read_text_arrays

    paths = write_arrays(tmp_path / "arrays")
    arrays = open_index(tmp_path / "db")
    arrays.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    assert arrays.label("m/l/0", vocabulary=texts)[0].method == WITHOUT_SCALE
    assert arrays.label("m/l/0", vocabulary=texts, logit_scale=20.0)[0].method == RECOMMENDED
    with pytest.raises(SettingError, match="gamma changes csp, random-contrast, and not firing-contrast, which labels"):
        arrays.label("m/l/0", vocabulary=texts, logit_scale=20.0, gamma=0.5)


def test_the_command_prefers_and_says_what_follows(index, run):
    labelled = len(index.sql("SELECT DISTINCT address FROM labels WHERE method = 'csp' AND rank = 0").rows())
    assert run("prefer", index.uri, "csp").out == f"labels by csp are shown from now on: {labelled} neurons have one\n"
    assert "shown are those by csp, as preferred" in run("status", index.uri).out
    assert run("show", index.uri, NEURON).out.splitlines()[0].endswith("(csp)")
    assert run("prefer", index.uri, "csp", "--json").rows == [{"preferred": "csp", "neurons": labelled}]
    assert "there are none yet" in run("prefer", index.uri, "wpmi").out
    assert run("prefer", index.uri, "none").out.startswith(f"no method is preferred: labels by {RECOMMENDED} are shown")
    assert run("prefer", index.uri, "random-label").status == 1


def test_the_rule_reads_no_other_run(index):
    prefer(index.store, "pmi")
    index.label(NEURON, vocabulary=WORDS, templates="none")
    assert read_rule(index.store).preferred == "pmi"
    assert {LabelRule("pmi").rank(name) for name in METHODS} == {-1, 0, 1, 2}


def test_options_that_the_preferred_method_ignores_are_refused(index):
    index.prefer("semanticlens")
    with pytest.raises(SettingError, match="gamma changes csp, random-contrast, and not semanticlens, which labels"):
        index.label(NEURON, vocabulary=WORDS, gamma=0.5)
    index.prefer("csp")
    assert index.label(NEURON, vocabulary=WORDS, templates="none", gamma=0.5, keep=False)[0].method == "csp"


def test_a_preferred_method_that_is_gone_is_named_with_the_way_out(index):
    with index.store.write_lock(), record_run(index.store, "prefer", {"method": "median"}, {}):
        pass
    with pytest.raises(LabelError, match=r"prefers the method 'median', which no installed package offers: .*DB none"):
        index.label(NEURON, vocabulary=WORDS)
    assert index.view(NEURON).label.method == "semanticlens"
    index.prefer(None)
    assert index.label(NEURON, vocabulary=WORDS, templates="none", keep=False)[0].method == RECOMMENDED
