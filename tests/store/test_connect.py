"""What place is an index, or may become one; what is refused is left alone."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from snapshots import snapshot

from csp_index import open_index
from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.connect import check_creatable, create_store, is_index, open_store

ROWS = pa.table({"key": pa.array([1, 2, 3]), "text": ["a", "b", "c"]})


def test_a_new_store_is_created_and_opened_again(tmp_path):
    place = tmp_path / "deep" / "db"
    assert not is_index(place)
    create_store(place).append("numbers", ROWS)
    assert is_index(place)
    assert open_store(place).read("numbers").equals(ROWS)
    assert create_store(place).count("numbers") == 3
    assert open_store(place).table_names() == ["numbers", "runs"]


def test_an_empty_directory_becomes_a_store(tmp_path):
    assert create_store(tmp_path).table_names() == ["runs"]


def test_a_missing_directory_is_refused_and_not_made(tmp_path):
    with pytest.raises(StoreError, match=r"no index at .*make one with"):
        open_store(tmp_path / "nothing")
    with pytest.raises(StoreError, match="no index at"):
        open_index(tmp_path / "nothing").status()
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("use", [open_store, create_store, check_creatable])
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, use):
    (tmp_path / "notes.txt").write_text("mine")
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match="is not a csp_index database"):
        use(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("use", [open_store, create_store])
def test_a_lance_database_made_by_something_else_is_refused(tmp_path, use):
    import lancedb

    lancedb.connect(str(tmp_path)).create_table("runs", data=pa.table({"run_id": ["theirs"]}))
    before = snapshot(tmp_path)
    with pytest.raises(StoreError, match=rf"not a csp_index database of format {schema.FORMAT} .has none.*index again"):
        use(tmp_path)
    assert snapshot(tmp_path) == before


def test_another_format_is_refused_by_its_number(tmp_path):
    import lancedb

    made = schema.table_schema(schema.RUNS).with_metadata({schema.FORMAT_KEY: b"0"})
    lancedb.connect(str(tmp_path)).create_table(schema.RUNS, schema=made)
    with pytest.raises(StoreError, match=rf"of format {schema.FORMAT} .has 0."):
        open_store(tmp_path)


@pytest.mark.parametrize("use", [open_store, create_store, check_creatable])
def test_a_file_and_a_foreign_scheme_are_refused(tmp_path, use):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        use(tmp_path / "file")
    for uri in ("ftp://host/db", "s3://", "file:///tmp/db"):
        with pytest.raises(StoreError, match=r"names no place for an index: expected a directory, or .* s3://"):
            use(uri)
    with pytest.raises(StoreError, match="lost a slash"):
        use(Path("s3://bucket/db"))
    with pytest.raises(StoreError, match="permission to create"):
        create_store(tmp_path / "file" / "db")
