"""Labels made elsewhere in an evaluation: judged beside the methods, by every metric that needs no choice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from csp_index import EvaluationOptions, open_index
from csp_index.cli import cli
from csp_index.errors import EvaluationError, LabelError
from csp_index.evaluation.given_choice import _overlong
from csp_index.evaluation.options import parse_methods
from csp_index.evaluation.report.summary import compare
from csp_index.labelling.candidates import CandidateTexts
from csp_index.store import schema

WIDTH, IMAGES, NEURONS = 8, 120, 6
TEXTS = tuple(f"concept {k}" for k in range(WIDTH))
LAYER = "net/planted"
CANDIDATES = CandidateTexts(TEXTS, torch.eye(WIDTH), key="concepts")
NOT_OF_GIVEN = {"lead", "confidence", "prediction-set", "agreement-set", "agreement-rank", "agreement-reciprocal-rank"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Each image shows 2 of 8 concepts, and neuron k detects concept k."""
    folder = tmp_path_factory.mktemp("given")
    rng = np.random.default_rng(3)
    shown = np.zeros((IMAGES, WIDTH))
    for row in shown:
        row[rng.choice(WIDTH, 2, replace=False)] = 1
    embeddings = (shown + 0.05 * rng.standard_normal(shown.shape)).astype(np.float32)
    np.save(folder / "E.npy", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    np.save(folder / "A.npy", (shown[:, :NEURONS] * rng.uniform(0.6, 1, (IMAGES, NEURONS))).astype(np.float32))
    (folder / "truth.csv").write_text("neuron,label\n" + "".join(f"{k},{TEXTS[k]}\n" for k in range(NEURONS)))
    (folder / "right.csv").write_text("unit,description\n" + "".join(f"{k},{TEXTS[k]}\n" for k in range(NEURONS)))
    (folder / "wrong.csv").write_text("unit,description\n" + "".join(f"{k},{TEXTS[7 - k]}\n" for k in range(5)))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", LAYER, embeddings=folder / "E.npy", shard_size=50, logit_scale=30.0)
    return index, folder


def run(world, *labels, methods=("semanticlens",), **options):
    index, folder = world
    chosen = EvaluationOptions(methods=parse_methods(methods), truth=folder / "truth.csv", **options)
    return index.evaluate(LAYER, chosen, labels=labels, vocabulary=CANDIDATES)


def values(evaluation, method):
    rows = [row for row in evaluation.values.to_pylist() if row["method"] == method]
    return {(row["metric"], row["neuron"]): row for row in rows}


def test_equal_labels_get_equal_values_by_every_metric_that_needs_no_choice(world):
    _, folder = world
    found = run(world, folder / "right.csv")
    own, given = values(found, "semanticlens"), values(found, "right")
    expected = {metric for metric, _ in own if not metric.startswith("contrast-")} - NOT_OF_GIVEN
    assert {metric for metric, _ in given} == expected
    for (metric, neuron), row in given.items():
        other = own[metric, neuron]
        assert row["text"] == other["text"]
        if metric != "agreement-top5":
            assert row["value"] == pytest.approx(other["value"]), (metric, neuron)
    assert all(given["agreement-exact", neuron]["value"] == 1 for neuron in range(NEURONS))


def test_a_file_is_a_method_with_paired_tests_and_its_missing_neurons_are_explained(world):
    _, folder = world
    found = run(world, f"theirs={folder / 'wrong.csv'}", folder / "right.csv")
    assert found.settings["methods"] == ["semanticlens", "theirs", "right"]
    given = values(found, "theirs")
    assert [given["agreement-exact", neuron]["value"] for neuron in range(NEURONS)] == [0] * 5 + [None]
    assert given["simulation", 5]["note"] == "no label: the table of labels has none for this neuron"
    lines = compare(found, ["simulation"]).to_pylist()
    line = next(line for line in lines if {line["method_a"], line["method_b"]} == {"theirs", "right"})
    assert line["neurons"] == 5 and abs(line["difference"]) > 0.5
    about = found.settings["labels"]["theirs"]
    assert about["file"] == "wrong.csv" and "neurons of the layer without a label: 1 of 6" in about["notes"]


def test_values_are_stored_by_the_labels_themselves_and_read_again(world):
    index, folder = world
    run(world, folder / "right.csv", seed=5)
    runs = index.store.count(schema.RUNS)
    (folder / "copy.csv").write_text((folder / "right.csv").read_text())
    run(world, f"right={folder / 'copy.csv'}", seed=5)
    assert index.store.count(schema.RUNS) == runs
    (folder / "copy.csv").write_text((folder / "wrong.csv").read_text())
    changed = run(world, f"right={folder / 'copy.csv'}", seed=5)
    settings = json.loads(index.store.read(schema.RUNS)["settings"].to_pylist()[-1])
    assert settings["methods"] == ["right"] and values(changed, "right")["agreement-exact", 0]["value"] == 0


def test_weights_count_and_a_sum_beats_its_heaviest_text(world):
    _, folder = world
    rows = "".join(f"{k},{0.1 if k else 0.9},{TEXTS[k]},0.5,{TEXTS[7]},0.2\n" for k in range(2))
    (folder / "le.csv").write_text("unit,weight0,concept0,weight1,concept1,bias\n" + rows)
    (folder / "first.csv").write_text(f"unit,label\n0,{TEXTS[0]}\n1,{TEXTS[7]}\n")
    found = run(world, folder / "le.csv", folder / "first.csv")
    given, first = values(found, "le"), values(found, "first")
    assert given["simulation", 0]["text"] == "0.9 concept 0 + 0.5 concept 7"
    assert given["agreement-exact", 0]["value"] == 1 and given["agreement-exact", 1]["value"] == 0
    assert 0.3 < given["simulation", 0]["value"] < first["simulation", 0]["value"]
    assert given["simulation", 1]["value"] > first["simulation", 1]["value"]


def test_texts_without_an_imported_embedding_are_counted_and_their_neurons_left_out(world):
    index, folder = world
    (folder / "new.csv").write_text(f"unit,label\n0,{TEXTS[0]}\n1,never heard of\n")
    found = run(world, folder / "new.csv")
    given = values(found, "new")
    assert given["simulation", 0]["value"] > 0.9
    assert "none of them is the embedding of its text" in given["simulation", 1]["note"]
    assert any(
        "texts without an imported embedding: 1 ('never heard of'" in n
        for n in found.settings["labels"]["new"]["notes"]
    )
    (folder / "none.csv").write_text("unit,label\n0,a\n1,b\n")
    runs = index.store.count(schema.RUNS)
    with pytest.raises(EvaluationError, match="none of the labels x can be judged"):
        run(world, f"x={folder / 'none.csv'}")
    with pytest.raises(EvaluationError, match="two files of labels are called 'right'"):
        run(world, folder / "right.csv", f"right={folder / 'wrong.csv'}")
    (folder / "far.csv").write_text("unit,label\n77,a\n")
    with pytest.raises(LabelError, match="has no label for a neuron of net/planted"):
        run(world, folder / "far.csv")
    assert index.store.count(schema.RUNS) == runs


def test_imported_labels_are_judged_by_their_name_as_those_of_a_file(world):
    index, folder = world
    index.import_labels(LAYER, folder / "wrong.csv", "kept")
    by_name = values(run(world, methods=("semanticlens", "kept")), "kept")
    by_file = values(run(world, f"file={folder / 'wrong.csv'}"), "file")
    assert by_name.keys() == by_file.keys()
    for key, row in by_name.items():
        assert row["value"] == pytest.approx(by_file[key]["value"]), key


def asked(folder, *more):
    np.save(folder / "T.npy", np.eye(WIDTH, dtype=np.float32))
    (folder / "T.txt").write_text("\n".join(TEXTS))
    (folder / "milan.csv").write_text(
        f"layer,unit,description\nplanted,0,{TEXTS[0]}\nplanted,1,{TEXTS[2]}\nconv1,2,x\n"
    )
    words = ["--text-embeddings", folder / "T.npy", "--texts", folder / "T.txt", "--method", "semanticlens"]
    command = ["evaluate", folder / "db", "--layer", LAYER, *words, "--labels", f"theirs={folder / 'milan.csv'}", *more]
    found = CliRunner().invoke(cli, list(map(str, command)))
    assert found.exception is None, found.output
    return found.stdout


_SAID = "theirs: labels made elsewhere (milan.csv, MILAN), not chosen on these choosing images"


def test_the_command_says_that_such_labels_were_not_chosen_here(world):
    out = asked(world[1])
    assert _SAID in out and "theirs: rows of other layers: 1 (conv1)" in out


@pytest.mark.slow
def test_the_report_says_it_too(world, tmp_path):
    asked(world[1], "--report", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    assert _SAID in page and "rows of other layers: 1 (conv1)" in page


def test_texts_that_fill_the_context_are_counted():
    class Encoder:
        @staticmethod
        def tokens(texts):
            rows = torch.zeros(len(texts), 6, dtype=torch.int64)
            for row, text in enumerate(texts):
                words = [1, *range(10, 10 + len(text.split())), 2][:6]
                rows[row, : len(words)] = torch.tensor(words)
            return {"text": rows}

    assert _overlong(Encoder(), ["a b", "a b c", "a b c d e f g"], "{}") == 2
    assert _overlong(object(), ["a b c d e f g"], "{}") == 0
