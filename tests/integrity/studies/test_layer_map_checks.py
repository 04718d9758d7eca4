"""Rows of maps that cannot be: `verify` names them, and `--repair` deletes them so that they are made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mapped
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
    folder = tmp_path_factory.mktemp("mapped")
    with pytest.MonkeyPatch.context() as patch:
        mapped.without_umap(patch)
        mapped.make_mapped(folder).make_map(mapped.LAYER, cluster_size=4)
    return folder / "db"


def test_a_sound_map_is_whole(whole: Path) -> None:
    found = verify(whole)
    assert found.findings == [] and found.checked["rows of studies"] == mapped.DEAD + 3 + 1


def without_first(rows: Rows) -> Rows:
    return rows[1:]


def twice_the_first(rows: Rows) -> Rows:
    return [*rows, rows[0]]


def setting(column: str, value: object) -> Callable[[Rows], Rows]:
    def change(rows: Rows) -> Rows:
        rows[0][column] = value
        return rows

    return change


@pytest.mark.parametrize(
    ("table", "change", "message"),
    few(
        [
            ("map_places", without_first, "places of neurons are missing, or there more than once"),
            ("map_places", twice_the_first, "this row is there more than once"),
            ("map_places", setting("x", 1.5), "x is no possible number"),
            ("map_places", setting("y", None), "neurons have no place"),
            ("map_places", setting("cluster", 2), "clusters are not those of its neurons"),
            ("map_places", setting("central", 7.0), "central is no possible number"),
            ("map_places", setting("neuron", 99), "neurons do not exist"),
            ("map_clusters", without_first, "clusters are not those of its neurons"),
            ("map_clusters", setting("neurons", 8), "clusters are not those of its neurons"),
            ("map_clusters", setting("share", 2.0), "share is no possible number"),
            ("layer_maps", setting("neurons", 4), "another number of neurons"),
            ("layer_maps", setting("trust", float("nan")), "trust is no possible number"),
            ("layer_maps", setting("explained", [0.5]), "the shares of variance are not two numbers"),
            ("layer_maps", without_first, "the table layer_maps has no rows of this run"),
        ],
        2,
    ),
)
def test_wrong_rows_are_found_and_deleted(
    whole: Path, tmp_path: Path, table: str, change: Callable[[Rows], Rows], message: str
) -> None:
    db = Path(shutil.copytree(whole, tmp_path / "db"))
    store = open_store(db)
    rows = change(sorted(store.read(table).to_pylist(), key=lambda row: (row.get("neuron", 0), row.get("cluster", 0))))
    with store.write_lock():
        store.replace(table, pa.Table.from_pylist(rows, schema=schema.table_schema(table)))
        store.commit()
    assert any(message in finding.what for finding in verify(db).findings)
    assert verify(db, repair=True).sound
    assert open_index(db).map(mapped.LAYER).by == "pca"
