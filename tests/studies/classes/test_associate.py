"""Associations of a layer: right, stored, read again, gone on with after an interruption, replaced when stale."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from classed import NEURONS, add_outputs, make_classed
from other_process import run_python

from csp_index import Index, NotFoundError, SettingError, StudyError, open_index
from csp_index.records import LayerKey
from csp_index.store.study_tables import ASSOCIATION_CLASSES, ASSOCIATIONS
from csp_index.studies.classes import associate as module
from csp_index.studies.classes.associations import (
    Associations,
    ClassSet,
    association_document,
    class_rows,
    class_sets,
    find_class_set,
    names_class,
    neuron_rows,
    read_associations,
    read_figures,
    silenced,
    telling,
)

N, LAYER = 60, "net/layer"
KINDS = [None if i % 12 == 0 else "abc"[i % 3] for i in range(N)]


def made(folder: Path) -> tuple[Index, np.ndarray]:
    rows = [{"kind": kind, "half": i < N // 2, "empty": None} for i, kind in enumerate(KINDS)]
    return make_classed(folder, N, rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, np.ndarray]:
    index, activations = made(tmp_path_factory.mktemp("associated"))
    index.associations(LAYER, "kind")
    return index, activations


def plain_auroc(values: np.ndarray, inside: np.ndarray, present: np.ndarray) -> float:
    own, other = values[inside][:, None], values[present & ~inside]
    return float(((own > other) + (own == other) / 2).mean())


def test_every_figure_is_that_of_the_images(world: tuple[Index, np.ndarray]) -> None:
    index, activations = world
    result, kinds = read_associations(index.store, LAYER, "kind"), np.array(KINDS, object)
    present = kinds != None  # noqa: E711
    assert result.classes.names == ("a", "b", "c") and len(result) == 3 * NEURONS
    assert result.classes.note == "5 of 60 images have no class and count nowhere" and result.classes.total == N
    assert (result.classes.images + result.classes.others == 55).all() and result.classes.without == 5
    for place, name in enumerate(result.classes.names):
        inside = kinds == name
        outside = present & ~inside
        for neuron in (0, 3, 64, 69):
            values = activations[:, neuron].astype(np.float64)
            (row,) = [row for row in result.of_neuron(neuron) if row["class_name"] == name]
            assert row["auroc"] == pytest.approx(plain_auroc(values, inside, present), abs=1e-12)
            assert row["auroc"] == result.matrix("auroc")[neuron, place]
            for side, mask in (("in", inside), ("out", outside)):
                assert row[f"rate_{side}"] == pytest.approx((values[mask] > 0).mean())
                assert row[f"mean_{side}"] == pytest.approx(values[mask].mean())
            strongest = np.flatnonzero(inside)[np.argsort(-values[inside], kind="stable")]
            assert row["strongest"] == strongest[:4].tolist() and row["weakest"] == strongest[::-1][:4].tolist()
            firing = np.flatnonzero(outside & (values > 0))
            assert row["outside"] == firing[np.argsort(-values[firing], kind="stable")][:4].tolist()
            assert row["weakest_activations"] == activations[row["weakest"], neuron].tolist()
    assert result.matrix("auroc")[3].tolist() == [0.5] * 3, "a dead neuron tells nothing"


def test_a_part_is_read_alone(world: tuple[Index, np.ndarray]) -> None:
    store = world[0].store
    whole = read_associations(store, LAYER)
    classes = find_class_set(store, whole.classes.layer)
    assert class_rows(store, classes, "b").to_pylist() == whole.rows.to_pylist()[1::3]
    assert (
        neuron_rows(store, classes, [5, 64]).to_pylist()
        == whole.rows.to_pylist()[15:18] + whole.rows.to_pylist()[192:195]
    )
    assert np.array_equal(read_figures(store, classes, ["mean_in"])["mean_in"], whole.matrix("mean_in"))
    best = whole.of_class("b", top=2)
    assert [row["neuron"] for row in best] == np.argsort(-whole.matrix("auroc")[:, 1], kind="stable")[:2].tolist()
    with pytest.raises(NotFoundError, match=r"'kind' has no class 'd' \(has: a, b, c\)"):
        class_rows(store, classes, "d")
    with pytest.raises(NotFoundError, match="net/layer has no neuron 70"):
        whole.of_neuron(70)


def test_what_speaks_against_a_neuron(world: tuple[Index, np.ndarray]) -> None:
    row = read_associations(world[0].store, LAYER).of_neuron(0)[0]
    document = association_document(row)
    assert [one["image_id"] for one in document["fires_outside"]] == row["outside"]
    assert {one["activation"] for one in document["silent_inside"]} == {0.0}
    assert "outside" not in document and len(document["strongest"]) == 4


def class_set(images: list[int], others: list[int]) -> ClassSet:
    layer = LayerKey("net", "layer")
    return ClassSet(layer, "kind", ("a", "b"), np.array(images), np.array(others), 0, "0", "", "", "")


def test_chance_covers_95_of_100_neurons_that_say_nothing() -> None:
    chance = class_set([12, 1], [28, 39]).chance
    noise = np.random.default_rng(0).standard_normal((40, 4000))
    auroc = (noise[:12, None] > noise[None, 12:]).mean((0, 1))
    assert (np.abs(auroc - 0.5) < chance[0]).mean() == pytest.approx(0.95, abs=0.02)
    assert chance[1] == 0, "one image gives no noise"


def test_only_what_differs_by_more_than_chance_tells_a_class_or_is_silent() -> None:
    classes = class_set([12, 12], [28, 28])
    rows = [{"position": 0, "auroc": value} for value in (0.99, 0.71, 0.69, 0.5, 0.31, 0.29, 0.01, None)]
    assert [row["auroc"] for row in telling(classes, rows)] == [0.99, 0.71]
    assert [row["auroc"] for row in silenced(classes, rows)] == [0.01, 0.29]


def test_labels_say_classes_by_whole_words() -> None:
    assert names_class("a Red_star", "red star") and names_class("dog", "a small dog")
    assert not names_class("cart", "car") and not names_class(None, "car") and not names_class("", "car")


def test_what_is_stored_is_read_and_not_made_again(world: tuple[Index, np.ndarray], monkeypatch: Any) -> None:
    index = world[0]
    first = index.associations(LAYER, "kind")
    monkeypatch.setattr(module, "_compute", lambda *_: pytest.fail("computed"))
    assert index.associations(LAYER, "kind").rows == first.rows
    assert index.associations(LAYER, "kind", firing="0", classes=1000).classes.run_id == first.classes.run_id
    for change in ({"recompute": True}, {"firing": "1"}, {"classes": 2}):
        with pytest.raises(pytest.fail.Exception):
            index.associations(LAYER, "kind", **change)
    assert read_associations(index.store, LAYER, "kind").rows == first.rows, "what failed changed nothing"


def test_reading_loads_no_torch(world: tuple[Index, np.ndarray]) -> None:
    done = run_python(f"""
        import sys
        from csp_index import open_index
        open_index({world[0].uri!r}).associations("{LAYER}", "kind")
        assert "torch" not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


def test_firing_is_above_a_number_or_a_statistic(tmp_path: Path) -> None:
    index, activations = made(tmp_path)
    half = np.arange(N) < N // 2
    for firing, above in (("0.5", 0.5), ("mean", activations[:, 1].mean()), ("max:0.5", activations[:, 1].max() / 2)):
        result = index.associations(LAYER, "half", firing=firing)
        (row,) = [row for row in result.of_neuron(1) if row["class_name"] == "true"]
        assert row["rate_in"] == pytest.approx((activations[half, 1] > above).mean()), firing
        assert result.classes.firing == firing
        assert all(activations[image, 1] > above for image in row["outside"])
    for wrong in ("often", "inf", "quantile:0.3"):
        with pytest.raises(SettingError):
            index.associations(LAYER, "half", firing=wrong)
    assert len(class_sets(index.store)) == 1, "earlier ones by the same column are replaced"
    assert index.store.count(ASSOCIATIONS) == 2 * NEURONS


def test_an_interrupted_comparison_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index, _ = made(tmp_path)
    expected = index.associations(LAYER, "kind", firing="0.25").rows
    monkeypatch.setattr(module._Study, "group", 16)
    plain, computed = module._figures, []

    def figures(store: Any, study: Any, neurons: np.ndarray, count: Any) -> Any:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(neurons.tolist())
        return plain(store, study, neurons, count)

    monkeypatch.setattr(module, "_figures", figures)
    with pytest.raises(KeyboardInterrupt):
        index.associations(LAYER, "half", firing="0.25")
    with pytest.raises(NotFoundError, match=r"not compared by half \(has: kind\): run `csp-index associations"):
        read_associations(index.store, LAYER, "half")
    assert index.verify().sound
    monkeypatch.setattr(module, "_figures", lambda *rest: computed.append(rest[2].tolist()) or plain(*rest))
    index.associations(LAYER, "half", firing="0.25")
    assert [neuron for group in computed for neuron in group] == list(range(NEURONS)), "no neuron twice"
    assert read_associations(index.store, LAYER, "kind").rows == expected
    runs = [run for run in index.status()["runs"] if run["command"] == "associations"]
    assert [run["state"] for run in runs] == ["done", "interrupted", "done"]


def test_sparse_and_dense_layers_have_the_same_associations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, results = np.random.default_rng(0), []
    values = np.where(rng.random((N, 130)) < 0.05, rng.standard_normal((N, 130)), 0).astype(np.float32)
    for storage in ("dense", "sparse"):
        monkeypatch.setenv("CSP_INDEX_ACTIVATION_STORAGE", storage)
        index, _ = made(tmp_path / storage)
        np.save(tmp_path / "S.npy", values)
        index.import_arrays(tmp_path / "S.npy", "net/sae", shard_size=17)
        results.append(index.associations("net/sae", "kind").rows)
        sparse = any(name.startswith("sparse_") for name in index.store.table_names())
        assert sparse == (storage == "sparse")
    assert results[0] == results[1]


def test_new_images_and_new_metadata_make_them_anew(tmp_path: Path) -> None:
    index, _ = made(tmp_path)
    first = index.associations(LAYER, "half")
    (tmp_path / "more.csv").write_text("path,half\n" + "".join(f"{i:05d}.png,{'xy'[i % 2]}\n" for i in range(N)))
    index.add_metadata(tmp_path / "more.csv", replace=True)
    assert index.associations(LAYER, "half").classes.names == ("x", "y") != first.classes.names


def test_a_classifiers_outputs_are_classes(tmp_path: Path) -> None:
    index, _ = made(tmp_path)
    outputs = np.random.default_rng(1).standard_normal((N, 3))
    add_outputs(index, outputs, ["ant", "bee", "cow"])
    result = index.associations("net/logits", "outputs:net/logits")
    assert result.classes.names == ("ant", "bee", "cow")
    assert result.classes.images.tolist() == np.bincount(outputs.argmax(1)).tolist()
    assert (np.diag(result.matrix("auroc")) > 0.8).all(), "an output tells its own class"


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    index, _ = made(tmp_path)
    runs = len(index.status()["runs"])
    for layer, by, kind in (
        (LAYER, "empty", StudyError),
        (LAYER, "nothing", NotFoundError),
        (LAYER, "outputs:net/fc", NotFoundError),
        ("net/other", "kind", NotFoundError),
    ):
        with pytest.raises(kind):
            index.associations(layer, by)
    with pytest.raises(SettingError, match="classes is 0"):
        index.associations(LAYER, "kind", classes=0)
    assert len(index.status()["runs"]) == runs and not index.store.count(ASSOCIATIONS)


def test_the_command_prints_lines_and_json(world: tuple[Index, np.ndarray], run: Any) -> None:
    db, result = world[0].uri, read_associations(world[0].store, LAYER, "kind")
    said = run("associations", db, "--layer", LAYER, "--by", "kind", "--top", 1)
    best = result.of_class("c")[0]
    assert result.tells.any(0).tolist() == [False, False, True]
    (line,) = said.out.splitlines()
    assert said.status == 0 and said.err.splitlines() == [
        "no neuron tells 2 classes (a, b): no AUROC is above 0.5 by more than chance",
        "5 of 60 images have no class and count nowhere",
    ]
    assert line.split("\t")[:3] == ["c", f"{LAYER}/{best['neuron']}", f"AUROC {best['auroc']:.3f}"]
    assert line.endswith("no label")
    neuron = best["neuron"]
    rows = run("associations", db, "--layer", LAYER, "--by", "kind", "--neuron", neuron, "--json").rows
    assert [row["class_name"] for row in rows] == [
        result.classes.names[i] for i in np.flatnonzero(result.tells[neuron])
    ]
    assert rows[0]["neuron"] == f"{LAYER}/{neuron}" and rows[0]["strongest"][0].keys() == {"image_id", "activation"}
    dead = run("associations", db, "--layer", LAYER, "--by", "kind", "--neuron", 3)
    assert dead.out == "" and dead.err.startswith(f"{LAYER}/3 tells none of the classes: no AUROC is above 0.5")
    (row,) = run("associations", db, "--layer", LAYER, "--by", "kind", "--class", "c", "--top", 1, "--json").rows
    assert row["class_name"] == "c" and row["label"] is None and row["names_class"] is False
    wrong = run("associations", db, "--layer", LAYER, "--by", "empty")
    assert (wrong.status, wrong.out) == (1, "") and wrong.err == (
        "Error: no image has a value of 'empty': there are no classes to compare\n"
    )
    assert run("associations", db, "--layer", LAYER, "--by", "kind", "--class", "a", "--neuron", 1).status == 2


def test_sql_sees_them_with_addresses(world: tuple[Index, np.ndarray]) -> None:
    rows = open_index(world[0].uri).sql(
        "SELECT address, class_name, auroc, images FROM associations JOIN association_classes"
        " USING (settings_hash, model, layer, position, class_name) WHERE neuron = 2 ORDER BY position"
    )
    assert [row["address"] for row in rows.rows()] == [f"{LAYER}/2"] * 3
    assert [row["images"] for row in rows.rows()] == world[0].associations(LAYER, "kind").classes.images.tolist()


def test_a_class_that_no_neuron_tells_is_said(tmp_path: Path, run: Any) -> None:
    index, _ = made(tmp_path)
    np.save(tmp_path / "dead.npy", np.zeros((N, 2), np.float32))
    index.import_arrays(tmp_path / "dead.npy", "net/dead", shard_size=17)
    said = run("associations", index.uri, "--layer", "net/dead", "--by", "kind")
    assert said.out == "" and said.err.splitlines()[-2].startswith("no neuron tells 3 classes (a, b, c): no AUROC")


def damaged(index: Index, change: Any) -> list[str]:
    """Return what `verify` finds after a change of the rows."""
    store = index.store
    with store.write_lock():
        for table in (ASSOCIATION_CLASSES, ASSOCIATIONS):
            store.replace(table, change(table, store.read(table)))
    return [finding.what for finding in index.verify().findings]


def with_column(rows: pa.Table, name: str, values: Any) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))


CHANGES = {
    "rows are missing, or there more than once": lambda table, rows: rows.slice(table == ASSOCIATIONS),
    "auroc is missing or out of range": lambda table, rows: (
        with_column(rows, "auroc", np.full(len(rows), 1.5)) if table == ASSOCIATIONS else rows
    ),
    "images of weakest do not exist": lambda table, rows: (
        with_column(with_column(rows, "weakest", [[70]] * len(rows)), "weakest_activations", [[1.0]] * len(rows))
        if table == ASSOCIATIONS
        else rows
    ),
    "activations of its images are not those of the layer": lambda table, rows: (
        with_column(rows, "strongest_activations", [[9.0] * len(one) for one in rows["strongest"].to_pylist()])
        if table == ASSOCIATIONS
        else rows
    ),
    "its counts of images contradict each other": lambda table, rows: (
        with_column(rows, "others", np.arange(len(rows))) if table == ASSOCIATION_CLASSES else rows
    ),
    "classes are missing or there more than once": lambda table, rows: rows.slice(table == ASSOCIATION_CLASSES),
}


@pytest.mark.parametrize("what", CHANGES)
def test_verify_finds_damaged_associations(world: tuple[Index, np.ndarray], tmp_path: Path, what: str) -> None:
    index = open_index(shutil.copytree(world[0].uri, tmp_path / "db"))
    assert what in damaged(index, CHANGES[what])


def test_damaged_associations_are_repaired(world: tuple[Index, np.ndarray], tmp_path: Path) -> None:
    index = open_index(shutil.copytree(world[0].uri, tmp_path / "db"))
    result: Associations = index.associations(LAYER, "kind")
    assert index.verify(full=True).sound
    assert damaged(index, CHANGES["auroc is missing or out of range"]) and index.verify(repair=True).sound
    assert index.associations(LAYER, "kind").rows == result.rows
