"""Vocabularies from columns of tables and from the images' metadata; text files are tested with `candidates`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import fakes
import pyarrow as pa
import pyarrow.parquet
import pytest

from csp_index import NetworkSource, open_index
from csp_index.errors import LabelError, NotFoundError
from csp_index.labelling.vocabularies import load_vocabulary, make_vocabulary, metadata_vocabulary
from csp_index.query.results import SqlResult, write_result

STRANGE = ["a/b\\c", "naïve café ☕", "字" * 200, "'; DROP TABLE labels", 'say "hi", twice', "x:y", "100%", "{}"]


def write_csv(path: Path, rows: list[list[str]], delimiter: str = ",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    return path


def write_parquet(path: Path, **columns: object) -> Path:
    pyarrow.parquet.write_table(pa.table(columns), path)
    return path


def test_any_text_can_be_a_label_of_a_table(tmp_path):
    sheet = write_csv(tmp_path / "words.csv", [["id", "the label"], *([str(i), t] for i, t in enumerate(STRANGE))])
    tabs = write_csv(tmp_path / "words.TSV", [["the label"], *([text] for text in STRANGE)], "\t")
    table = write_parquet(tmp_path / "words.parquet", **{"id": range(len(STRANGE)), "the label": STRANGE})
    for path in (sheet, tabs, table):
        found = load_vocabulary(f"{path}:the label")
        assert found.texts == tuple(STRANGE)
        assert found.name == "words:the label"
    assert load_vocabulary(f"{sheet}:the label").key == load_vocabulary(f"{table}:the label").key


def test_a_table_vocabulary_is_its_content(tmp_path):
    first = load_vocabulary(f"{write_csv(tmp_path / 'a.csv', [['t'], ['red'], ['RED '], ['blue']])}:t")
    other = load_vocabulary(f"{write_csv(tmp_path / 'a.csv', [['t'], ['red'], ['green']])}:t")
    assert first.texts == ("red", "blue")
    assert first.name == other.name
    assert first.key != other.key


def test_lists_and_dictionaries_of_texts_in_parquet(tmp_path):
    lists = write_parquet(tmp_path / "l.parquet", words=[["red", "Red"], ["blue", "green"]])
    assert load_vocabulary(f"{lists}:words").texts == ("red", "blue", "green")
    coded = write_parquet(tmp_path / "d.parquet", words=pa.array(["red", "blue", "red"]).dictionary_encode())
    assert load_vocabulary(f"{coded}:words").texts == ("red", "blue")
    large = write_parquet(tmp_path / "g.parquet", words=pa.array(["red"], pa.large_string()))
    assert load_vocabulary(f"{large}:words").texts == ("red",)


def test_file_names_and_columns_may_look_alike(tmp_path):
    (tmp_path / "a.csv").mkdir()
    path = write_csv(tmp_path / "a.csv" / "b.csv", [["c.csv", "d"], ["red", "blue"]])
    assert load_vocabulary(f"{path}:c.csv").texts == ("red",)


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        (["red", "", "blue"], "empty label in row 2: expected one label a row"),
        (["red", "blue", " \t"], "empty label in row 3"),
        (["", ""], "is empty: expected one label a row"),
        ([], "is empty"),
    ],
)
def test_empty_labels_of_tables_are_refused_by_row(tmp_path, cells, told):
    sheet = write_csv(tmp_path / "v.csv", [["id", "t"], *(["7", cell] for cell in cells)])
    table = write_parquet(tmp_path / "v.parquet", t=pa.array([cell or None for cell in cells], pa.string()))
    for path in (sheet, table):
        with pytest.raises(LabelError, match=told) as error:
            load_vocabulary(f"{path}:t")
        assert f"{path}:t" in str(error.value)


def test_short_rows_and_empty_lists_are_empty_labels(tmp_path):
    (tmp_path / "v.csv").write_text("id,t\n1,red\n2\n")
    with pytest.raises(LabelError, match="empty label in row 2"):
        load_vocabulary(f"{tmp_path}/v.csv:t")
    table = write_parquet(tmp_path / "v.parquet", t=pa.array([["red"], []], pa.list_(pa.string())))
    with pytest.raises(LabelError, match="empty label in row 2"):
        load_vocabulary(f"{table}:t")


def test_a_missing_column_names_those_there_are(tmp_path):
    sheet = write_csv(tmp_path / "v.csv", [["id", "t"], ["1", "red"]])
    table = write_parquet(tmp_path / "v.parquet", id=[1], t=["red"])
    for path in (sheet, table):
        with pytest.raises(LabelError, match=r"has no column 'label' \(has: id, t\): write .*:COLUMN"):
            load_vocabulary(f"{path}:label")
        with pytest.raises(LabelError, match=r"no column is named \(has: id, t\)"):
            load_vocabulary(path)
    with pytest.raises(LabelError, match="holds int64: expected texts"):
        load_vocabulary(f"{table}:id")


def test_a_csv_file_of_one_label_a_line_stays_a_list(tmp_path):
    (tmp_path / "v.csv").write_text("red\nblue\n")
    assert load_vocabulary(tmp_path / "v.csv").texts == ("red", "blue")


def test_tables_that_cannot_be_read(tmp_path):
    with pytest.raises(LabelError, match=r"v.parquet is not there"):
        load_vocabulary(f"{tmp_path}/v.parquet:t")
    (tmp_path / "v.parquet").write_bytes(b"no parquet")
    (tmp_path / "w.csv").write_bytes(b"t\n\xff\0")
    for name in ("v.parquet", "w.csv"):
        with pytest.raises(LabelError, match="cannot be read as a table") as error:
            load_vocabulary(f"{tmp_path}/{name}:t")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), None, 7, ("red", "blue"), b"red"])
def test_what_is_no_text_in_a_list_is_named_by_its_line(value):
    """A column of pandas has nan where a cell is empty."""
    with pytest.raises(LabelError, match=r"vocabulary list has .* in line 2: expected a text$"):
        make_vocabulary("list", ["red", value])


def test_only_line_ends_part_the_lines_of_a_text_file(tmp_path):
    (tmp_path / "v.txt").write_text("red\x0bstar\nblue\u2028moon\r\ngreen\n", encoding="utf-8")
    assert load_vocabulary(tmp_path / "v.txt").texts == ("red star", "blue moon", "green")


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("metadata")
    images = fakes.write_images(folder / "images", 4)
    values = [
        {"species": "red fox; blue jay", "count": 2.0, "odd": True},
        {"species": "Blue  Jay|owl", "count": 3},
        {"species": "", "none": None},
        {},
    ]
    names = sorted(str(path.relative_to(images)) for path in images.rglob("*.png"))
    columns = ["path", "species", "count", "odd", "none"]
    write_csv(
        images / "metadata.csv",
        [columns, *([n, *(v.get(c, "") or "" for c in columns[1:])] for n, v in zip(names, values, strict=True))],
    )
    index = open_index(folder / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(images, encoders=["python:fakes:encoder"], networks=[network])
    return index


def test_a_metadata_column_is_a_vocabulary(indexed):
    found = metadata_vocabulary(indexed.store, "species")
    assert found.texts == ("red fox", "blue jay", "owl")
    assert found.key.startswith("metadata:species@")
    assert metadata_vocabulary(indexed.store, "species") is found  # read once
    assert metadata_vocabulary(indexed.store, "count").texts == ("2", "3")


def test_metadata_values_may_be_lists_numbers_and_nothing(indexed, monkeypatch):
    records = [{"v": ["red", "Blue;green", 7, 2.5, True, None, ["deep"]]}, {"v": None}, {"w": 1}, "not an object", None]
    texts = pa.array([None if record is None else json.dumps(record) for record in records])
    batch = pa.record_batch({"image_id": pa.array(range(5)), "metadata": texts})
    monkeypatch.setattr(type(indexed.store), "scan", lambda *given, **options: iter([batch]))
    indexed.store.forget(("metadata vocabulary", "v"))
    assert metadata_vocabulary(indexed.store, "v").texts == ("red", "Blue", "green", "7", "2.5")


def test_a_metadata_column_that_is_not_there_or_says_nothing(indexed):
    with pytest.raises(NotFoundError, match=r"no image has the metadata column 'kind' \(has: .*species"):
        load_vocabulary("metadata:kind", indexed.store)
    with pytest.raises(LabelError, match="'none' holds no text in any image"):
        load_vocabulary("metadata:none", indexed.store)
    with pytest.raises(LabelError, match="is a column of an index"):
        load_vocabulary("metadata:species")


def test_labels_are_chosen_from_a_metadata_column_and_it_is_the_last_vocabulary(indexed):
    found = indexed.label("net/concepts", "semanticlens", vocabulary="metadata:species", templates="none", top=9)
    (first, *_) = (label for label in found if label.state == "labelled")
    assert {score.text for score in first.labels} == {"red fox", "blue jay", "owl"}
    assert indexed.label(str(first.neuron), "semanticlens", top=9)[0] == first


def test_texts_come_back_from_a_csv_file_that_a_spreadsheet_may_open(tmp_path):
    texts = ["-like", "=mc2", "red", "'red"]
    result = SqlResult(pa.table({"n": range(4), "text": texts}))
    write_result(result, "csv", tmp_path / "words.csv")
    assert load_vocabulary(f"{tmp_path}/words.csv:text").texts == tuple(texts)
