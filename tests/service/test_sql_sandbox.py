"""SQL in processes of their own: the same answers as in this one, within limits, and nothing left behind."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from fakes import write_images
from sandboxed import LAYER, make_index, runner_over
from starlette.testclient import TestClient

from csp_index import Index, open_index
from csp_index.errors import BusyError, NotFoundError, QueryError, SettingError
from csp_index.query.sql import SqlLimits, run_sql
from csp_index.service import sql_sandbox
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings
from csp_index.service.sql_sandbox import SqlAnswer, SqlRunner, write_file, write_rows


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("indexed"))


@pytest.fixture(scope="module")
def runner(index: Index) -> Iterator[SqlRunner]:
    made = runner_over(index, sql_rows=1000, sql_bytes=2**16)
    yield made
    made.close()


def test_answers_are_those_of_this_process_cut_to_the_limits(index, runner):
    for statement in (
        "SELECT address, text, score, rank FROM labels WHERE rank = 0 ORDER BY address",
        f"SELECT image_id, activation FROM activations('{LAYER}/2') ORDER BY image_id",
    ):
        answer = runner.run(statement)
        assert answer.table.equals(index.sql(statement).table)
        assert not answer.truncated
    answer = runner.run("SELECT range AS a, repeat('x', 900) AS b FROM range(900)")
    assert answer.truncated and 0 < answer.table.num_rows < 72 and answer.table["a"].to_pylist()[:2] == [0, 1]


def test_errors_come_across_in_one_line_and_tell_no_place(runner):
    for statement, kind, told in (
        ("SELECT * FROM image", QueryError, 'Did you mean "images"'),
        ("FROM activations('net/layer1/99')", NotFoundError, "99"),
    ):
        with pytest.raises(kind, match=told) as caught:
            runner.run(statement)
        assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_the_schema_document_says_what_can_be_asked(runner):
    document = runner.schema_document()
    views = {view["name"]: view for view in document["views"]}
    assert {"images", "neurons", "labels", "embeddings"} <= set(views) and not any(name[0] == "_" for name in views)
    assert {"name": "address", "type": "VARCHAR"} in views["neurons"]["columns"]
    assert all(view["about"].endswith(".") for view in views.values())
    vectors = [name for name, view in views.items() if view["about"] == views["embeddings"]["about"]]
    assert all(name.startswith("embeddings") for name in vectors) and "audits" in views
    assert document["functions"][0]["name"].startswith("activations(")
    assert json.loads(json.dumps(document)) == document


def test_activations_and_statements_are_read_without_torch_and_pandas(index):
    code = (
        "import sys; from csp_index.service.sql_sandbox_child import Reader; reader = Reader(sys.argv[1]); "
        "values = reader.activations(sys.argv[2]); reader.sql('SELECT * FROM images'); "
        "assert not {'torch', 'pandas'} & set(sys.modules); print(values.dtype, len(values), values.sum())"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, index.uri, f"{LAYER}/2"], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.split()[:2] == ["float32", "60"]
    total = index.sql(f"SELECT sum(activation) AS s FROM activations('{LAYER}/2')").rows()[0]["s"]
    assert float(said.stdout.split()[2]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("limits", "statement", "least", "most"),
    [
        (SqlLimits(rows=7), "FROM range(20)", 7, 7),
        (SqlLimits(rows=20, bytes=1000), "FROM range(20)", 20, 20),
        (SqlLimits(bytes=80), "FROM range(20)", 8, 10),
        (SqlLimits(rows=7, bytes=80), "FROM range(20)", 7, 7),
        (SqlLimits(rows=5000, bytes=10**6), "FROM range(20000)", 5000, 5000),
        (SqlLimits(bytes=30_000), "FROM range(20000)", 3600, 3750),
        (SqlLimits(bytes=100), "SELECT repeat('x', 200)", 0, 0),
        (SqlLimits(rows=3, bytes=79), "SELECT range FROM range(5) WHERE range < 0", 0, 0),
    ],
)
def test_a_cut_result_is_its_first_rows(index, limits, statement, least, most):
    result = index.sql(statement, limits=limits)
    whole = index.sql(statement).table
    assert least <= len(result) <= most
    assert result.table.equals(whole.slice(0, len(result)))
    assert result.truncated == (len(result) < whole.num_rows)
    assert limits.bytes is None or result.table.nbytes <= limits.bytes


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("", "is empty"),
        (" \n\t", "is empty"),
        ("SELECT '" + "é" * 60_000 + "'", "expected at most 100,000"),
        ("SELECT '\udc80'", "expected Unicode"),
    ],
)
def test_what_cannot_be_a_statement_starts_no_process(index, statement, told, monkeypatch):
    monkeypatch.setattr(sql_sandbox, "_Child", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(QueryError, match=told):
        runner_over(index).run(statement)


def test_later_writes_are_not_seen(index):
    (first,) = index.sql("SELECT count(*) AS n FROM shards WHERE what LIKE 'activations:%'").rows()
    assert first == {"n": 3}
    with contextlib.closing(SqlRunner(index.uri, index.store.versions() | {"labels": 1}, ServiceSettings())) as early:
        assert early.run("SELECT count(*) AS n FROM labels").table["n"].to_pylist() == [0]


def test_who_gets_no_turn_is_told_to_come_back(index):
    made = runner_over(index, sql_processes=1, sql_seconds=0.05)
    made._turns.acquire()
    with pytest.raises(BusyError, match="1 SQL statements are running"):
        made.run("SELECT 1")


@pytest.fixture(scope="module")
def without_layers(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Three images and an encoder."""
    folder = tmp_path_factory.mktemp("without layers")
    made = open_index(folder / "db")
    made.add_images(write_images(folder / "images", 3), encoders=["python:fakes:encoder"])
    return made


@pytest.mark.parametrize("title", sql_sandbox._EXAMPLES)
@pytest.mark.parametrize("layers", [True, False])
def test_every_example_runs_on_any_index(title, layers, index, without_layers):
    result = (index if layers else without_layers).sql(sql_sandbox._EXAMPLES[title])
    assert len(result) > 0 or not layers
    json.dumps(result.as_json(), allow_nan=False)


def test_examples_rank_the_labels_that_are_shown():
    rows = [
        ("m/l/0", "run 1", "csp", 0, "outdated", 0.9),
        ("m/l/0", "run 2", "csp", 0, "red", 0.5),
        ("m/l/0", "run 2", "csp", 1, "blue", 0.1),
        ("m/l/1", "run 1", "csp", 0, "red", 0.6),
        ("m/l/1", "run 1", "csp", 1, "blue", 0.4),
        ("m/l/2", "run 1", "csp", 0, "dead since", 0.8),
        ("m/l/2", "run 2", "csp", -1, None, None),
    ]
    names = ("address", "run_id", "method", "rank", "text", "score")
    labels = pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows])
    shown = labels.take([1, 3, 6])  # one row per neuron, as the view has them
    tables = {"labels": labels, "neuron_labels": shown}

    def ranked(title: str) -> list[tuple[Any, ...]]:
        return [tuple(row.values()) for row in run_sql(tables, sql_sandbox._EXAMPLES[title]).rows()]

    assert ranked("Labels with the highest score") == [("m/l/1", "csp", "red", 0.6), ("m/l/0", "csp", "red", 0.5)]
    assert ranked("Labels that many neurons share") == [("red", 2, 0.55)]
    leads = ranked("Labels with the longest lead over the next one")
    assert [(*row[:3], round(row[3], 6)) for row in leads] == [
        ("m/l/0", "csp", "red", 0.4),
        ("m/l/1", "csp", "red", 0.2),
    ]


def test_rows_are_values_that_json_can_say(index):
    statement = (
        "SELECT 'nan'::DOUBLE AS a, 0.1::FLOAT AS b, 'x'::BLOB AS c, [1, NULL] AS d, {'k': DATE '2020-01-02'} AS e, "
        "sum(1) AS f, INTERVAL 1 DAY AS g, 1 AS a, uuid() IS NULL AS h, MAP {'m': 1.5} AS i"
    )
    answer = SqlAnswer(index.sql(statement).table, True, 0.12345)
    document = write_rows(answer)
    assert document["columns"] == ["a", "b", "c", "d", "e", "f", "g", "a_1", "h", "i"]
    assert document["rows"][0][:6] == [None, 0.1, "eA==", [1, None], {"k": "2020-01-02"}, 1]
    assert document["rows"][0][6:] == ["1 day", 1, False, [["m", 1.5]]]
    assert document["types"][:2] == ["double", "float"] and len(document["types"]) == 10
    assert document["truncated"] and document["seconds"] == 0.123
    json.dumps(document, allow_nan=False)


def test_files_hold_the_rows(index):
    answer = SqlAnswer(index.sql("SELECT 1 AS a, 'x,\"y\"' AS b UNION ALL SELECT 2, NULL ORDER BY a").table, False, 0.0)
    assert list(csv.reader(io.StringIO(write_file(answer, "csv").decode()))) == [["a", "b"], ["1", 'x,"y"'], ["2", ""]]
    assert json.loads(write_file(answer, "json")) == [{"a": 1, "b": 'x,"y"'}, {"a": 2, "b": None}]
    assert pa.parquet.read_table(io.BytesIO(write_file(answer, "parquet"))).equals(answer.table)


def test_intervals_are_text_in_rows_and_files(runner):
    answer = runner.run("SELECT ended - started AS took FROM runs ORDER BY started LIMIT 1")
    ((took,),) = write_rows(answer)["rows"]
    assert re.fullmatch(r"00:\d\d:\d\d(\.\d{1,6})?", took)
    assert pa.parquet.read_table(io.BytesIO(write_file(answer, "parquet"))).to_pylist() == [{"took": took}]


def test_a_number_too_long_to_be_sent_is_told(runner):
    for statement in ("SELECT 1 AS a, {0} AS b", "SELECT [{0}] AS a"):
        with pytest.raises(QueryError, match=r"38 digits that can be sent: CAST its column to VARCHAR or DOUBLE$"):
            runner.run(statement.format("170141183460469231731687303715884105727::HUGEINT"))
    assert runner.run("SELECT 99999999999999999999999999999999999999::HUGEINT AS a").table["a"].to_pylist() == [
        10**38 - 1
    ]


@pytest.mark.parametrize("format", ["csv", "json"])
def test_what_a_file_cannot_hold_is_told(format, index):
    answer = SqlAnswer(index.sql("SELECT DATE '290000-01-01' AS far").table, False, 0.0)
    with pytest.raises(QueryError, match="CAST"):
        write_file(answer, format)


def test_an_answer_has_room_for_the_schema(index):
    with pytest.raises(SettingError, match="sql_bytes is 1000: expected at least 65536"):
        runner_over(index, sql_bytes=1000)


def test_a_file_that_was_cut_says_so_in_its_name(served_db):
    app = make_app(served_db, ServiceSettings(sql_rows=5))
    client = TestClient(app, "http://localhost:8000")  # not started: it loads no models
    with contextlib.closing(app.state.service.sql):
        for count, name in ((9, "answer-first-5.csv"), (3, "answer.csv")):
            reply = client.post("/sql", data={"sql": f"SELECT * FROM range({count})", "format": "csv"})
            assert f'filename="{name}"' in reply.headers["content-disposition"]
