"""The sentence that a neuron's page says first: true to what is stored, and open about what is not known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planted import PLANTED, Served

from csp_index.records import NeuronKey
from csp_index.service.documents.verdict import below, scales, verdict

ROW: dict[str, Any] = {
    "label": "striped",
    "method": "csp",
    "state": "labelled",
    "confidence": 1.0,
    "uncertain": False,
    "null_percentile": 0.95,
    "probability": 0.83,
    "firing_rate": 0.032,
    "above_mean": None,
    "dead": False,
}
IMAGES = {"images": 5100, "min": 0.0, "max": 2.0}
UNSURE = "uncertain: stable in 61 of 100 resamples, rivals red 0.30"
THOUGH = "uncertain for this reason, though stable in 97 of 100 resamples"


@pytest.mark.parametrize(
    ("changed", "doubt", "expected"),
    [
        (
            {},
            "",
            "Fires on “striped”: sure, first in 100 of 100 resamples of its images; scores higher than 95 % of a "
            "random network's neurons; about 83 of 100 labels like it are right.",
        ),
        (
            {"null_percentile": None, "probability": None},
            "",
            "Fires on “striped”: sure, first in 100 of 100 resamples of its images; nobody compared it with a random "
            "network.",
        ),
        (
            {"uncertain": True, "confidence": 0.61, "null_percentile": None, "probability": None},
            UNSURE,
            "Fires on “striped”, perhaps: not sure, stable in 61 of 100 resamples, rivals red 0.30; nobody compared it "
            "with a random network.",
        ),
        (
            {"uncertain": True, "confidence": 0.97, "null_percentile": None, "probability": None},
            THOUGH,
            "Fires on “striped”, perhaps: not sure, though first in 97 of 100 resamples; nobody compared it with a "
            "random network.",
        ),
        (
            {"uncertain": None, "confidence": None, "null_percentile": None, "probability": None},
            "",
            "Fires on “striped”: by its score alone, nobody resampled its images; nobody compared it with a random "
            "network.",
        ),
        (
            {"above_mean": 0.4, "firing_rate": 1.0, "null_percentile": None, "probability": None},
            "",
            "Is highest on “striped”: sure, first in 100 of 100 resamples of its images; nobody compared it with a "
            "random network.",
        ),
        (
            {"method": "linear", "score": 0.9574, "uncertain": None, "confidence": None, "probability": None},
            "",
            "“striped” correlates with its activation at 0.957 over all images; scores higher than 95 % of a random "
            "network's neurons.",
        ),
        ({"method": "pinned"}, "", "A reader named it “striped”; fires on 3.2 % of 5,100 images."),
        (
            {"method": "random-label"},
            "",
            "A control says “striped”, which is no label but what chance would give; fires on 3.2 % of 5,100 images.",
        ),
        (
            {"label": None, "state": "unlabelled", "method": None},
            "",
            "Fires on 3.2 % of 5,100 images; it has no label yet.",
        ),
        (
            {"label": None, "state": "no-contrast"},
            "",
            "Fires on 3.2 % of 5,100 images; it has no label: no similar image leaves it silent enough.",
        ),
        (
            {"dead": True, "label": None, "state": "dead"},
            "",
            "Never fires: on none of the 5,100 indexed images is its activation above 0.",
        ),
    ],
)
def test_it_says_what_is_stored(changed: dict[str, Any], doubt: str, expected: str) -> None:
    assert verdict(ROW | changed, IMAGES, doubt, False) == expected  # type: ignore[arg-type]


def test_a_label_from_elsewhere_and_a_constant_neuron() -> None:
    said = verdict(ROW | {"method": "theirs"}, IMAGES, "", True)  # type: ignore[arg-type]
    assert "as theirs says" in said and "sure, first" not in said
    constant = verdict(ROW | {"above_mean": 0.0}, IMAGES | {"min": 2.0}, "", False)  # type: ignore[arg-type]
    assert constant == "Tells nothing apart: all 5,100 indexed images give it the same activation."


def test_scales_are_those_of_plain_counting(planted: Served) -> None:
    table = planted[0].neuron(NeuronKey.parse(f"{PLANTED}/1"))
    row = table.row(1, "csp")
    found = scales(table, row)
    columns = {"score": table.methods["csp"].scores, "firing_rate": table.firing_rates, "max": table.maxima}
    for name, values in columns.items():
        others = [float(value) for at, value in enumerate(values) if at != 1 and not np.isnan(value)]
        own = float(values[1])
        expected = sum(1.0 if value < own else 0.5 if value == own else 0.0 for value in others) / len(others)
        assert found[name] == pytest.approx(expected)  # type: ignore[literal-required]
    assert scales(table, row | {"method": None, "lead": None})["score"] is None  # type: ignore[typeddict-item]


def test_nothing_is_compared_with_itself_alone() -> None:
    assert below(np.array([np.nan, 3.0]), 3.0) is None and below(np.array([1.0, 3.0]), None) is None
    assert below(np.array([3.0, 3.0, 3.0]), 3.0) == 0.5
