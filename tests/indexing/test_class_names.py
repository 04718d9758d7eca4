"""An output neuron of a classifier has its class's name, wherever one looks, and never as a label."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
import tiny_models
from indexed import ENCODER
from starlette.testclient import TestClient

from csp_index import NetworkSource, open_index
from csp_index.cli.formatting import say_neuron
from csp_index.integrity.verify import verify
from csp_index.records import LayerKey
from csp_index.service import ServiceSettings, make_app
from csp_index.store import schema
from csp_index.store.connect import create_store
from csp_index.store.values.class_names import class_names, store_class_names

CLASSES = {0: "tench", 1: "goldfish", 2: "<b>shark</b>"}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("classes")
    network = f"transformers:{tiny_models.save_classifier(folder / 'vit', CLASSES)}"
    index = open_index(folder / "db")
    source = fakes.write_images(folder / "images", 12)
    layers = ("layernorm", "classifier")
    index.add_images(source, encoders=[ENCODER], networks=[NetworkSource(network, layers, name="vit")])
    index.label("vit/classifier", "mean-centred", vocabulary=["red", "blue"], templates="none")
    return folder / "db"


def test_sql_has_the_names_of_the_outputs_and_no_labels_of_them(db: Path) -> None:
    index = open_index(db)
    rows = index.sql("SELECT address, class_name FROM class_names ORDER BY neuron").rows()
    expected = {f"vit/classifier/{number}": name for number, name in CLASSES.items()}
    assert {row["address"]: row["class_name"] for row in rows} == expected
    joined = index.sql("SELECT text, class_name FROM neuron_labels JOIN class_names USING (address)").rows()
    assert len(joined) == 3 and {row["text"] for row in joined} <= {"red", "blue", None}


def test_show_and_the_page_say_the_name_apart_from_the_label(db: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = open_index(db).view("vit/classifier/2", "mean-centred")
    assert view.class_name == "<b>shark</b>" and view.label.text != "<b>shark</b>"
    assert "&lt;b&gt;shark&lt;/b&gt;" in view._repr_html_()
    say_neuron(view)
    assert "  the weights call this output '<b>shark</b>', which is no label\n" in capsys.readouterr().out
    assert view.as_json()["class_name"] == "<b>shark</b>"
    assert open_index(db).view("vit/layernorm/0", "mean-centred", vocabulary=["red"]).class_name is None
    client = TestClient(make_app(db, ServiceSettings()), base_url="http://127.0.0.1:8000")  # it loads no models
    page = client.get("/neurons/vit/classifier/2").text
    assert "&lt;b&gt;shark&lt;/b&gt;" in page and "<b>shark" not in page and "named by the weights, no label" in page
    assert client.get("/neurons/vit/classifier/2.json").json()["class_name"] == "<b>shark</b>"


def test_the_names_are_written_once_and_other_ones_replace_them(tmp_path: Path) -> None:
    store, key = create_store(tmp_path / "db"), LayerKey("net", "fc")
    assert class_names(store, key) == {}
    with store.write_lock():
        store_class_names(store, key, ["a", "", "c"], "run")
        assert class_names(store, key) == {0: "a", 2: "c"}
        before = store.versions()[schema.CLASS_NAMES]
        store_class_names(store, key, ["a", "", "c"], "run 2")
        store_class_names(store, key, [], "run 2")
        assert store.versions()[schema.CLASS_NAMES] == before
        store_class_names(store, key, ["a", "b", "c"], "run 2")
    assert class_names(store, key) == {0: "a", 1: "b", 2: "c"}
    assert store.count(schema.CLASS_NAMES) == 3


def test_the_index_is_whole(db: Path) -> None:
    assert verify(db, full=True).sound
