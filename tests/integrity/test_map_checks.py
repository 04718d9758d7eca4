"""`verify` on activation maps: maps that cannot be those of top images are found, dropped, and made again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pyarrow as pa
import pytest
from few import few
from indexed import ENCODER

from csp_index import NetworkSource, open_index
from csp_index.integrity.verify import verify
from csp_index.store import column_tables
from csp_index.store.schema import fixed_tables

TABLE = column_tables.maps_table("net/conv")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    network = NetworkSource("python:fakes:network", ("conv",), name="net")
    open_index(folder / "db").add_images(
        fakes.write_images(folder / "images", 9), encoders=[ENCODER], networks=[network]
    )
    return folder / "db"


@pytest.fixture
def db(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "db")
    return tmp_path / "db"


def change(db: Path, table: str, edit: Callable[[dict[str, Any]], None]) -> None:
    store = open_index(db).store
    rows = store.read(TABLE)
    first, *rest = rows.to_pylist()
    edit(first)
    with store.write_lock():
        store.create(table, rows.schema)
        store.replace(table, pa.Table.from_pylist([first, *rest], schema=rows.schema))


@pytest.mark.parametrize(
    ("edit", "told"),
    few(
        [
            (lambda row: row.update(maps=bytes(len(row["maps"]))), "not those of top images"),
            (lambda row: row.update(maps=row["maps"][1:]), "maps are not of 8 x 8 bytes"),
            (lambda row: row.update(scales=row["scales"][1:]), "do not fit together"),
            (lambda row: row.update(image_ids=[10_000, *row["image_ids"][1:]]), "not those of top images"),
            (lambda row: row.update(neuron=77), "neurons that net/conv does not have"),
            (lambda row: row.update(height=9), "they differ in size"),
        ],
        2,
    ),
)
def test_wrong_maps_are_found_and_dropped(db: Path, edit: Callable[[dict[str, Any]], None], told: str) -> None:
    assert verify(db).sound and verify(db).checked["maps"] == 6 * 9
    change(db, TABLE, edit)
    (finding,) = verify(db).findings
    assert finding.table == TABLE and told in finding.what
    repaired = verify(db, repair=True)
    assert repaired.sound and open_index(db).store.count(TABLE) == 0


def test_maps_of_no_layer_are_found(db: Path) -> None:
    table = column_tables.maps_table("net/gone")
    assert table not in fixed_tables()
    change(db, table, lambda row: None)
    (finding,) = verify(db).findings
    assert (finding.table, finding.what) == (table, "these maps are of no layer")
