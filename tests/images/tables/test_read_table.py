"""Tables about images: every common format is read, and what had to be guessed is noted."""

from __future__ import annotations

import datetime
import decimal
import importlib
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


@pytest.mark.parametrize("cells", [["007", "8"], ["12345678901234567890123", "2"], ["12e4", "34e1"]])
def test_ids_stay_as_they_are_written(tmp_path, cells):
    (tmp_path / "t.csv").write_text("id,n\n" + "".join(f"{cell},1e-4\n" for cell in cells))
    columns = read_metadata_file(tmp_path / "t.csv").columns
    assert columns["id"].to_pylist() == cells and columns["n"].to_pylist() == [0.0001, 0.0001]


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
        ({"info": {}, "data": [{"file": "a.jpg"}]}, [{"file": "a.jpg"}]),
        ({"file": {"0": "a.jpg", "1": "b"}, "n": {"0": 1, "1": 2}}, [{"file": "a.jpg", "n": 1}, {"file": "b", "n": 2}]),
        ({"columns": ["file", "n"], "index": [0], "data": [["a.jpg", 1]]}, [{"file": "a.jpg", "n": 1}]),
        ([{"f": "a.jpg", "n": 2**70}], [{"f": "a.jpg", "n": str(2**70)}]),
        (
            [{"f": "a.jpg", "n": float("nan")}, {"f": "b.jpg", "n": 1.0}],
            [{"f": "a.jpg", "n": None}, {"f": "b.jpg", "n": 1.0}],
        ),
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
        ("t.json", b'{"columns": [], "data": [1]}', "expected a list of objects"),
        ("t.json", b'{"columns": ["a"], "data": [["a.jpg", 2]]}', "cannot be read"),
        ("t.json", b"{", "cannot be read"),
        ("t.json", b"[" * 100_000, "cannot be read"),
        ("t.parquet", b"PAR1", "cannot be read"),
        ("t.feather", b"x", "cannot be read"),
        ("t.xlsx", b"PK\3\4", "cannot be read|needs openpyxl"),
        ("t.xls", b"\xd0\xcf\x11\xe0" + bytes(600), "old Office file: save it as .xlsx"),
        ("t.csv", b"PK\3\4" + bytes(60), "an archive or an Office file"),
        ("t.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("t.csv.gz", b"\x1f\x8b\x08\0abc", "cannot be read"),
        ("t.csv", b'image,text\na.jpg,"a dog, running\nb.jpg,a cat, asleep\n', "is not closed"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(SourceError, match=message) as caught:
        read_metadata_file(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected", "note"),
    [
        ("image,n,,\na.jpg,1,,\n", [["image", "n"], ["a.jpg", 1]], None),
        ("image,n\na.jpg,1,\n", [["image", "n"], ["a.jpg", 1]], None),
        ("image,,n\na.jpg,x,1\n", [["image", "Unnamed: 1", "n"], ["a.jpg", "x", 1]], None),
        ("sep=;\nimage;n\na.jpg;1\n", [["image", "n"], ["a.jpg", 1]], None),
        ("# made by hand\nimage,n\na.jpg,1\n", [["image", "n"], ["a.jpg", 1]], "1 line is left out"),
        ("# image,n\na.jpg,1\n", [["image", "n"], ["a.jpg", 1]], None),
        ("My table\n\nimage,n\na.jpg,1\nb.jpg,2\n", [["image", "n"], ["a.jpg", 1], ["b.jpg", 2]], "1 line is left"),
        ("name;size (w,h)\na.jpg;3\n", [["name", "size (w,h)"], ["a.jpg", 3]], None),
        ('image, text\n"a.jpg", "x, y"\n', [["image", "text"], ["a.jpg", "x, y"]], None),
        ("image;w\na.jpg;0,5\nb.jpg;-2\n", [["image", "w"], ["a.jpg", 0.5], ["b.jpg", -2]], "decimal commas"),
        ('image\tt\na\t"quiet, he\nb\tx\n', [["image", "t"], ["a", '"quiet, he'], ["b", "x"]], "as they stand"),
        ("1\nBald Male \na.jpg -1  1\n", [["Unnamed: 0", "Bald", "Male"], ["a.jpg", -1, 1]], "1 line is left"),
        ("image label\na.jpg 1\n", [["image", "label"], ["a.jpg", 1]], None),
        ("image\nmy photo.jpg\nour photo.jpg\n", [["image"], ["my photo.jpg"], ["our photo.jpg"]], None),
    ],
)
def test_text_tables_as_people_and_programs_write_them(tmp_path, text, expected, note):
    (tmp_path / "t.csv").write_text(text)
    result = read_metadata_file(tmp_path / "t.csv")
    assert [result.columns.column_names, *map(list, zip(*result.columns.to_pydict().values(), strict=True))] == expected
    assert result.notes == [] if note is None else [note in line for line in result.notes] == [True]


def test_a_name_that_json_has_twice_is_counted(tmp_path):
    (tmp_path / "t.json").write_text('{"a.jpg": {"n": 1}, "b.jpg": {"n": 2}, "a.jpg": {"n": 3}}')
    result = read_metadata_file(tmp_path / "t.json")
    assert result.columns.to_pylist() == [{"key": "a.jpg", "n": 3}, {"key": "b.jpg", "n": 2}]
    assert result.notes == ["names that are there twice, of which the last counts: 1 (first: a.jpg)"]


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson"])
def test_one_line_of_json_is_one_row(tmp_path, name):
    (tmp_path / name).write_text('{"file_name": "a.jpg", "text": "x"}\n')
    assert read_metadata_file(tmp_path / name).columns.to_pylist() == [{"file_name": "a.jpg", "text": "x"}]


@pytest.mark.parametrize("module", ["gzip", "bz2", "lzma"])
def test_a_compressed_table_is_read_within_its_bound(tmp_path, monkeypatch, module):
    ending = {"gzip": ".gz", "bz2": ".bz2", "lzma": ".xz"}[module]
    file = tmp_path / f"t.csv{ending}"
    file.write_bytes(importlib.import_module(module).compress(b"image,n\na.jpg,1\n" + b"\n" * 5000))
    assert read_metadata_file(file).columns.to_pylist() == [{"image": "a.jpg", "n": 1}]
    monkeypatch.setenv("CSP_INDEX_MAX_TEXT_BYTES", "1000")
    with pytest.raises(SourceError, match="more bytes than the setting max_text_bytes"):
        read_metadata_file(file)


def test_columns_of_parquet_that_text_does_not_have(tmp_path):
    columns = {
        "image": pa.array(["a.jpg", "b.jpg"]).dictionary_encode(),
        "n": [float("nan"), 1.0],
        "price": [decimal.Decimal("1.50"), None],
        "raw": [b"\xff", None],
    }
    pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    result = read_metadata_file(tmp_path / "t.parquet")
    assert result.columns.to_pylist() == [
        {"image": "a.jpg", "n": None, "price": 1.5},
        {"image": "b.jpg", "n": 1.0, "price": None},
    ]
    assert result.notes == ["columns of bytes are left out (raw)"]


def test_the_index_of_pandas_may_name_the_images(tmp_path):
    for number, index in enumerate((["a.jpg", "b.jpg"], [7, 8])):
        table = pa.table({"n": [1, 2], "__index_level_0__": index})
        pa.parquet.write_table(table, tmp_path / f"{number}.parquet")
    assert read_metadata_file(tmp_path / "0.parquet").columns.column_names == ["n", "index"]
    assert read_metadata_file(tmp_path / "1.parquet").columns.column_names == ["n"]


def test_a_bad_line_of_json_lines_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"file": "a.jpg"}\n{"file": \n')
    with pytest.raises(SourceError, match="line 2 is no JSON"):
        read_metadata_file(tmp_path / "t.jsonl")


def test_excel_with_a_title_and_days(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for row in (["Table 1"], ["image", "day", None], ["a.jpg", datetime.datetime(2020, 3, 1), "x"]):
        book.active.append(row)
    book.save(tmp_path / "t.xlsx")
    result = read_metadata_file(tmp_path / "t.xlsx")
    assert result.columns.to_pylist() == [{"image": "a.jpg", "day": "2020-03-01", "Unnamed: 2": "x"}]
    assert result.notes == ["1 row is left out above the table"]
