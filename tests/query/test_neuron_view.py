"""One neuron as a notebook shows it."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from csp_index.cli.formatting import say_neuron
from csp_index.query.neuron_view import NeuronView
from csp_index.records import ExamplePair, Label, LabelScore, NeuronKey

STATISTICS = {"images": 7, "mean": 0.25, "std": 1.0, "min": -1.0, "max": 3.5, "firing_rate": 0.5, "quantiles": [0.1]}
LABEL = Label(
    NeuronKey("<i>m</i>", "l", 4),
    "csp",
    "labelled",
    (LabelScore("<b>red</b>", 0.5), LabelScore("blue", 0.25)),
    note="few <u>images</u>",
)
PAIRS = (ExamplePair(0, 3, 3.5, 5, 0.0, 0.75), ExamplePair(1, 4, 2.0))
NAMES = {3: "<script>.png", 4: "four.png", 5: "five & six.png"}


def test_a_notebook_shows_label_statistics_and_pairs_as_text() -> None:
    page = NeuronView(LABEL, STATISTICS, PAIRS, NAMES)._repr_html_()
    for text in ("&lt;b&gt;red&lt;/b&gt;", "&lt;i&gt;m&lt;/i&gt;/l/4", "few &lt;u&gt;images", "&lt;script&gt;.png"):
        assert text in page
    assert not re.search("<(b>red|i>m|u>|script)", page)
    for text in (
        "<td>blue</td>",
        "<th>firing_rate</th>",
        "<td>3.5</td>",
        "<td>five &amp; six.png</td>",
        "<td>0.75</td>",
    ):
        assert text in page
    assert page.count("<table>") == page.count("</table>") == 3


def test_a_dead_neuron_has_no_pairs_to_show() -> None:
    dead = replace(LABEL, state="dead", labels=(), note="never fires")
    page = NeuronView(dead, STATISTICS, (), {})._repr_html_()
    assert "<b>dead</b>" in page and "never fires" in page and page.count("<table>") == 2


def test_a_constant_neuron_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    same = STATISTICS | {"min": 2.0, "max": 2.0, "mean": 2.0, "firing_rate": 1.0, "quantiles": [2.0] * 11}
    view = NeuronView(replace(LABEL, state="constant", labels=()), same, (), {})
    say_neuron(view)
    assert "max 2, the same activation on every image\n" in capsys.readouterr().out
    assert view.as_json()["above_mean"] == 0.0
