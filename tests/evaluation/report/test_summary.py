"""The figures of an evaluation: what enters a mean, what is compared with what, and who wins."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from judged import METHODS, evaluation, made, row

from csp_index.errors import EvaluationError
from csp_index.evaluation.evaluation import VALUES, Evaluation
from csp_index.evaluation.metrics.intervals import holm, mean_interval, signed_rank
from csp_index.evaluation.metrics.table import METRICS
from csp_index.evaluation.report.summary import (
    ALL,
    check_not_alone,
    compare,
    make_grid,
    missing_notes,
    summarise,
    winners,
)


@pytest.fixture(scope="module")
def judged():
    return evaluation()


@pytest.fixture(scope="module")
def summary(judged):
    return summarise(judged, rounds=200).to_pylist()


@pytest.fixture(scope="module")
def comparisons(judged):
    return compare(judged, ["simulation", "label-images"], rounds=200).to_pylist()


def line_of(table, **where):
    found = [line for line in table if all(line[name] == value for name, value in where.items())]
    assert len(found) == 1, where
    return found[0]


def values_of(judged, method, metric, kind=None):
    rows = judged.values.to_pylist()
    return {
        r["neuron"]: r["value"]
        for r in rows
        if r["method"] == method and r["metric"] == metric and kind in (None, r["kind"]) and r["value"] is not None
    }


def test_means_are_those_of_the_rows_and_missing_neurons_are_counted(judged, summary):
    for method, metric, kind in itertools.product(METHODS, ("simulation", "consistency"), ("single", "pair", ALL)):
        held = list(values_of(judged, method, metric, None if kind == ALL else kind).values())
        line = line_of(summary, method=method, metric=metric, kind=kind)
        assert line["mean"] == pytest.approx(np.mean(held))
        assert line["low"] <= line["mean"] <= line["high"]
        assert (line["neurons"], line["missing"]) == (len(held), (40 if kind == ALL else 20) - len(held))


def test_kinds_come_apart_and_all_neurons_last(judged, summary):
    assert make_grid(judged).groups == ("single", "pair", ALL)
    assert [line["kind"] for line in summary if line["metric"] == "f1"] == [
        kind for kind in ("single", "pair", ALL) for _ in METHODS
    ]


def test_methods_come_as_the_settings_name_them_and_metrics_as_the_table_does():
    metrics = ("zebra", "f1", "agreement-exact", "simulation")
    rows = [row(0, method, metric, 0.5) for method in ("b", "x", "a", "") for metric in metrics]
    grid = make_grid(made(rows, methods=["a", "b"]))
    assert grid.methods == ("a", "b", "x", "")
    known = [name for name in METRICS if name in metrics]
    assert grid.metrics == (*known, "zebra") and len(known) == 3


def test_a_neurons_own_metrics_have_no_method_and_are_never_compared(judged, summary):
    assert line_of(summary, metric="clarity", kind=ALL)["method"] == ""
    assert compare(judged, ["clarity"]).num_rows == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.none(), st.sampled_from([math.nan, math.inf, -math.inf]), st.floats(-1e6, 1e6, allow_subnormal=False)
        ),
        max_size=12,
    )
)
def test_nothing_but_finite_values_enters_a_mean(values):
    rows = [row(place, "csp", "simulation", 1.0, kind="single") | {"value": v} for place, v in enumerate(values)]
    table = summarise(made(rows, methods=["csp"]), rounds=5)
    finite = [value for value in values if value is not None and math.isfinite(value)]
    for line in table.to_pylist():
        assert (line["neurons"], line["missing"]) == (len(finite), len(values) - len(finite))
        assert line["mean"] == (pytest.approx(np.mean(finite), abs=1e-6) if finite else None)
        ends = [line["low"], line["high"]]
        assert ends == [None, None] if not finite else all(map(math.isfinite, ends))
    assert table.num_rows == (2 if values else 0)


def test_a_comparison_is_the_paired_test_on_the_neurons_of_both():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 30), rng.normal(size=30)
    rows = [row(i, "a", "simulation", float(a[i])) for i in range(25)]
    rows += [row(i, "b", "simulation", float(b[i])) for i in range(5, 30)]
    found = compare(made(rows, methods=["a", "b"]), rounds=300, seed=3).to_pylist()
    difference = torch.from_numpy(a[5:25] - b[5:25])[None]
    test = mean_interval(difference, rounds=300, seed=3)
    line = line_of(found, kind=ALL)
    assert line["neurons"] == int(test.count) == 20
    assert [line[name] for name in ("difference", "low", "high", "p_value")] == pytest.approx(
        [float(test.mean), float(test.low), float(test.high), *signed_rank(difference)]
    )


def test_holm_corrects_within_one_metric_and_kind(comparisons):
    for metric, kind in itertools.product(("simulation", "label-images"), ("single", "pair", ALL)):
        block = [line for line in comparisons if (line["metric"], line["kind"]) == (metric, kind)]
        assert len(block) == 10
        assert tuple(line["p_holm"] for line in block) == holm([line["p_value"] for line in block])


def test_the_better_method_follows_the_direction_of_the_metric(comparisons):
    pair = {"method_a": METHODS[0], "method_b": METHODS[-1], "kind": ALL}
    up, down = line_of(comparisons, metric="simulation", **pair), line_of(comparisons, metric="label-images", **pair)
    assert up["difference"] > 0 > down["difference"]
    assert up["better"] == down["better"] == METHODS[0]


def test_no_method_is_better_where_the_test_is_silent():
    rng = np.random.default_rng(0)
    rows = [row(i, method, "simulation", float(rng.normal())) for i in range(12) for method in "ab"]
    rows += [row(i, method, "f1", float(method == "a")) for i in range(3) for method in "ab"]  # too few for a test
    rows += [row(i, method, "zebra", float(method == "a")) for i in range(12) for method in "ab"]  # no known direction
    found = [line for line in compare(made(rows), rounds=100).to_pylist() if line["kind"] == ALL]
    assert [line["better"] for line in found] == ["", "", ""]
    assert line_of(found, metric="f1")["p_holm"] is None
    assert line_of(found, metric="zebra")["p_holm"] < 0.05


def test_winners_gain_in_the_metrics_own_direction(judged):
    for metric, sign in (("simulation", 1), ("label-images", -1)):
        a, b = (values_of(judged, method, metric) for method in (METHODS[0], METHODS[2]))
        gains = {neuron: sign * (a[neuron] - b[neuron]) for neuron in a.keys() & b.keys()}
        found = winners(judged, metric, METHODS[0], METHODS[2], 3)
        best = sorted(gains, key=gains.__getitem__)[-3:][::-1]
        assert [comparison.neuron for comparison in found.gains] == [f"cnn/concepts/{neuron}" for neuron in best]
        assert found.gains[0].gain == pytest.approx(gains[best[0]])
        assert all(comparison.gain < 0 for comparison in found.losses)
        assert len(found.losses) == min(3, sum(gain < 0 for gain in gains.values()))


def test_winners_carry_both_labels_and_leave_ties_out():
    rows = [row(0, "a", "f1", 1.0, text="red star"), row(0, "b", "f1", 0.0, text="star")]
    rows += [row(1, method, "f1", 1.0) for method in "ab"]
    rows += [row(2, "a", "f1", None), row(2, "b", "f1", 1.0)]
    found = winners(made(rows), "f1", "a", "b", 5)
    assert [(comparison.neuron, comparison.text_a, comparison.text_b) for comparison in found.gains] == [
        ("cnn/concepts/0", "red star", "star")
    ]
    assert found.losses == ()


def test_what_an_evaluation_lacks_is_said_in_one_line(judged):
    with pytest.raises(EvaluationError, match="metric 'acuity' is not in this evaluation"):
        compare(judged, ["acuity"])
    with pytest.raises(EvaluationError, match="metric 'f1' of method 'nobody' is not"):
        winners(judged, "f1", "nobody", "csp", 3)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(3, "csp", "f1", 0.1), row(3, "csp", "f1", 0.2)], "has f1 of cnn/concepts/3 by csp twice"),
        ([row(0, "a", "f1", 0.1, kind="x"), row(0, "b", "f1", 0.1, kind="y")], "is of kind 'x' and 'y'"),
        ([row(0, "a", "f1", 0.1, kind="all")], "kind 'all'"),
    ],
)
def test_contradictions_are_refused(rows, message):
    with pytest.raises(EvaluationError, match=message):
        make_grid(made(rows))


def test_a_neuron_keeps_its_kind_where_one_row_lacks_it():
    assert make_grid(made([row(0, "", "clarity", 0.1), row(0, "a", "f1", 0.1, kind="x")])).kinds == ("x",)


def test_cosys_metrics_never_stand_alone():
    alone = [row(0, "a", "cosy-auc", 0.9), row(0, "a", "dma", 0.5), row(0, "", "clarity", 0.5)]
    with pytest.raises(EvaluationError, match="cosy-auc, dma would stand alone") as caught:
        check_not_alone(make_grid(made(alone)))
    assert "\n" not in str(caught.value)
    with pytest.raises(EvaluationError, match="alone"):  # a companion without a value is none
        check_not_alone(make_grid(made([*alone, row(0, "a", "simulation", None)])))
    check_not_alone(make_grid(made([*alone, row(0, "a", "simulation", 0.4)])))
    check_not_alone(make_grid(made([row(0, "a", "cosy-auc", None), row(0, "", "clarity", 0.5)])))


def test_missing_values_are_told_by_reason(judged):
    first, second, third = missing_notes(judged)
    assert first.reason.startswith("no other labeled neuron") and first.metrics == ("consistency",)
    assert (first.neurons, first.values, first.methods) == (32, 160, METHODS)
    assert second.reason.startswith("no label") and second.neurons == 1
    assert third.metrics == ("cosy-auc",) and third.values == 5


def test_an_evaluation_without_rows_has_no_figures():
    empty = Evaluation(VALUES.empty_table(), {})
    assert summarise(empty).num_rows == compare(empty).num_rows == 0
    assert missing_notes(empty) == []


def test_chunked_values_are_read_like_whole_ones(judged, summary):
    parts = [judged.values.slice(start, 500) for start in range(0, judged.values.num_rows, 500)]
    again = Evaluation(pa.concat_tables(parts), judged.settings)
    assert summarise(again, rounds=200).to_pylist() == summary
