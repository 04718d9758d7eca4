"""Maps of a small index: stored, read again, found stale, named by labels as they are; what cannot be mapped."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import mapped
import numpy as np
import pyarrow as pa
import pytest
from few import few
from matplotlib.figure import Figure
from starlette.testclient import TestClient

from csp_index import Index, open_index
from csp_index.errors import NotFoundError, SettingError, StudyError
from csp_index.service import ServiceSettings, make_app
from csp_index.store import schema
from csp_index.store.connect import open_store
from csp_index.studies.layer_maps import placing


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    mapped.make_mapped(folder)
    return folder


@pytest.fixture
def index(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    mapped.without_umap(monkeypatch)
    return open_index(shutil.copytree(source / "db", tmp_path / "db"))


def test_without_a_stored_map_there_is_the_plane(index: Index) -> None:
    found = index.map(mapped.LAYER)
    assert (found.by, found.is_stored, len(found), found.total) == ("pca", False, mapped.DEAD, mapped.NEURONS)
    assert found.named == () and "two directions" in found.said()
    assert repr(found) == "LayerMap(net/grouped by pca: 27 of 28 neurons)"
    assert "(csp, open_clip:clip)" in replace(found, vectors="csp", encoder="open_clip:/srv/models/clip").said()


def test_a_map_is_stored_and_read_again(index: Index) -> None:
    made = index.make_map(mapped.LAYER, neighbors=8, cluster_size=4)
    assert [one.name for one in made.named] == list(mapped.KINDS) and {one.neurons for one in made.named} == {9}
    assert all(0 <= one.x <= 1 and 0 <= one.y <= 1 for one in made.named)
    assert made.notes == ("1 neurons that never fire, or have no concept vector, have no place",)
    read = open_index(index.uri).map(mapped.LAYER)
    assert read.is_stored and read.about == "" and read.named == made.named and read.labels == made.labels
    for name in ("neurons", "places", "clusters"):
        assert np.array_equal(getattr(read, name), getattr(made, name)), name
    assert (read.trust, read.said(), read.notes) == (made.trust, made.said(), made.notes)
    runs = index.sql("SELECT count(*) AS n FROM runs WHERE command = 'map'").rows()[0]["n"]
    assert index.make_map(mapped.LAYER, neighbors=8, cluster_size=4).run_id == made.run_id
    assert index.sql("SELECT count(*) AS n FROM runs WHERE command = 'map'").rows()[0]["n"] == runs == 1
    assert index.make_map(mapped.LAYER, neighbors=8, cluster_size=4, recompute=True).run_id != made.run_id
    assert index.make_map(mapped.LAYER, seed=1).seed == 1 == index.map(mapped.LAYER).seed, "the last one is kept"


def test_rows_are_a_stream_and_a_page_of_a_notebook(index: Index) -> None:
    made = index.make_map(mapped.LAYER, cluster_size=4)
    rows = pa.table(made).to_pylist()
    assert [row["neuron"] for row in rows] == [f"{mapped.LAYER}/{one}" for one in range(mapped.DEAD)]
    assert rows[3]["label"] == "dog" == rows[3]["cluster_name"] and rows[0]["label"] == "animal"
    shown = made._repr_html_()
    assert shown.count("<circle") == mapped.DEAD and ">dog</text>" in shown and "Places by UMAP" in shown
    axes = made.plot(Figure().subplots())
    assert len(axes.collections[0].get_offsets()) == mapped.DEAD and "dog" in [one.get_text() for one in axes.texts]
    in_sql = index.sql("SELECT address FROM map_places JOIN map_clusters USING (run_id, cluster) WHERE name = 'cat'")
    assert [row["address"] for row in in_sql.rows()] == [f"{mapped.LAYER}/{one}" for one in range(9, 18)]


def test_names_follow_the_labels_that_are_shown(index: Index) -> None:
    made = index.make_map(mapped.LAYER, cluster_size=4)
    for neuron in range(9):
        index.note(f"{mapped.LAYER}/{neuron}", "rename", "<b>hound</b>", by="ann")
    read = index.map(mapped.LAYER)
    assert read.named[0].name == "<b>hound</b>" and read.about == ""
    assert "<b>hound" not in read._repr_html_() and "&lt;b&gt;hound" in read._repr_html_()
    stored = "SELECT name FROM map_clusters ORDER BY cluster"
    assert index.sql(stored).rows()[0]["name"] == "dog"
    again = index.make_map(mapped.LAYER, cluster_size=4)
    assert index.sql(stored).rows()[0]["name"] == "<b>hound</b>"
    assert np.array_equal(again.places, made.places)


def test_other_concept_vectors_make_a_map_stale(index: Index) -> None:
    from csp_index.labelling.texts.candidate_names import TextArrays

    made = index.make_map(mapped.LAYER)
    words = TextArrays(mapped.KINDS, np.eye(3, 8, dtype=np.float32), "arrays@kinds")
    index.label(mapped.LAYER, "csp", vocabulary=words, gamma=0.0, top=1, examples=20)
    read = index.map(mapped.LAYER)
    assert read.vectors == "mean-centred" and "made of other concept vectors" in read.about
    assert f"run `csp-index map DB --layer {mapped.LAYER}` again" in read.about
    again = index.make_map(mapped.LAYER)
    assert again.vectors == "csp" and again.run_id != made.run_id and index.map(mapped.LAYER).about == ""


@pytest.mark.parametrize("neurons", [1, 2, 5])
def test_few_neurons_have_the_plane_and_a_note(neurons: int, tmp_path: Path) -> None:
    made = mapped.make_mapped(tmp_path, neurons).make_map(mapped.LAYER)
    assert made.by == "pca" and len(made) == neurons and made.is_stored
    assert made.notes[0].startswith(f"{neurons} neurons are too few for UMAP, which places {placing.LEAST} at least")


def test_a_layer_whose_neurons_never_fire_has_no_map(tmp_path: Path) -> None:
    index = mapped.make_mapped(tmp_path)
    np.save(tmp_path / "dead.npy", np.zeros((mapped.IMAGES, 3), np.float32))
    index.import_arrays(tmp_path / "dead.npy", "net/dead")
    for call in (index.map, index.make_map):
        with pytest.raises(StudyError, match="no neuron of net/dead fires and has a concept vector"):
            call("net/dead")


def test_what_does_not_exist_or_fit_is_refused(index: Index) -> None:
    with pytest.raises(NotFoundError):
        index.make_map("net/none")
    for wrong, message in (
        ({"neighbors": 1}, "neighbors is 1: expected a whole number from 2 to 500"),
        ({"cluster_size": 1}, "cluster size is 1"),
        ({"min_dist": 2.0}, "min_dist is 2.0: expected a number from 0 to 1"),
        ({"seed": -1}, "seed is -1"),
    ):
        with pytest.raises(SettingError, match=message):
            index.make_map(mapped.LAYER, **wrong)


@pytest.mark.parametrize(
    ("table", "column", "value", "message"),
    few(
        [
            ("map_places", "neuron", 10**6, "neurons are there twice, or are none of the layer's"),
            ("map_places", "neuron", 1, "neurons are there twice"),
            ("map_places", "cluster", 2**31 - 1, "clusters are not numbered from 0"),
            ("map_places", "x", float("nan"), "places lie outside the map"),
            ("layer_maps", "explained", [0.5], "its head is incomplete"),
            ("layer_maps", "min_dist", None, "its head is incomplete"),
        ],
        1,
    ),
)
def test_a_damaged_map_is_one_line(index: Index, table: str, column: str, value: object, message: str) -> None:
    """An index may come from a stranger: a number of a cluster decides how much memory its names take."""
    index.make_map(mapped.LAYER, cluster_size=4)
    store = open_store(index.uri)
    with store.write_lock():
        rows = store.read(table).to_pylist()
        rows[0][column] = value
        store.delete(table, "true")
        store.append(table, pa.Table.from_pylist(rows, schema=schema.table_schema(table)))
    damaged = open_index(index.uri)
    for call in (damaged.map, partial(damaged.make_map, cluster_size=4)):
        with pytest.raises(StudyError, match=f"the stored map of {mapped.LAYER} is damaged .{message}"):
            call(mapped.LAYER)
    with TestClient(make_app(index.uri, ServiceSettings(follow=0.0)), "http://localhost:8000") as client:
        assert client.get(f"/layers/{mapped.LAYER}/map.json").status_code == 400
        assert client.get(f"/layers/{mapped.LAYER}?view=cards").status_code == 200
    assert damaged.make_map(mapped.LAYER, cluster_size=4, recompute=True).named


def test_an_interrupted_map_leaves_the_earlier_one(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    made = index.make_map(mapped.LAYER)

    def stop(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        index.make_map(mapped.LAYER, seed=7, progress=stop)
    again = open_index(index.uri)
    assert again.map(mapped.LAYER).run_id == made.run_id
    assert (
        again.sql("SELECT state FROM runs WHERE command = 'map' ORDER BY run_id").rows()[-1]["state"] == "interrupted"
    )
