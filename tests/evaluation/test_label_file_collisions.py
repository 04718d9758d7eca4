"""Collisions of labels in files: published layouts, weighted sums, several rows of a neuron, and the command."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from csp_index.cli import cli
from csp_index.errors import EvaluationError
from csp_index.evaluation.label_file_collisions import file_collisions


@pytest.fixture
def clip_dissect(tmp_path):
    file = tmp_path / "clip_dissect.csv"
    rows = ["l4,0,Dog,.3", "l4,1,dog,.2", "l4,2,cat,.1", "l4,2,bird,.1", "l3,0,dog,.1", "l4,3,,.1"]
    file.write_text("\n".join(["layer,unit,description,similarity", *rows]) + "\n")
    return file


def test_a_neuron_counts_once_by_its_first_label(clip_dissect):
    (row,) = file_collisions([clip_dissect])
    assert (row["file"], row["of"], row["labels"], row["distinct"], row["shared"]) == (
        "clip_dissect.csv", "label", 4, 2, 0.75,
    )  # fmt: skip
    (row,) = file_collisions([clip_dissect], layer="l4")
    assert (row["labels"], row["distinct"], row["reuse"]) == (3, 2, 1.5)
    (row,) = file_collisions([clip_dissect], each_row=True)
    assert (row["labels"], row["distinct"]) == (5, 3)
    (row,) = file_collisions([clip_dissect, clip_dissect], together=True)
    assert (row["labels"], row["most_neurons"]) == (8, 6)


def test_weighted_sums_are_compared_by_their_largest_text_and_as_sets(tmp_path):
    file = tmp_path / "linear.csv"
    rows = ["l4,0,1,dog,2,grass,0", "l4,1,3,dog,2,grass,0", "l4,2,1,cat,5,dog,0", "l4,3,1,cat,0,0,0"]
    file.write_text("\n".join(["layer,unit,weight0,concept0,weight1,concept1,bias", *rows]) + "\n")
    largest, whole = file_collisions([file])
    assert (largest["of"], largest["labels"], largest["distinct"]) == ("largest weight", 4, 3)  # grass, dog, dog, cat
    assert (whole["of"], whole["distinct"], whole["most_common"]) == ("whole set", 3, "dog + grass")


def test_rows_of_a_neuron_with_weights_are_one_sum_and_what_is_left_out_is_counted(tmp_path):
    file = tmp_path / "sums.csv"
    rows = ["0,dog,1", "0,grass,2", "1,grass,3", "1,dog,nan", "2,cat,inf", "3,cat,", "4,,1"]
    file.write_text("\n".join(["neuron,label,weight", *rows]) + "\n")
    largest, whole = file_collisions([file])
    assert (largest["labels"], largest["distinct"], largest["most_common"]) == (2, 1, "grass")
    assert (whole["distinct"], whole["left_out"]) == (2, 4)
    assert "; rows without a label, left out: 4" in CliRunner().invoke(cli, ["collisions", str(file)]).output


def test_a_file_without_labels_of_the_layer_is_refused(clip_dissect):
    with pytest.raises(EvaluationError, match=r"has no label of layer l9 \(has: l3, l4\)"):
        file_collisions([clip_dissect], layer="l9")


def test_annotations_of_features_may_be_counted_by_row(tmp_path):
    """As in the feature-circuits annotations: one feature twice, one without text."""
    file = tmp_path / "annotations.jsonl"
    rows = [{"Feature": "3", "Annotation": "plural nouns"}, {"Feature": "3", "Annotation": "Plural nouns"}]
    rows += [{"Feature": "4", "Annotation": "newlines"}, {"Feature": "5"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = file_collisions([file], each_row=True)
    assert (row["labels"], row["distinct"], row["most_neurons"]) == (3, 2, 2)


def test_the_command_prints_a_line_per_file(clip_dissect):
    result = CliRunner().invoke(cli, ["collisions", str(clip_dissect)])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(
        "clip_dissect.csv, label: 2 distinct labels of 4 neurons (reuse 2.00), 75.0% shared"
    )
    found = CliRunner().invoke(cli, ["collisions", str(clip_dissect), "--json"])
    assert json.loads(found.output)[0]["distinct"] == 2
