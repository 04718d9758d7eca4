"""The probability that a label is right, stored with it and shown wherever the label is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from answering import TEXTS, answering

import csp_index
from csp_index.labelling.probabilities.labels import FEWEST
from csp_index.query.sql_views import ALL, labels_statement
from csp_index.service.layer_table import read_layer
from csp_index.store import schema

WORDS = csp_index.CandidateTexts(tuple(f"w{n}" for n in range(TEXTS)), answering()[0].texts, key="words")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A layer of five neurons over 400 images, with labels of a method that is not calibrated."""
    folder = tmp_path_factory.mktemp("answering")
    _, _, _, images, activations = answering()
    np.save(folder / "E.npy", images.numpy())
    np.save(folder / "A.npy", activations.T.contiguous().numpy())
    with csp_index.open_index(folder / "i.db") as index:
        index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy")
        index.label("m/l", method="mean-centred", vocabulary=WORDS)
    return folder / "i.db"


@pytest.fixture
def index(made: Path, tmp_path: Path) -> csp_index.Index:
    """A copy of it."""
    return csp_index.open_index(shutil.copytree(made, tmp_path / "i.db"))


@pytest.fixture
def labelled(index: csp_index.Index) -> csp_index.Index:
    """The same with labels of a calibrated method, which are shown."""
    index.label("m/l", method="semanticlens", vocabulary=WORDS)
    index.prefer("semanticlens")
    return index


def test_labels_have_a_probability_where_the_regressions_hold(index: csp_index.Index) -> None:
    made = index.label("m/l", method="semanticlens", vocabulary=WORDS)
    assert all(label.probability is not None and 0.5 < label.probability < 1 for label in made)
    read = index.label("m/l", method="semanticlens", vocabulary=WORDS)
    assert [label.probability for label in read] == [label.probability for label in made]
    assert read[0].as_json()["probability"] == made[0].probability
    index.label("m/l", method="semanticlens", vocabulary=WORDS, recompute=True)
    rows = index.sql("SELECT neuron, probability FROM label_probabilities ORDER BY neuron").rows()
    assert rows == [{"neuron": n, "probability": label.probability} for n, label in enumerate(made)]
    few = csp_index.CandidateTexts(WORDS.texts[: FEWEST - 1], WORDS.embeddings[: FEWEST - 1], key="few")
    for options in ({"examples": 7}, {"bootstrap": 50}, {"vocabulary": few}):
        others = index.label("m/l", method="semanticlens", **({"vocabulary": WORDS} | options))
        assert [label.probability for label in others] == [None] * 5
    assert not index.verify().findings


def test_a_neuron_without_a_label_has_no_probability(made: Path, tmp_path: Path) -> None:
    activations = np.load(made.parent / "A.npy")
    activations[:, 1] = 0.7  # on every image, whose variance is not 0 but for rounding
    np.save(tmp_path / "A.npy", activations)
    with csp_index.open_index(tmp_path / "i.db") as index:
        index.import_arrays(tmp_path / "A.npy", "m/l", embeddings=made.parent / "E.npy")
        labels = index.label("m/l", method="semanticlens", vocabulary=WORDS)
        assert [label.state for label in labels] == ["labelled", "constant", *["labelled"] * 3]
        rows = index.sql("SELECT neuron FROM label_probabilities ORDER BY neuron").rows()
        assert rows == [{"neuron": n} for n in (0, 2, 3, 4)]
        assert not index.verify().findings


def test_a_single_image_says_nothing_of_how_likely_labels_are_to_be_right(made: Path, tmp_path: Path) -> None:
    for name in ("A", "E"):
        np.save(tmp_path / f"{name}.npy", np.load(made.parent / f"{name}.npy")[:1])
    with csp_index.open_index(tmp_path / "i.db") as index:
        index.import_arrays(tmp_path / "A.npy", "m/l", embeddings=tmp_path / "E.npy")
        labels = index.label("m/l", method="semanticlens", vocabulary=WORDS)  # without a warning, which is an error
        assert [label.probability for label in labels] == [None] * 5


def test_people_read_how_likely_a_label_is_to_be_right_wherever_it_is_shown(labelled: csp_index.Index) -> None:
    known, other = (labelled.view("m/l/0", method).label for method in ("semanticlens", "mean-centred"))
    assert known.probability is not None and other.probability is None
    words = "of 100 labels like it are right"
    assert words in labelled.view("m/l/0", "semanticlens")._repr_html_()
    assert words not in labelled.view("m/l/0", "mean-centred")._repr_html_()
    rows = labelled.sql("SELECT neuron, probability FROM neuron_labels ORDER BY neuron").rows()
    assert rows[0]["probability"] == known.probability and len(rows) == 5
    exported = labelled.sql(labels_statement("m/l", ALL, 2)).rows()
    stated = {(row["method"], row["rank"]): row["probability"] for row in exported if row["neuron"] == "m/l/0"}
    assert stated[("semanticlens", 0)] == known.probability
    assert [stated[key] for key in (("semanticlens", 1), ("mean-centred", 0), ("mean-centred", 1))] == [None] * 3
    ((target, _),) = labelled.resolve("m/l")
    table = read_layer(labelled.store, target)
    assert table.row(0)["probability"] == known.probability and table.row(0, "mean-centred")["probability"] is None
    label = table.labels().label(known.neuron, 5)  # type: ignore[union-attr]
    assert label is not None and label.probability == known.probability


def test_an_index_without_the_table_has_labels_without_a_probability(index: csp_index.Index) -> None:
    assert not index.store.has(schema.LABEL_PROBABILITIES)
    assert index.view("m/l/0").label.probability is None
    assert index.sql("SELECT probability FROM neuron_labels").rows() == [{"probability": None}] * 5
    assert not index.verify().findings


def test_verify_finds_probabilities_that_cannot_be_right(labelled: csp_index.Index) -> None:
    rows = labelled.store.read(schema.LABEL_PROBABILITIES).sort_by("neuron")
    values = [1.5, float("nan"), 0.5, 0.5, 0.5]
    with labelled.store.write_lock():
        labelled.store.delete(schema.LABELS, "neuron = 4")
        labelled.store.replace(schema.LABEL_PROBABILITIES, rows.set_column(6, "probability", pa.array(values)))
    found = {f.what for f in labelled.verify().findings if f.table == schema.LABEL_PROBABILITIES}
    assert found == {"probabilities of these labels are not between 0 and 1", "probabilities without a label"}
    labelled.verify(repair=True)
    assert not labelled.store.count(schema.LABEL_PROBABILITIES)


def test_probabilities_go_with_their_labels(labelled: csp_index.Index) -> None:
    with labelled.store.write_lock():
        labelled.store.delete(schema.LABELS, "neuron = 4 AND rank = 1 AND method = 'semanticlens'")  # a broken label
    labelled.verify(repair=True)
    runs = set(labelled.store.read(schema.LABELS, ["run_id"])["run_id"].to_pylist())
    assert set(labelled.store.read(schema.LABEL_PROBABILITIES, ["run_id"])["run_id"].to_pylist()) <= runs
    assert not labelled.verify().findings
