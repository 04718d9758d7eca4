"""The charts of the report, and how often a probability holds."""

from __future__ import annotations

import re

import pytest
from judged import made, row, tiny

from csp_index.evaluation.report.charts import interval_chart, to_svg
from csp_index.evaluation.report.summary import summarise
from csp_index.evaluation.report.write import calibration_rows


def test_charts_take_the_pages_colours_and_name_everything_as_text():
    rows = summarise(tiny(neurons=6), rounds=20)
    drawn = to_svg(interval_chart(rows, "simulation", "pmi"), "one", 'a "chart" <of> it')
    assert drawn.startswith('<svg class="chart" role="img" aria-label="a &quot;chart&quot; &lt;of&gt; it"')
    assert "currentColor" in drawn and ">csp<" in drawn and "<style" not in drawn
    assert not re.search(r"#0[12]0[12]", drawn)
    assert drawn == to_svg(interval_chart(rows, "simulation", "pmi"), "one", 'a "chart" <of> it')


def test_calibration_counts_how_often_a_probability_holds():
    rows = [row(i, "csp", "confidence", 0.85 + 0.001 * i) for i in range(10)]
    rows += [row(i, "csp", "agreement-exact", float(i < 7)) for i in range(10)]
    rows += [row(10, "csp", "confidence", 0.2), row(10, "csp", "agreement-exact", None)]
    rows += [row(11, "csp", "confidence", None), row(11, "csp", "agreement-exact", 1.0)]
    rows += [row(i, "pmi", "agreement-exact", 1.0) for i in range(10)]
    (found,) = calibration_rows(made(rows))
    assert (found["method"], found["count"], found["share"]) == ("csp", 10, pytest.approx(0.7))
    assert found["predicted"] == pytest.approx(0.8545) and found["low"] < 0.7 < found["high"]
    assert calibration_rows(tiny()) == []
