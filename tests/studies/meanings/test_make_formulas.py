"""Logical labels of a layer: planted formulas over texts and metadata, stored, read again; bad input; the command."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from meant import IMAGES, LAYER, LOOKS, OBJECTS, TWO, make_meant, scenes, texts

from csp_index import Index, NotFoundError, SettingError, StudyError
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.studies.meanings import make_formulas as module
from csp_index.studies.meanings.formulas import read_formulas

LOGIC = "m/logic"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """Return the planted index with metadata, and a layer of logical neurons: AND NOT, and two of three concepts."""
    folder = tmp_path_factory.mktemp("formulas")
    index = make_meant(folder)
    _, _, objects, looks = scenes()
    rng = np.random.default_rng(4)
    ant, bee, red = objects == 0, objects == 1, looks == 0
    planted = [ant & ~red, (ant | bee) & ~red, (ant & red) | bee, objects == 2, np.arange(IMAGES) < 5]
    np.save(
        folder / "logic.npy", np.stack([mask * rng.uniform(1, 2, IMAGES) for mask in planted], 1).astype(np.float32)
    )
    index.import_arrays(folder / "logic.npy", LOGIC, shard_size=170)
    rows = [{"object": OBJECTS[one], "look": LOOKS[two]} for one, two in zip(objects, looks, strict=True)]
    lines = [json.dumps({"path": f"{image:05d}.png", **row}) for image, row in enumerate(rows)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    index.add_metadata(folder / "metadata.jsonl")
    index.formulas(LOGIC, by=["object", "look"])
    return index


def test_planted_formulas_are_found_over_metadata(world: Index) -> None:
    found = read_formulas(world.store, LayerKey.parse(LOGIC))
    assert found is not None and len(found) == 5 and found.concepts == "object, look"
    assert found.made_of == "values of the metadata columns object and look"
    rows = found.rows.to_pylist()
    assert rows[0]["formula"] == "ant AND NOT red" and rows[0]["single"] == "ant"
    assert rows[1]["formula"] == "(ant OR bee) AND NOT red" and set(rows[2]["terms"]) == {"ant", "red", "bee"}
    for row in rows[:3]:
        assert row["kept"] and row["iou"] == 1 and 0 < row["low"] <= row["gain"] <= row["high"]
        assert row["gain"] == pytest.approx(row["correlation"] - row["single_correlation"])
    assert rows[3]["single"] == "cat" and rows[3]["formula"] is None and rows[3]["kept"] is None
    assert rows[4]["single"] is None and rows[4]["fired"] < 10, "it fires on too few images"
    assert [row["neuron"] for row in found.kept()] == sorted((0, 1, 2), key=lambda number: -rows[number]["gain"])


def test_formulas_over_texts(world: Index) -> None:
    found = world.formulas(LAYER, vocabulary=texts())
    assert found.made_of == "texts of the vocabulary meant"
    rows = found.rows.to_pylist()
    for number, pair in enumerate(TWO, len(OBJECTS)):
        names = {OBJECTS[place] for place in pair}
        assert rows[number]["kept"] and set(rows[number]["terms"]) == names and " OR " in rows[number]["formula"]
    assert not any(row["kept"] for row in rows[: len(OBJECTS)]), "one object is told by its own text"
    assert world.verify().sound


def test_what_is_stored_is_read(world: Index, monkeypatch: Any) -> None:
    first = world.formulas(LOGIC, by=["object", "look"])
    monkeypatch.setattr(module._Work, "of", lambda *_: pytest.fail("computed"))
    assert world.formulas(LOGIC, by=["object", "look"]).rows == first.rows
    assert len(world.formulas(f"{LOGIC}/2", by=["object", "look"])) == 1
    for change in ({"firing": "1"}, {"seed": 1}, {"recompute": True}, {"by": ["object"]}):
        with pytest.raises(pytest.fail.Exception):
            world.formulas(LOGIC, **({"by": ["object", "look"]} | change))


def test_bad_input_is_one_line(world: Index) -> None:
    with pytest.raises(NotFoundError, match="no image has the metadata column 'color'"):
        world.formulas(LOGIC, by=["color"])
    with pytest.raises(SettingError, match="texts of a vocabulary, or values of metadata columns"):
        world.formulas(LOGIC, by=["look"], vocabulary=texts())
    for firing in ("inf", "nan", "1e99"):
        with pytest.raises(SettingError, match=f"firing is {firing}: expected a finite number"):
            world.formulas(LOGIC, by=["look"], firing=firing)
    with pytest.raises(SettingError, match="the column 'look' is named twice: expected each once"):
        world.formulas(LOGIC, by=["look", "object", "look"])
    with pytest.raises(SettingError, match="seed is -1: expected a whole number from 0 to 4294967295"):
        world.formulas(LOGIC, by=["look"], seed=-1)
    with pytest.raises(StudyError, match="the layer has 30 images: expected 40 or more"):
        module._halves(30, 0)
    target = catalog.layer(world.store, LayerKey.parse(LOGIC))
    with pytest.raises(SettingError, match="expected one of the two"):
        module.layer_formulas(world.store, target, np.arange(5), None)


def test_the_command_prints_lines_and_json(world: Index, run: Any) -> None:
    said = run("formulas", world.uri, "--layer", LOGIC, "--by", "object", "--by", "look")
    assert said.status == 0 and said.err.endswith("3 of 5 neurons are told better by a formula than by one concept\n")
    assert len(said.out.splitlines()) == 3 and f"{LOGIC}/0\tant AND NOT red\tIoU 1.00" in said.out
    rows = run("formulas", world.uri, "--layer", LOGIC, "--by", "object", "--by", "look", "--all", "--json").rows
    assert [row["neuron"] for row in rows] == [f"{LOGIC}/{number}" for number in range(5)]
    assert rows[0]["kept"] and rows[4]["formula"] is None


def test_small_helpers() -> None:
    assert [some.tolist() for some in module._together(np.array([1, 2, 63, 64, 130]))] == [[1, 2, 63], [64], [130]]
    one, two = module._halves(101, 3)
    assert len(one) == 50 and sorted([*one, *two]) == list(range(101)) and (np.diff(one) > 0).all()
    rng = np.random.default_rng(0)
    values, sets = rng.random(50), rng.random((3, 50)) < 0.4
    expected = [np.corrcoef(values, own)[0, 1] for own in sets]
    assert module._correlations(values, np.concatenate([sets, np.ones((1, 50), bool)])) == pytest.approx(
        [*expected, -1]
    )
