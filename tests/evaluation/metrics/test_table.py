"""The table of metrics: names that do not repeat, ranges, families, and needs that are options."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from typing import get_args

from csp_index.evaluation.metrics import table
from csp_index.evaluation.metrics.families import FAMILIES, Family
from csp_index.evaluation.metrics.table import HEADLINES, METRICS, NEEDS, named
from csp_index.evaluation.options import EvaluationOptions
from csp_index.evaluation.perturbed_copies import PERTURBATIONS


def test_every_row_has_a_name_of_its_own_a_summary_and_a_range_in_order():
    assert len(METRICS) == len(table._ROWS)
    for name, metric in METRICS.items():
        assert metric.name == name and metric.summary and metric.undefined
        assert not metric.summary.endswith(".")
        assert metric.low is None or metric.high is None or metric.low < metric.high


def test_every_family_is_described_and_has_a_metric():
    assert set(FAMILIES) == set(get_args(Family))
    assert all(named(family) for family in FAMILIES)


def test_the_metrics_say_which_way_is_better():
    assert {name for name, metric in METRICS.items() if metric.higher_is_better is None} == {"agreement-level"}
    assert {name for name, metric in METRICS.items() if metric.higher_is_better is False} == {
        "agreement-rank",
        "agreement-narrower",
        "agreement-broader",
        "polysemanticity",
        "redundancy",
        "label-images",
        "label-neurons",
        "label-shared",
        "prediction-set",
        "contrast-duplicates",
        "contrast-poor",
    }


def test_what_a_metric_needs_is_an_option_of_an_evaluation():
    options = {field.name for field in fields(EvaluationOptions)}
    assert set(get_args(table.Need)) == set(NEEDS) <= options
    assert {need for metric in METRICS.values() for need in metric.needs} == set(NEEDS)


def test_every_perturbation_has_its_metric():
    assert {f"stable-{kind}" for kind in PERTURBATIONS} | {"sensitivity"} == {
        name for name, metric in METRICS.items() if "perturb" in metric.needs
    }


def test_the_headlines_are_metrics_of_different_families_but_for_detection_and_agreement():
    families = [METRICS[name].family for name in HEADLINES]
    assert sorted(families) == sorted([*set(families), "detection", "agreement", "agreement"])


def test_the_table_loads_no_torch():
    code = "import sys, csp_index.evaluation.metrics.table; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
