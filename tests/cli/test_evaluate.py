"""`csp-index evaluate` as a newcomer runs it: table, JSON, report, the metrics' own test, errors in one line."""

from __future__ import annotations

import json
import re
from functools import cache

import pyarrow as pa
import pytest
from click.testing import CliRunner
from fakes import write_images

from csp_index import CandidateTexts, NetworkSource, open_index
from csp_index.cli import cli
from csp_index.cli.evaluate import _say_summary
from csp_index.errors import CspIndexError
from csp_index.evaluation.evaluation import Evaluation
from csp_index.evaluation.metrics import sanity
from csp_index.evaluation.metrics.table import HEADLINES
from csp_index.store import schema

LAYER = "net/concepts"
METHODS = ["--method", "semanticlens", "--method", "csp:gamma=0.5", "--method", "random-label"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An index of 80 images by the fakes, its vocabulary, and a truth file that calls half of the neurons so."""
    place = tmp_path_factory.mktemp("judging")
    images = write_images(place / "images", 80)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index = open_index(place / "db")
    index.add_images(images, encoders=["python:fakes:encoder"], networks=[network])
    index.label(LAYER, vocabulary=["red", "green", "blue", "<b>bold</b>"], templates="none")
    (place / "truth.csv").write_text("neuron,label,kind\n" + "".join(f"{k},red,{'ab'[k % 2]}\n" for k in range(6)))
    (place / "classes.txt").write_text("".join(f"{name}\n" for name in ["red", "green", "blue", *"uvwxyz", "dead"]))
    return place


@pytest.fixture(scope="module", autouse=True)
def checked_once():
    """Let the metrics' own test run once for every seed: it needs no index, so nothing here changes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sanity, "check_metrics", cache(sanity.check_metrics))
        yield


def run(*arguments, code=0):
    found = CliRunner().invoke(cli, ["evaluate", *map(str, arguments)])
    if code == 0:
        assert found.exception is None, found.output
    return found


def test_the_table_names_methods_metrics_kinds_and_what_was_left_out(folder):
    out = run(folder / "db", "--layer", LAYER, "--truth", folder / "truth.csv", *METHODS).stdout
    for word in ("kind a", "kind b", "all neurons", "csp:gamma=0.5", "agreement-exact", "simulation", "auprc"):
        assert word in out
    assert "labels chosen on 40 images, judged on 40" in out
    assert "not evaluated: generation: no image generator is given" in out


def test_a_method_is_one_line_and_its_figures_are_aligned_whatever_their_signs(capsys):
    methods = ["contrastive-pmi", "csp", "semanticlens", "random-label"]
    figures = [(-0.15, -0.2, -0.1), (0.15, -0.05, 0.25), (-0.001, -0.004, 0.002), (None, None, None)]
    rows = [
        {"method": method, "metric": metric, "kind": "all", "neurons": 9} | {"mean": mean, "low": low, "high": high}
        for method, (mean, low, high) in zip(methods, figures, strict=True)
        for metric in HEADLINES
    ]
    settings = {"layer": LAYER, "methods": methods, "split": {"choosing": 40, "judging": 40}}
    settings |= {"same_encoder": False, "judge": "e", "detection": "metadata columns"}
    _say_summary(Evaluation(pa.table({}), settings, "run", {}), rows, [])
    head, *lines = capsys.readouterr().out.splitlines()[2:7]
    assert head.split() == ["method", *HEADLINES]
    assert [line.split()[0] for line in lines] == methods
    shown = ["-0.15 (-0.20..-0.10)", " 0.15 (-0.05..0.25)", " 0.00 (0.00..0.00)"]
    places = {
        tuple(m.start() for m in re.finditer(re.escape(text), line)) for text, line in zip(shown, lines, strict=False)
    }
    assert len(places) == 1 and len(places.pop()) == len(HEADLINES)
    assert lines[3].split()[1:] == ["-"] * len(HEADLINES)


def test_agreement_by_degree_is_a_line_per_method(folder, tmp_path):
    (tmp_path / "words.csv").write_text("word,item\n" + "".join(f"red,{k}\n" for k in range(4)) + "green,0\nblue,9\n")
    graded = ["--truth", folder / "truth.csv", "--word-items", tmp_path / "words.csv", *METHODS]
    out = run(folder / "db", "--layer", LAYER, *graded).stdout
    at = out.index("agreement with the truth, over all neurons:")
    line = next(line for line in out[at:].splitlines() if line.startswith("  random-label: "))
    shares = dict(
        reversed(part.split(" ")[:2]) for part in line.partition(": ")[2].split(", ") if "neurons" not in part
    )
    assert list(shares) == ["exact", "overlap", "level", "narrower", "same", "broader"]
    rows = json.loads(run(folder / "db", "--layer", LAYER, *graded, "--json").stdout)["summary"]
    means = {row["metric"]: row["mean"] for row in rows if (row["method"], row["kind"]) == ("random-label", "all")}
    assert float(shares["overlap"]) == pytest.approx(means["agreement-overlap"], abs=0.005)
    assert float(shares["narrower"][:-1]) / 100 == pytest.approx(means["agreement-narrower"], abs=0.005)
    refused = run(folder / "db", "--layer", LAYER, "--word-items", tmp_path / "words.csv", code=1)
    assert "give the truth, too" in str(refused.exception)


def test_json_holds_every_mean_with_its_interval(folder):
    found = json.loads(run(folder / "db", "--layer", LAYER, *METHODS, "--json").stdout)
    rows = {(row["method"], row["metric"]): row for row in found["summary"] if row["kind"] == "all"}
    row = rows["semanticlens", "simulation"]
    assert row["low"] <= row["mean"] <= row["high"]
    assert row["neurons"] + row["missing"] == 10
    assert found["settings"]["split"]["judging"] == 40
    assert "agreement" in found["skipped"]


def test_the_report_is_one_page_that_loads_nothing_and_shows_labels_as_text(folder, tmp_path):
    run(folder / "db", "--layer", LAYER, *METHODS, "--seed", 5, "--report", tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<b>bold</b>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page
    assert "data:image/png;base64," in page
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "index.html", "evaluation.json", "values.csv", "summary.csv", "comparisons.csv",
    }  # fmt: skip


@pytest.mark.slow
def test_class_names_judge_the_output_neurons_of_a_classifier(folder):
    asked = [folder / "db", "--layer", LAYER, "--truth", folder / "classes.txt", "--method", "semanticlens"]
    run(*asked, "--report", folder / "known", "--json")
    rows = json.loads((folder / "known" / "evaluation.json").read_text())["values"]
    values = [dict(zip(rows["columns"], row, strict=True)) for row in rows["rows"]]
    names = (folder / "classes.txt").read_text().split()
    judged = [row for row in values if row["metric"] == "agreement-exact" and row["value"] is not None]
    assert len(judged) >= 5
    for row in judged:
        assert row["value"] == float(row["text"] == names[row["neuron"]])


@pytest.mark.slow
def test_perturbed_and_generated_images_and_a_hierarchy(folder, tmp_path):
    (tmp_path / "h.csv").write_text("child,parent\nred,colour\ngreen,colour\nblue,colour\n")
    more = ["--perturb", "--generator", "python:fakes:painter", "--generated", 3, "--hierarchy", tmp_path / "h.csv"]
    found = json.loads(run(folder / "db", "--layer", LAYER, *METHODS, *more, "--seed", 3, "--json").stdout)
    metrics = {row["metric"] for row in found["summary"] if row["neurons"]}
    assert {"stable-noise", "stable-jpeg", "stable-blur", "stable-dark", "cosy-auc", "depth", "sensitivity"} <= metrics
    assert {"hierarchy", "generation", "perturbed images"}.isdisjoint(found["skipped"])


def test_the_metrics_own_test_needs_no_index():
    out = run("--check-metrics").stdout
    verdict = {line.split()[1]: line.split()[0] for line in out.splitlines()[1:]}
    assert [verdict[name] for name in ("pearson", "cosine", "auprc", "f1", "iou")] == ["passes"] * 5
    assert [verdict[name] for name in ("auroc", "auroc-inverse", "mad", "balanced-accuracy")] == ["FAILS"] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "net/nothing"], "layer net/nothing is not in the index"),
        (["--layer", LAYER, "--truth", "absent.csv"], "absent.csv cannot be read"),
        (["--layer", LAYER, "--hierarchy", "absent.csv"], "absent.csv"),
        (["--layer", LAYER, "--method", "csp:gamma=x"], "gamma is 'x': expected a finite number"),
        (["--layer", LAYER, "--held-out", "0"], "held-out share is 0.0"),
        (["--layer", LAYER, "--alpha", "2"], "alpha is 2.0"),
        (["--layer", LAYER, "--generator", "python:fakes:absent"], "has no function 'absent'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_run(folder, arguments, message):
    runs = open_index(folder / "db").store.count(schema.RUNS)
    found = run(folder / "db", *arguments, code=1)
    assert isinstance(found.exception, CspIndexError), found.output
    assert message in str(found.exception)
    assert "\n" not in str(found.exception)
    assert open_index(folder / "db").store.count(schema.RUNS) == runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--check-metrics", "--report", "out"], "--report needs an evaluation"),
        (["nowhere.db", "--check-metrics"], "needs both DB and --layer"),
        (["--layer", LAYER], "needs both DB and --layer"),
    ],
)
def test_options_that_cannot_be_honoured_are_wrong_usage(arguments, message):
    assert message in run(*arguments, code=2).output


def test_a_report_that_cannot_be_written_is_told_before_anything_is_judged(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    rows = open_index(folder / "db").store.count(schema.EVALUATIONS)
    for place in (tmp_path, ""):
        found = run(folder / "db", "--layer", LAYER, "--seed", 99, "--report", place, "--json", code=1)
        assert isinstance(found.exception, CspIndexError) and found.stdout == ""
    assert open_index(folder / "db").store.count(schema.EVALUATIONS) == rows


def test_one_json_document_for_an_evaluation_and_the_metrics_own_test(folder):
    found = json.loads(run(folder / "db", "--layer", LAYER, *METHODS, "--check-metrics", "--json").stdout)
    assert found["check_metrics"]["passes"]["f1"] is True
    assert found["summary"]


def test_a_kind_that_looks_like_markup_is_printed_as_it_is(folder, tmp_path):
    (tmp_path / "truth.csv").write_text("neuron,label,kind\n0,red,[/red]\n1,red,[bold]x\n")
    out = run(folder / "db", "--layer", LAYER, *METHODS, "--truth", tmp_path / "truth.csv").stdout
    assert "[/red]" in out and "[bold]x" in out


def test_a_kind_called_all_is_refused(folder, tmp_path):
    (tmp_path / "truth.csv").write_text("neuron,label,kind\n0,red,all\n")
    found = run(folder / "db", "--layer", LAYER, "--truth", tmp_path / "truth.csv", code=1)
    assert "means every neuron" in str(found.exception)


def test_evaluate_without_anything_says_what_it_needs():
    found = run(code=2)
    assert "needs DB and --layer" in found.output


def test_candidate_texts_made_elsewhere_are_judged_by_their_own_vectors(folder):
    import torch

    index = open_index(folder / "db")
    texts = CandidateTexts(("east", "west"), torch.eye(2, 12), key="made")
    found = index.evaluate(LAYER, vocabulary=texts)
    assert set(found.values["text"].drop_null().to_pylist()) <= {"east", "west"}
