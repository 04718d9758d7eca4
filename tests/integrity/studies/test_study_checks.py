"""Rows of studies that cannot be: `verify` names them, and `--repair` deletes them so that they are made again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from compared import make_compared
from few import few

from csp_index import open_index
from csp_index.integrity.verify import verify
from csp_index.store import schema
from csp_index.store.connect import open_store


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    index = make_compared(tmp_path_factory.mktemp("compared"))
    index.compare("a/l", "permuted/l")
    return Path(index.uri)


@pytest.fixture
def db(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "db"))


def test_sound_studies_are_whole(whole: Path) -> None:
    found = verify(whole)
    assert found.findings == [] and found.checked["rows of studies"] == 2 + 26


def changed(rows: pa.Table, column: str, value: object) -> pa.Table:
    place = rows.schema.get_field_index(column)
    first = pa.array([value], rows.schema.field(column).type)
    values = pa.chunked_array([first, rows[column].slice(1).combine_chunks()])
    return rows.set_column(place, rows.schema.field(place), values)


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    few(
        [
            ("matches", "neuron", 99, "neurons do not exist: neuron a/l/99"),
            ("matches", "other_neuron", -1, "neurons do not exist: neuron permuted/l/-1"),
            ("matches", "score", float("nan"), "score is no possible number"),
            ("matches", "best", 1.5, "best is no possible number"),
            ("matches", "run_id", "nobody", "no such run is recorded"),
            ("comparisons", "matched", -3, "matched is no possible number"),
        ],
        1,
    ),
)
def test_wrong_rows_are_found_and_made_again(db: Path, table: str, column: str, value: object, message: str) -> None:
    store = open_store(db)
    rows = store.read(table)
    with store.write_lock():
        store.replace(table, changed(rows, column, value).cast(schema.table_schema(table)))
        store.commit()
    found = [finding for finding in verify(db).findings if finding.table == table]
    assert [message in finding.what for finding in found].count(True) == 1, list(map(str, found))
    assert len(found) == (2 if column == "run_id" else 1), "a fault is said once"
    if column == "run_id":  # the others are deleted alike
        assert verify(db, repair=True).sound
        again = open_index(db).compare("a/l", "permuted/l")
        assert pc.sum(again.matches["matched"]).as_py() == 22 and verify(db).sound


def test_rows_without_their_other_half_are_found(db: Path) -> None:
    store = open_store(db)
    with store.write_lock():
        store.delete("comparisons", "by = 'concepts' OR by = 'activations'")
        store.commit()
    (found,) = verify(db).findings
    assert found.table == "matches" and "the table comparisons has no rows of this run" in found.what


def test_a_comparison_that_lacks_a_neuron_is_found(db: Path) -> None:
    store = open_store(db)
    with store.write_lock():
        store.delete("matches", "neuron = 3 AND by = 'concepts'")
        store.commit()
    (found,) = verify(db).findings
    assert found.table == "comparisons" and "matches of its neurons are missing" in found.what
    assert verify(db, repair=True).sound
