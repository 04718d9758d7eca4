"""Rows that a question returned: on a terminal, as JSON, CSV and parquet, whatever their types."""

from __future__ import annotations

import csv
import datetime
import io
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from csp_index.errors import QueryError
from csp_index.query.results import SqlResult, write_result
from csp_index.query.sql import run_sql


def _mixed() -> SqlResult:
    """Three images with columns of many types, among them a NaN and a null."""
    images = [3, 5, 7]
    started = [datetime.datetime(2026, 1, 1, image, tzinfo=datetime.UTC) for image in images]
    columns = {
        "image_id": pa.array(images, pa.int64()),
        "uri": [f"folder/{image}/{image:03}.png" if image != 7 else None for image in images],
        "share": pa.array([image / 10 for image in images], pa.float32()),
        "score": pa.array([float("nan") if image == 5 else image / 10 for image in images], pa.float64()),
        "started": pa.array(started, pa.timestamp("us", tz="UTC")),
        "thumbnail": pa.array([b"\xff\xd8\xff\xe0 not really"] * 3, pa.binary()),
        "top_images": pa.array([[image, image + 1] for image in images], pa.list_(pa.int64())),
        "total": pa.array(images, pa.decimal128(38, 0)),
        "nested": [{"a": 0}] * 3,
    }
    return SqlResult(pa.table(columns))


def test_results_convert() -> None:
    result = run_sql({}, "SELECT 1 AS a, 2 AS a, 0.3::FLOAT AS b")
    assert result.rows() == [{"a": 1, "a_1": 2, "b": 0.3}]
    assert result.to_arrow().num_rows == len(result) == len(result.to_pandas()) == 1
    page = _mixed()._repr_html_()
    assert '<img src="data:image/jpeg;base64,' in page
    assert "<script>" not in run_sql({}, "SELECT '<script>' AS \"<script>\"")._repr_html_()


@pytest.mark.parametrize(
    ("start", "cell"),
    [
        (b"\x89PNG\r\n\x1a\n", '<img src="data:image/png;base64,iVBORw0KGgo=" alt="PNG, 8 bytes">'),
        (b"GIF89a", '<img src="data:image/gif;base64,R0lGODlh" alt="GIF, 6 bytes">'),
        (b"RIFF\0\0\0\0WEBP", '<img src="data:image/webp;base64,UklGRgAAAABXRUJQ" alt="WEBP, 12 bytes">'),
        (b"II*\0", "&lt;TIFF, 4 bytes&gt;"),  # no browser shows it
        (b"\x89PNG is a text", "&lt;14 bytes&gt;"),
    ],
)
def test_a_notebook_shows_the_pictures_that_browsers_show(start: bytes, cell: str) -> None:
    assert f"<td>{cell}</td>" in SqlResult(pa.table({"thumbnail": [start]}))._repr_html_()


def test_json_is_valid_whatever_the_types(tmp_path: Path) -> None:
    write_result(_mixed(), "json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text(), parse_constant=pytest.fail)
    assert [row["image_id"] for row in rows] == [3, 5, 7]
    assert rows[0] == {
        "image_id": 3,
        "uri": "folder/3/003.png",
        "share": 0.3,
        "score": 0.3,
        "started": "2026-01-01T03:00:00+00:00",
        "thumbnail": "/9j/4CBub3QgcmVhbGx5",
        "top_images": [3, 4],
        "total": 3,
        "nested": {"a": 0},
    }
    assert rows[1]["score"] is None and rows[2]["uri"] is None
    write_result(run_sql({}, "SELECT 1 WHERE false"), "json", tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == []


@pytest.mark.parametrize(
    "text",
    [
        "0 seconds", "506.278 milliseconds", "-1.5 seconds", "100 hours 10 microseconds", "1 day", "14 months",
        "-14 months", "12 months -3 days 90 seconds", "-1 month 2 days -00:00:01.5", "59.999999 seconds",
        "2562047 hours",
    ],
)  # fmt: skip
def test_an_interval_is_the_text_that_sql_writes_and_reads(text: str, tmp_path: Path) -> None:
    result = run_sql({}, f"SELECT '{text}'::INTERVAL AS took, [took] AS l, NULL::INTERVAL AS n")
    told = run_sql({}, f"SELECT '{text}'::INTERVAL::VARCHAR AS told").rows()[0]["told"]
    assert result.as_json()["rows"] == [[told, [told], None]]
    for name in ("json", "csv", "table", "parquet"):
        plain = SqlResult(result.table.drop_columns("l")) if name == "parquet" else result
        write_result(plain, name, tmp_path / name)
    assert json.loads((tmp_path / "json").read_text()) == [{"took": told, "l": [told], "n": None}]
    assert (tmp_path / "csv").read_text().splitlines()[1] == f'{told},"[""{told}""]",'
    assert (tmp_path / "table").read_text().count(told) == 2 == result._repr_html_().count(told)
    assert pq.read_table(tmp_path / "parquet").to_pylist() == [{"took": told, "n": None}]


def test_intervals_in_lists_are_refused_by_parquet(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match="CAST the column to VARCHAR"):
        write_result(run_sql({}, "SELECT [INTERVAL 1 DAY] AS l"), "parquet", tmp_path / "rows.parquet")


def test_csv_holds_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["=1+1", "+x", "-like", "@SUM(A1)", "\t=1", "-0.5", "+1e3", "red", "'red", "", "a=b"]
    lists = [[text] for text in texts]
    result = SqlResult(pa.table({"text": texts, "number": [-1.5] * len(texts), "list": lists}))
    write_result(result, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out, newline="")))
    escaped = [f"'{text}" for text in texts[:5]] + texts[5:]
    assert [row["text"] for row in rows] == escaped
    assert {row["number"] for row in rows} == {"-1.5"}
    assert rows[0]["list"] == '["=1+1"]'
    write_result(result, "json")
    assert [row["text"] for row in json.loads(capsys.readouterr().out)] == texts


def test_csv_has_a_header_and_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    write_result(_mixed(), "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["share"] == "0.3" and rows[0]["top_images"] == "[3, 4]" and rows[2]["uri"] == ""


def test_table_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    write_result(run_sql({}, "SELECT '[red]' || repeat('x', 200) AS text, [1.5] AS l, NULL AS n"), "table")
    out = capsys.readouterr().out
    assert "[red]xx" in out and "…" in out and "1 row" in out and "x" * 100 not in out
    write_result(run_sql({}, "SELECT range FROM range(1000)"), "table")
    out = capsys.readouterr().out
    assert "1000 rows; 100 shown" in out and len(out.splitlines()) < 110


def test_parquet_to_a_file_and_to_a_pipe(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    result = _mixed()
    write_result(result, "parquet", tmp_path / "rows.parquet")
    stored = pq.read_table(tmp_path / "rows.parquet")
    assert stored.schema.equals(result.table.schema) and str(stored.to_pylist()) == str(result.table.to_pylist())
    with capfdbinary.disabled():
        code = (
            "from csp_index.query.sql import run_sql, write_result\n"
            "write_result(run_sql({}, 'SELECT 42 AS answer'), 'parquet')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert pq.read_table(io.BytesIO(done.stdout)).to_pylist() == [{"answer": 42}]
    assert done.stderr == b""
    with pytest.raises(QueryError, match=r"cannot be written: .*; name another file"):
        write_result(result, "csv", tmp_path / "missing" / "rows.csv")
