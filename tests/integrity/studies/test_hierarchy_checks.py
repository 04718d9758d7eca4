"""Rows of hierarchies that cannot be: `verify` names them, and `--repair` deletes them so that they are made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import families
import pyarrow as pa
import pytest
from few import few

from csp_index import open_index
from csp_index.integrity.verify import verify
from csp_index.store import schema
from csp_index.store.connect import open_store

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    index = families.make_families(folder)
    index.hierarchy(families.LAYER, families.write_table(folder / "animals.csv"), vocabulary=families.words())
    return folder


def test_a_sound_hierarchy_is_whole(whole: Path) -> None:
    found = verify(whole / "db")
    assert found.findings == [] and found.checked["neurons in a hierarchy"] == 5


def without_first(rows: Rows) -> Rows:
    return rows[1:]


def setting(column: str, value: object, of: int = 0) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[of][column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("table", "change", "message"),
    few(
        [
            ("hierarchy_levels", without_first, "neurons are missing, or there more than once"),
            ("hierarchy_levels", setting("state", "lost"), "states that there are not"),
            ("hierarchy_levels", setting("level", 77), "levels are no words of the hierarchy"),
            ("hierarchy_levels", setting("level", None), "levels are missing, or where none can be"),
            ("hierarchy_levels", setting("level_correlation", 3.0), "correlations are no possible numbers"),
            ("hierarchy_levels", setting("steps", 0), "steps do not go with states"),
            ("hierarchy_levels", setting("layer", "other"), "rows are of another layer"),
            ("hierarchy_words", without_first, "words are missing, or there more than once"),
            ("hierarchy_words", setting("parents", [99]), "parents of words do not exist"),
            ("hierarchy_words", setting("parents", [0]), "words are among their own broader words"),
            ("hierarchies", setting("neurons", 4), "another number of neurons|neurons are missing"),
            ("hierarchies", setting("keep", None), "what is kept is no share"),
            ("hierarchies", without_first, "without the row of their hierarchy"),
        ],
        2,
    ),
)
def test_wrong_rows_are_found_and_made_again(
    whole: Path, tmp_path: Path, table: str, change: Callable[[Rows], Rows], message: str
) -> None:
    db = Path(shutil.copytree(whole / "db", tmp_path / "db"))
    store = open_store(db)
    rows = change(sorted(store.read(table).to_pylist(), key=lambda row: (row.get("neuron", 0), row.get("word", 0))))
    with store.write_lock():
        store.replace(table, pa.Table.from_pylist(rows, schema=schema.table_schema(table)))
        store.commit()
    said = [finding.what for finding in verify(db).findings]
    assert any(part in what for what in said for part in message.split("|")), said
    assert verify(db, repair=True).sound
    again = open_index(db).hierarchy(families.LAYER, whole / "animals.csv", vocabulary=families.words())
    assert again.rows[0]["level_title"] == "dog" and verify(db).sound
