"""Results as an Arrow stream, which other libraries take as it is."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from csp_index.query.results import Labels, SqlResult, Tabular
from csp_index.records import Label, LabelScore, NeuronKey

ROWS = SqlResult(pa.table({"n": [1, 2, 3], "text": ["a", None, "ü"]}))
LABELS = Labels(
    (
        Label(NeuronKey("m", "l", 0), "csp", "labelled", (LabelScore("red", 0.5), LabelScore("blue", 0.25))),
        Label(NeuronKey("m", "l", 1), "csp", "dead"),
    )
)


@pytest.mark.parametrize("result", [ROWS, LABELS], ids=["sql", "labels"])
def test_arrow_and_duckdb_read_a_result_as_a_stream(result: Tabular) -> None:
    assert pa.table(result).equals(result.to_arrow())
    assert duckdb.sql("SELECT count(*) FROM result").fetchall() == [(result.to_arrow().num_rows,)]


def test_polars_reads_a_result_as_a_stream() -> None:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    assert polars.DataFrame(ROWS)["n"].to_list() == [1, 2, 3]
    assert polars.DataFrame(LABELS.best)["text"].to_list() == ["red", None]
    assert polars.DataFrame(LABELS)["text"].to_list() == ["red", "blue", None]


def test_labels_are_a_sequence_in_all_but_its_type() -> None:
    first, second = LABELS
    assert [*reversed(LABELS)] == [second, first]
    assert (LABELS.index(second), LABELS.count(first), first in LABELS) == (1, 1, True)
    assert [label.neuron.neuron for label in LABELS[1:]] == [1]


def test_pandas_reads_a_result_as_a_stream() -> None:
    pandas = pytest.importorskip("pandas", minversion="3.0", reason="no pandas that reads Arrow streams is installed")
    assert pandas.DataFrame.from_arrow(ROWS)["n"].tolist() == ROWS.to_pandas()["n"].tolist() == [1, 2, 3]


def test_best_has_one_row_a_neuron() -> None:
    rows = LABELS.best.rows()
    assert [(row["neuron"], row["text"], row["state"]) for row in rows] == [
        ("m/l/0", "red", "labelled"),
        ("m/l/1", None, "dead"),
    ]
    assert "rank" not in rows[0]


def test_results_are_short_in_a_line() -> None:
    assert repr(ROWS) == "SqlResult(3 rows: n, text)"
    assert repr(LABELS) == "Labels(2: m/l/0: red, m/l/1: dead)"
    assert repr(LABELS[0]) == "Label(m/l/0: 'red' 0.500, csp)"
    assert repr(LABELS[1]) == "Label(m/l/1: dead, csp)"
    evil = Labels((Label(NeuronKey("m", "l", 0), "csp", "labelled", (LabelScore("\x1b[2J", 0.5),)),))
    assert "\x1b" not in repr(evil) and "\x1b" not in repr(evil[0])
