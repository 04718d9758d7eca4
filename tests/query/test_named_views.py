"""Which views a statement needs: the ones that it names, and no answer differs from that over all views."""

from __future__ import annotations

from typing import Any

import duckdb
import fakes
import pyarrow as pa
import pytest
from indexed import ENCODER

from csp_index import Index, NetworkSource, open_index
from csp_index.errors import QueryError
from csp_index.query import sql
from csp_index.query.named_views import needed_views
from csp_index.query.sql import run_sql

VIEWS = ("images", "labels", "neurons", "shown", 'odd "name"', "Tables")
DEFINITIONS = {"shown": "SELECT * FROM labels JOIN inner_view", "labels": "SELECT 1 AS one, * FROM {}"}
ALL = set(VIEWS)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT 1", set()),
        ("FROM images", {"images"}),
        ('SELECT * FROM "IMAGES" AS labels', {"images"}),
        ("SELECT * FROM 'images'", {"images"}),
        ('SELECT count(*) FROM "odd ""name"""', {'odd "name"'}),
        ("SELECT 'FROM labels', labels FROM images -- FROM neurons", {"images"}),
        ("SELECT (SELECT max(a) FROM labels) IN (FROM neurons) FROM images", {"images", "labels", "neurons"}),
        ("FROM images ORDER BY (SELECT 1 FROM labels) LIMIT (SELECT 1 FROM neurons)", {"images", "labels", "neurons"}),
        ("FROM images POSITIONAL JOIN labels UNION ALL VALUES ((SELECT 1 FROM neurons))", ALL - {"shown", *VIEWS[4:]}),
        ("SELECT list_transform([1], lambda x: (SELECT max(y) FROM labels))", {"labels"}),
        ("WITH own AS (FROM labels) SELECT * FROM own, Own AS again", {"labels"}),
        ("WITH images AS (SELECT 1 AS a) FROM images", {"images"}),  # one too many does no harm
        ("WITH RECURSIVE r AS (SELECT 1 UNION ALL SELECT * FROM labels) FROM r", {"labels"}),
        ("SELECT * FROM shown", {"shown", "labels"}),
        ("UNPIVOT images ON a", {"images"}),
        ("FROM activations((SELECT max(a) FROM labels)), range(3), unnest([1])", {"labels"}),
        ("FROM mistaken", ALL),
        ("FROM main.images", ALL),
        ("FROM information_schema.tables", ALL),
        ("FROM duckdb_views()", ALL),
        ("FROM query('FROM images')", ALL),
        ("FROM query_table('images')", ALL),
        ("SELECT pg_get_viewdef(3)", ALL),
        ("SELECT main.pg_get_viewdef(3)", ALL),
        ("SHOW TABLES", ALL),
        ("SELECT name FROM (DESCRIBE images)", ALL),
        ("DESCRIBE", ALL),
        ("SUMMARIZE images", ALL),
        ("PIVOT images ON a USING count(*)", ALL),
        ("SELECT FROM WHERE", ALL),
        ("SELECT " + "1 + " * 1500 + "1 FROM images", ALL),  # deeper than Python reads
        ("FROM images -- " + "x" * 20_000, ALL),
    ],
)
def test_a_statement_needs_the_views_that_it_names(statement: str, expected: set[str]) -> None:
    with duckdb.connect() as connection:
        assert needed_views(connection, statement, VIEWS, DEFINITIONS) == expected


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("named")
    index = open_index(folder / "db")
    network = NetworkSource("python:fakes:network", ("conv",), name="net")
    index.add_images(fakes.write_images(folder / "images", 6), encoders=[ENCODER], networks=[network])
    return index


def _answer(index: Index, statement: str) -> Any:
    try:
        return index.sql(statement).table
    except QueryError as exc:
        return str(exc)


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM Neuron_Labels ORDER BY address",
        "SELECT * FROM maps ORDER BY ALL",
        "SELECT count(*) FROM effects, embeddings",
        "SHOW TABLES",
        "DESCRIBE derived",
        "WITH a AS (SELECT 1), c AS (WITH b AS (SELECT 2) FROM b) FROM b",  # b is another's
        "SELECT images.uri FROM neurons",
        "FROM activation('net/conv/3')",
    ],
)
def test_answers_and_errors_are_those_over_all_views(
    index: Index, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = _answer(index, statement)
    monkeypatch.setattr(sql, "needed_views", lambda connection, statement, views, definitions: set(views))
    over_all = _answer(index, statement)
    assert answer == over_all
    assert not isinstance(answer, pa.Table) or answer.num_columns > 0


def test_nothing_is_opened_but_what_is_named(index: Index) -> None:
    class Opened(dict[str, pa.Table]):
        names: tuple[str, ...] = ()

        def __getitem__(self, name: str) -> pa.Table:
            self.names += (name,)
            return super().__getitem__(name)

    tables = Opened({name: pa.table({"a": [1]}) for name in ("images", "labels", "texts")})
    assert run_sql(tables, "SELECT count(*) AS n FROM images, Labels").rows() == [{"n": 1}]
    assert tables.names == ("images", "labels")
    with pytest.raises(QueryError, match="Did you mean"):
        run_sql(tables, "FROM imagess")
