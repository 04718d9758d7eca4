"""Tables about images: every common format is read, and what had to be guessed is noted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from csp_index.errors import SourceError
from csp_index.images.tables.read_table import read_metadata_file

ROWS = [
    {"image": "a.jpg", "age": 55, "site": "arm", "score": 0.5, "sure": True},
    {"image": "b.jpg", "age": None, "site": None, "score": None, "sure": False},
]


def write(file: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    if file.suffix == ".parquet":
        pa.parquet.write_table(table, file)
    elif file.suffix in (".feather", ".arrow"):
        pa.feather.write_feather(table, str(file))
    elif file.suffix == ".json":
        file.write_text(json.dumps(ROWS, indent=1))
    elif file.suffix == ".jsonl":
        file.write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    elif file.suffix == ".xlsx":
        openpyxl = pytest.importorskip("openpyxl")
        book = openpyxl.Workbook()
        for row in [list(ROWS[0]), *([*one.values()] for one in ROWS)]:
            book.active.append(row)
        book.save(file)
    else:
        separator = "\t" if file.suffix == ".tsv" else ","
        lines = [list(ROWS[0]), *([("" if cell is None else str(cell)) for cell in row.values()] for row in ROWS)]
        file.write_text("\n".join(separator.join(line) for line in lines))


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet", "feather", "arrow", "xlsx"])
def test_every_format_gives_the_same_rows(tmp_path, ending):
    file = tmp_path / f"t.{ending}"
    write(file)
    result = read_metadata_file(file)
    assert result.columns.to_pylist() == ROWS
    assert result.notes == []


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ("image;ort\na.jpg;Köln\n".encode(), None),
        ("image|ort\na.jpg|Köln\n".encode(), None),
        ("image,ort\r\na.jpg,Köln\r\n".encode("utf-8-sig"), None),
        ("image\tort\na.jpg\tKöln\n".encode("utf-16"), None),
        ("image,ort\na.jpg,Köln\n".encode("latin-1"), "Windows-1252"),
        ('image,ort\n"a.jpg","Köln"\n\n'.encode(), None),
    ],
)
def test_separators_and_encodings(tmp_path, data, note):
    (tmp_path / "t.csv").write_bytes(data)
    result = read_metadata_file(tmp_path / "t.csv")
    assert result.columns.to_pylist() == [{"image": "a.jpg", "ort": "Köln"}]
    assert (note is None and not result.notes) or (note is not None and note in result.notes[0])


def test_cells(tmp_path):
    text = 'image,id,age,grade,text\n"x, y.jpg",007,80,NA,"two\nlines"\nb.jpg,008,NaN,3,NA\nc.jpg\n'
    (tmp_path / "t.csv").write_text(text)
    result = read_metadata_file(tmp_path / "t.csv")
    assert result.columns.to_pylist() == [
        {"image": "x, y.jpg", "id": "007", "age": 80, "grade": None, "text": "two\nlines"},
        {"image": "b.jpg", "id": "008", "age": None, "grade": 3, "text": "NA"},
        {"image": "c.jpg", "id": None, "age": None, "grade": None, "text": None},
    ]
    assert result.notes == ["1 row has fewer cells than columns: the rest is empty"]


def test_a_type_that_changes_late_is_kept(tmp_path):
    (tmp_path / "t.csv").write_text("image,n\n" + "".join(f"{n}.jpg,{n}\n" for n in range(30_000)) + "x.jpg,many\n")
    column = read_metadata_file(tmp_path / "t.csv").columns["n"].to_pylist()
    assert column[0] == "0" and column[-1] == "many" and len(column) == 30_001


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a.jpg": {"n": 1}, "b.jpg": {"n": 2}}, [{"key": "a.jpg", "n": 1}, {"key": "b.jpg", "n": 2}]),
        ({"image": ["a.jpg"], "n": [1]}, [{"image": "a.jpg", "n": 1}]),
        ({"a.jpg": "cat", "b.jpg": "dog"}, [{"key": "a.jpg", "value": "cat"}, {"key": "b.jpg", "value": "dog"}]),
        ({"info": {}, "images": [{"file_name": "a.jpg"}], "annotations": []}, [{"file_name": "a.jpg"}]),
        ([{"f": "a.jpg", "n": 1}, {"f": "b.jpg", "n": "x", "m": [1]}], None),
    ],
)
def test_shapes_of_json(tmp_path, value, expected):
    (tmp_path / "t.json").write_text(json.dumps(value))
    result = read_metadata_file(tmp_path / "t.json").columns.to_pylist()
    mixed = [{"f": "a.jpg", "n": "1", "m": None}, {"f": "b.jpg", "n": "x", "m": [1]}]
    assert result == (mixed if expected is None else expected)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("t.csv", b"", "it is empty"),
        ("t.csv", b"\x89PNG\r\n\0\0\0", "it is not text"),
        ("t.csv", b"image,n\na.jpg,1,2,3\n", "line 2 has 4 cells, expected 2"),
        ("t.csv", b"image,n,n\na.jpg,1,2\n", "two columns 'n'"),
        ("t.json", b"[1, 2]", "expected a list of objects"),
        ("t.json", b"{}", "expected a list of objects"),
        ("t.json", b"{", "cannot be read"),
        ("t.json", b"[" * 100_000, "cannot be read"),
        ("t.parquet", b"PAR1", "cannot be read"),
        ("t.feather", b"x", "cannot be read"),
        ("t.xlsx", b"PK\3\4", "cannot be read|needs openpyxl"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as caught:
        read_metadata_file(tmp_path / name)
    assert "\n" not in str(caught.value)
