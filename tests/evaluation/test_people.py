"""What people say of labels, as the report of an evaluation has it: agreement, and a row for each method."""

from __future__ import annotations

import json

import numpy as np
import pytest
from reviewed import LAYER, WORDS, make_reviewed

from csp_index import EvaluationOptions
from csp_index.evaluation.metrics.agreement import cohen_kappa, verdict_correlation
from csp_index.evaluation.options import parse_methods
from csp_index.evaluation.people import agreement_line, agreement_rows, method_line, people_of
from csp_index.labelling.review.pinned import layer_digest
from csp_index.records import LayerKey, NeuronKey
from csp_index.store import catalog
from csp_index.studies.reviewing.ratings import Question, write_rating

RATED = 6  # pictures of each label


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """An index, its evaluation, and the verdicts of two people by (neuron, image)."""
    folder = tmp_path_factory.mktemp("people")
    index = make_reviewed(folder)
    options = EvaluationOptions(methods=parse_methods(["csp", "semanticlens"]), logit_scale=10.0)
    evaluation = index.evaluate(LAYER, options, vocabulary=WORDS)
    target = catalog.layer(index.store, LayerKey.parse(LAYER))
    texts = {
        row["neuron"]: row["text"] for row in evaluation.values.to_pylist() if row["method"] == "csp" and row["text"]
    }
    rng, said = np.random.default_rng(0), {}
    for neuron in (0, 1):
        activations = index.activations(f"{LAYER}/{neuron}")
        for image in range(RATED):
            ann, bob = ("yes" if activations[image] > 0 else "no"), rng.choice(["yes", "no", "unsure"])
            said[neuron, image] = (ann, str(bob))
            question = Question(
                NeuronKey("net", "l", neuron), texts[neuron], image, "csp", "", layer_digest(target), "importance",
                0.5 + image % 3, float(activations[image]),
            )  # fmt: skip
            write_rating(index.store, question, "ann", "unsure")  # she thinks again
            for rater, verdict in zip(("ann", "bob"), said[neuron, image], strict=True):
                write_rating(index.store, question, rater, verdict)
    return index, evaluation, said


def test_agreement_and_methods_are_those_of_the_last_ratings(judged):
    index, evaluation, said = judged
    people = people_of(index.store, evaluation)
    assert (people.raters, people.ratings) == (2, 4 * RATED)
    votes = np.array([[["yes", "no", "unsure"].index(verdict) for verdict in pair] for pair in said.values()])
    rows = {row["measure"]: row for row in people.agreement}
    assert rows["Cohen's kappa"]["value"] == pytest.approx(cohen_kappa(votes[:, 0], votes[:, 1], 3).value)
    assert rows["agreement of pairs"]["value"] == pytest.approx((votes[:, 0] == votes[:, 1]).mean())
    assert rows["Fleiss' kappa"]["low"] <= rows["Fleiss' kappa"]["value"] <= rows["Fleiss' kappa"]["high"]
    of_csp = next(row for row in people.methods if row["method"] == "csp")
    assert of_csp["rated"] == 2 and of_csp["labels"] == 5
    expected = []
    for neuron in (0, 1):
        activations = index.activations(f"{LAYER}/{neuron}")
        rated = {
            image: [{"yes": 1.0, "no": 0.0}[one] for one in said[neuron, image] if one != "unsure"]
            for image in range(RATED)
        }
        kept = [image for image in rated if rated[image]]
        verdicts = np.array([np.mean(rated[image]) for image in kept])
        expected.append(verdict_correlation(verdicts, activations[kept], np.array([0.5 + image % 3 for image in kept])))
    assert of_csp["correlation"] == pytest.approx(np.mean(expected), abs=1e-5)


def test_lines_say_the_figures_and_what_is_undefined(judged):
    index, evaluation, _ = judged
    people = people_of(index.store, evaluation)
    assert agreement_line(people.agreement[0]).startswith("agreement of pairs 0.")
    assert "csp: 2 of 5 labels rated, true of this share of the activation " in method_line(people.methods[0])
    same = agreement_rows(np.zeros((5, 2), int), ["ann", "bob"])
    assert agreement_line(same[1]) == "Fleiss' kappa: undefined, because all say the same (5 labels on pictures)"
    assert agreement_rows(np.array([[0, -1], [-1, 0]]), ["ann", "bob"]) == []


def test_the_report_and_its_data_have_what_people_say(judged, tmp_path, uncharted):
    index, evaluation, _ = judged
    page = index.report(evaluation, tmp_path / "report").read_text()
    assert 'id="people"' in page and "Cohen&#39;s kappa" in page and f"{2 * RATED} pairs" not in page
    data = json.loads((tmp_path / "report" / "evaluation.json").read_text())["people"]
    assert data["raters"] == 2 and len(data["agreement"]) == 3 and data["methods"]


def test_without_ratings_the_report_has_no_such_part(tmp_path, uncharted):
    index = make_reviewed(tmp_path)
    options = EvaluationOptions(methods=parse_methods(["csp"]), logit_scale=10.0)
    evaluation = index.evaluate(LAYER, options, vocabulary=WORDS)
    assert people_of(index.store, evaluation).ratings == 0
    assert 'id="people"' not in index.report(evaluation, tmp_path / "report").read_text()
