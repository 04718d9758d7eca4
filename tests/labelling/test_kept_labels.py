"""Labels in the store: under which settings they are kept, what is kept with them, and what replaces them."""

from __future__ import annotations

import numpy as np
import pytest
from imported_arrays import build

from csp_index.labelling.candidates import read_text_arrays


def test_labels_are_read_back_and_depend_on_their_settings(tmp_path):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    first = index.label("m/l", "csp", vocabulary=texts)
    again = index.label("m/l", "csp", vocabulary=texts)
    assert list(first) == list(again)
    assert {label.run_id for label in first} == {label.run_id for label in again}
    other = index.label("m/l", "csp", vocabulary=texts, gamma=0.5)
    assert other[0].run_id != first[0].run_id
    assert other[0].labels[0].score != first[0].labels[0].score
    one = index.label("m/l/2", "csp", vocabulary=texts)
    assert one[0] == first[2]
    fresh = index.label("m/l/2", "csp", vocabulary=texts, recompute=True)
    assert fresh[0].run_id != first[2].run_id
    assert index.sql("SELECT count(*) AS n FROM labels WHERE neuron = 2 AND rank = 0").rows() == [{"n": 2}]


def test_made_anew_a_label_leaves_no_orphans(tmp_path):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    index.label("m/l", vocabulary=texts)
    count = index.sql("SELECT count(*) AS n FROM examples").rows()
    index.label("m/l", vocabulary=texts, recompute=True)
    index.label("m/l/0", vocabulary=texts, recompute=True)
    assert index.sql("SELECT count(*) AS n FROM examples").rows() == count
    assert index.sql("SELECT count(*) AS n FROM examples WHERE run_id NOT IN (SELECT run_id FROM labels)").rows() == [
        {"n": 0}
    ]


def test_trap_2_a_label_is_kept_under_settings_and_weights_not_names(tmp_path):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    first = index.label("m/l/0", vocabulary=texts)
    vectors = np.load(paths["text_embeddings"])
    np.save(paths["text_embeddings"], vectors[::-1].copy())  # the same file name, other content
    second = index.label("m/l/0", vocabulary=read_text_arrays(paths["text_embeddings"], paths["texts"]))
    assert second[0].run_id != first[0].run_id
    assert second[0].text != first[0].text


def test_wpmi_depends_on_the_neurons_of_the_run_and_is_kept_so(tmp_path):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    whole = index.label("m/l", "wpmi", vocabulary=texts)
    (alone,) = index.label("m/l/0", "wpmi", vocabulary=texts)
    assert alone.run_id != whole[0].run_id
    assert alone.labels[0].score != pytest.approx(whole[0].labels[0].score)


def test_confidence_is_kept_with_the_label_and_told_in_sql(tmp_path):
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    labels = index.label("m/l", "contrastive-pmi", vocabulary=texts, seed=3)
    assert list(index.label("m/l", "contrastive-pmi", vocabulary=texts, seed=3)) == list(
        labels
    )  # read back as it was made
    assert (
        list(index.label("m/l", "contrastive-pmi", vocabulary=texts, seed=3, keep=False, recompute=True))[2].labels
        == labels[2].labels
    )
    for label in labels:
        if label.state != "labelled":
            assert (label.confidence, label.uncertain, label.rivals, label.doubt) == (None, False, (), "")
            continue
        assert 0 <= label.confidence <= 1
        assert label.labels[0].low <= label.labels[0].score <= label.labels[0].high
        assert [r.share for r in label.rivals] == sorted((r.share for r in label.rivals), reverse=True)
        assert label.text not in [rival.text for rival in label.rivals]
        assert label.prediction_set[0].text == label.text or label.confidence < label.prediction_set[0].share
        assert label.as_json()["prediction_set"][0]["share"] == label.prediction_set[0].share
        assert label.confidence + sum(rival.share for rival in label.rivals) <= 1 + 1e-6
        assert label.doubt.startswith("uncertain") == label.uncertain
    assert any(label.uncertain and label.rivals for label in labels)
    sums = index.sql("SELECT neuron, sum(confidence) AS total FROM labels WHERE rank >= 0 GROUP BY neuron").rows()
    assert [row["total"] for row in sums] == pytest.approx([1.0] * 7)
    first = index.sql("SELECT uncertain, confidence FROM labels WHERE neuron = 2 AND rank = 0").rows()
    assert first == [{"uncertain": labels[2].uncertain, "confidence": pytest.approx(labels[2].confidence)}]
    assert index.sql("SELECT count(*) AS n FROM labels WHERE rank <> 0 AND uncertain IS NOT NULL").rows() == [{"n": 0}]
    (alone,) = index.label("m/l/2", "contrastive-pmi", vocabulary=texts, seed=3, keep=False, recompute=True)
    assert alone.confidence == pytest.approx(labels[2].confidence)
    (other,) = index.label("m/l/2", "contrastive-pmi", vocabulary=texts, seed=4, keep=False)
    assert other.labels[0].low != alone.labels[0].low
    (wide,) = index.label("m/l/2", "contrastive-pmi", vocabulary=texts, seed=3, bootstrap=0, keep=False)
    assert (wide.confidence, wide.uncertain, wide.labels[0].low) == (None, False, None)
    assert [score.text for score in wide.labels] == [score.text for score in alone.labels]
