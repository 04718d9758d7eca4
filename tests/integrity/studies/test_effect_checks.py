"""`verify` finds damaged effects: doubled neurons, wrong numbers, lost classes; a repair deletes them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pyarrow as pa
import pytest
from few import few

from csp_index import NetworkSource, open_index
from csp_index.store import schema
from csp_index.store.study_tables import EFFECT_CLASSES, EFFECTS

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effects")
    index = open_index(folder / "db", device="cpu")
    source = NetworkSource("python:ablated:colors", ("conv",), name="net")
    photos = fakes.write_images(folder / "photos", 12)
    index.add_images(photos, encoders=["python:fakes:encoder"], networks=[source])
    index.effects("net/conv", head="head")
    return folder / "db"


def _set(name: str, value: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0] | {name: value}, *rows[1:]]


def _first_of_list(name: str, change: Callable[[float], float]) -> Callable[[Rows], Rows]:
    def changed(rows: Rows) -> Rows:
        values = list(rows[0][name])
        place = next(place for place, value in enumerate(values) if value is not None)
        values[place] = change(values[place])
        return [rows[0] | {name: values}, *rows[1:]]

    return changed


DAMAGES: list[tuple[str, Callable[[Rows], Rows], str]] = [
    (EFFECTS, lambda rows: [*rows, rows[0]], "a neuron is there more than once"),
    (EFFECTS, _set("neuron", 6), "this neuron does not exist"),
    (EFFECTS, _set("run_id", "nobody"), "no such run is recorded"),
    (EFFECTS, _set("effects", [0.0]), "not one for each class"),
    (EFFECTS, _first_of_list("low", lambda value: float("inf")), "no finite numbers"),
    (EFFECTS, _first_of_list("effects", lambda value: value + 1), "not its parts' difference"),
    (EFFECT_CLASSES, lambda rows: rows[1:], "its classes are missing or doubled"),
    (EFFECT_CLASSES, lambda rows: [], "the classes of these effects are missing"),
]


@pytest.mark.parametrize(("table", "damage", "said"), few(DAMAGES, 2), ids=[said for _, _, said in DAMAGES])
def test_damaged_effects_are_found_and_deleted(whole: Path, tmp_path: Path, table: str, damage: Any, said: str) -> None:
    db = tmp_path / "db"
    shutil.copytree(whole, db)
    index = open_index(db)
    assert index.verify().sound
    rows = damage(index.store.read(table).to_pylist())
    with index.store.write_lock():
        index.store.replace(table, pa.Table.from_pylist(rows, schema.table_schema(table)))
    found = open_index(db).verify()
    assert any(said in str(finding) for finding in found.findings), found.findings
    assert open_index(db).verify(repair=True).sound
