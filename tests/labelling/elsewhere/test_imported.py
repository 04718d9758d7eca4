"""Labels made elsewhere that the index keeps: shown, read, searched, exported, verified, replaced by a rule."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from csp_index import open_index
from csp_index.cli import cli
from csp_index.errors import LabelError, SettingError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.store import schema

LAYER = "net/l"
TEXTS = tuple(f"concept {k}" for k in range(8))
WORDS = CandidateTexts(TEXTS, torch.eye(8), key="words")


@pytest.fixture
def world(tmp_path):
    """Six neurons over 40 images: 4 is dead, 5 constant."""
    rng = np.random.default_rng(0)
    activations = rng.uniform(0.1, 1, (40, 6)).astype(np.float32)
    activations[:, 4], activations[:, 5] = 0, 1
    np.save(tmp_path / "E.npy", rng.standard_normal((40, 8)).astype(np.float32))
    np.save(tmp_path / "A.npy", activations)
    index = open_index(tmp_path / "db")
    index.import_arrays(tmp_path / "A.npy", LAYER, embeddings=tmp_path / "E.npy", shard_size=20)
    rows = 'l,0,"a cat, a dog"\nl,1,bird\nother,1,x\nl,4,dead\nl,5,same\n'
    (tmp_path / "milan.csv").write_text("layer,unit,description\n" + rows)
    return index, tmp_path


def test_imported_labels_are_read_shown_found_and_exported_by_their_own_name(world):
    index, folder = world
    summary = index.import_labels(LAYER, folder / "milan.csv")
    assert (summary.name, summary.neurons, summary.layout, summary.unchanged) == ("milan", 2, "MILAN", False)
    assert "rows of other layers: 1 (other)" in summary.notes
    assert "neurons that never fire, or always alike, and so keep no label: 2" in summary.notes
    labels = index.label(LAYER, "milan")
    assert [label.text for label in labels] == ["a cat, a dog", "bird", None, None, None, None]
    assert [label.state for label in labels] == ["labelled"] * 2 + ["no-candidates"] * 2 + ["dead", "constant"]
    assert labels[0].note.startswith("imported from milan.csv (MILAN; sha256 ")
    assert len(labels[0].pairs) == 30 and labels[0].pairs[0].contrast_id is None
    view = index.view(f"{LAYER}/0")
    assert (view.label.text, view.label.method) == ("a cat, a dog", "milan") and "again" not in view.label.note
    assert index.labels(LAYER, method="milan").to_pandas()["text"].dropna().tolist() == ["a cat, a dog", "bird"]
    found = index.sql("SELECT address FROM neuron_labels WHERE text LIKE '%dog%'").to_arrow()
    assert found["address"].to_pylist() == [f"{LAYER}/0"]
    assert index.card(labels[0], folder / "card.png").stat().st_size > 0
    assert index.verify().findings == []


def test_the_shown_label_is_that_of_a_method_that_labels_unless_the_import_is_preferred(world):
    index, folder = world
    index.import_labels(LAYER, folder / "milan.csv")
    index.label(LAYER, "firing-contrast", vocabulary=WORDS, logit_scale=10.0)
    assert index.view(f"{LAYER}/0").label.method == "firing-contrast"
    index.prefer("milan")
    assert index.view(f"{LAYER}/0").label.method == "milan"
    assert index.label(f"{LAYER}/0", vocabulary=WORDS, logit_scale=10.0)[0].method == "firing-contrast"  # it can label
    with pytest.raises(LabelError, match="is unknown"):
        index.prefer("milano")


def test_nothing_is_computed_for_imported_labels(world):
    index, folder = world
    index.import_labels(LAYER, folder / "milan.csv")
    runs = index.store.count(schema.RUNS)
    index.label(LAYER, "milan")
    with pytest.raises(SettingError, match="they take no gamma"):
        index.label(LAYER, "milan", gamma=0.5)
    assert index.store.count(schema.RUNS) == runs
    with pytest.raises(LabelError, match="method 'wilan' is unknown"):
        index.label(f"{LAYER}/0", "wilan")


def test_the_same_labels_are_not_stored_again_and_others_replace_them_only_on_request(world):
    index, folder = world
    first = index.import_labels(LAYER, folder / "milan.csv")
    assert not first.unchanged
    runs, rows = index.store.count(schema.RUNS), index.store.count(schema.LABELS)
    assert index.import_labels(LAYER, folder / "milan.csv").unchanged
    with pytest.raises(LabelError, match="labels Milan cannot stand beside the imported labels milan"):
        index.import_labels(LAYER, folder / "milan.csv", "Milan")
    assert index.store.count(schema.RUNS) == runs and index.store.count(schema.LABELS) == rows
    (folder / "new.csv").write_text("neuron,label\n1,fish\n2,worm\n")
    with pytest.raises(
        LabelError, match=r"milan of net/l were imported from milan.csv, and new.csv has others: replace"
    ):
        index.import_labels(LAYER, folder / "new.csv", "milan")
    index.import_labels(LAYER, folder / "new.csv", "milan", replaces=True)
    assert [label.text for label in index.label(LAYER, "milan")] == [None, "fish", "worm", None, None, None]
    assert set(index.store.read(schema.LABELS)["text"].to_pylist()) == {"fish", "worm"}
    assert index.store.read(schema.EXAMPLES)["neuron"].unique().to_pylist() == [1, 2]
    assert index.verify().findings == []
    index.import_labels(LAYER, folder / "milan.csv", "second")
    assert (
        index.label(f"{LAYER}/1", "second")[0].text == "bird" and index.label(f"{LAYER}/1", "milan")[0].text == "fish"
    )


def test_names_of_methods_and_layers_that_are_not_there_are_refused(world):
    index, folder = world
    with pytest.raises(LabelError, match="'pmi', which is a word of csp-index"):
        index.import_labels(LAYER, folder / "milan.csv", "pmi")
    assert index.store.count(schema.LABELS) == 0


def test_weighted_labels_are_kept_as_sums_with_their_weights_and_bias(world):
    from csp_index.labelling.elsewhere.stored_imports import imported_labels
    from csp_index.records import LayerKey

    index, folder = world
    (folder / "le.csv").write_text(
        "layer,unit,weight0,concept0,weight1,concept1,bias\nl,0,0.25,grass,0.5,dog,0.125\nl,1,-0.5,sky,0.0,0,1\n"
    )
    index.import_labels(LAYER, folder / "le.csv")
    labels = imported_labels(index.store, LayerKey.parse(LAYER))["le"]
    assert labels.label(0).text == "0.5 dog + 0.25 grass" and labels.label(0).bias == 0.125
    assert labels.label(1).text == "-0.5 sky" and labels.weighted and labels.layout == "Linear Explanations"
    label = index.label(f"{LAYER}/0", "le")[0]
    assert [(score.text, score.score) for score in label.labels] == [("0.5 dog + 0.25 grass", 0.5)]
    assert [(term.text, term.weight) for term in label.terms] == [("dog", 0.5), ("grass", 0.25)]
    assert index.label(f"{LAYER}/1", "le")[0].text == "-0.5 sky"
    stored = index.sql("SELECT method, text FROM label_terms WHERE neuron = 0 ORDER BY position").rows()
    assert stored == [{"method": "le", "text": "dog"}, {"method": "le", "text": "grass"}]
    assert not index.verify().findings
    index.import_labels(LAYER, folder / "milan.csv", "le", replaces=True)
    assert index.sql("SELECT count(*) AS n FROM label_terms").rows() == [{"n": 0}]


def test_the_command_says_what_was_kept_and_what_was_not(world):
    _, folder = world

    def run(*arguments):
        return CliRunner().invoke(cli, ["import-labels", str(folder / "db"), *map(str, arguments)])

    first = run(folder / "milan.csv", "--layer", LAYER)
    assert first.exit_code == 0, first.output
    assert "milan: rows of other layers: 1 (other)" in first.stdout
    assert "milan: labels of 2 neurons of net/l (MILAN)" in first.stdout
    assert "are in the index already" in run(folder / "milan.csv", "--layer", LAYER).stdout
    again = json.loads(run(folder / "milan.csv", "--layer", LAYER, "--json").stdout)
    assert again["unchanged"] and again["name"] == "milan"
    refused = run(folder / "milan.csv", "--layer", LAYER, "--name", "consensus")
    assert isinstance(refused.exception, LabelError)
