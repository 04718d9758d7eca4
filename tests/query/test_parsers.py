"""Properties of SQL as text: one SELECT, or a refusal in one line."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from parsing import QUICK, like, refusing

from csp_index.errors import QueryError
from csp_index.query.sql import SqlLimits, quoted, run_sql
from csp_index.store.catalog import sql_text

FEW = settings(QUICK, max_examples=QUICK.max_examples // 3)  # a connection takes 50 ms
TABLES = {"images": pa.table({"image_id": [0, 1, 2]})}
PIECES = (
    "SELECT ",
    "image_id ",
    "FROM ",
    "images ",
    "WHERE ",
    "1 ",
    "= ",
    "'",
    '"',
    ";",
    "--",
    "/*",
    "(",
    ")",
    "$1 ",
    "?",
)
PIECES += (
    "DROP TABLE ",
    "COPY ",
    "'/etc/passwd' ",
    "read_csv",
    "SET ",
    "activations(",
    "WITH ",
    "AS ",
    "getenv('HOME')",
)


@FEW
@given(like(*PIECES).filter(lambda text: text.count("[") < 100))  # DuckDB takes seconds for deep ones
@example("SELECT \0")
@example("SELECT '\ud800'")
@example("SELECT " + "(" * 300)
@example("SELECT $1")
@example("")
def test_any_text_is_a_select_or_refused(text: str) -> None:
    with refusing(QueryError):
        result = run_sql(TABLES, text, limits=SqlLimits("200MB", 1, 2.0, 10, 10_000))
        assert result.table.num_rows <= 10 and len(set(result.table.column_names)) == result.table.num_columns


@FEW
@given(st.text(max_size=20).filter(lambda text: "\0" not in text))
@example("'; DROP TABLE images; --")
@example('a"b')
def test_a_text_and_a_name_are_read_as_they_are_written(text: str) -> None:
    assert run_sql(TABLES, f"SELECT {sql_text(text)} AS t").table["t"].to_pylist() == [text]
    if text:
        assert run_sql(TABLES, f"SELECT 1 AS {quoted(text)}").table.column_names == [text]


@pytest.mark.parametrize("memory", ["", "2", "-1GB", "1e999GB", "x", "2GB; SET x", "\0"])
def test_any_limit_of_memory_is_taken_or_refused(memory: str) -> None:
    with refusing(QueryError):
        run_sql(TABLES, "SELECT 1", limits=SqlLimits(memory))
