"""An index at a fixed version: what it sees, what it refuses, many threads at once, and layers as columns."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fakes
import numpy as np
import pyarrow as pa
import pytest
import torch

from csp_index import Index, open_index
from csp_index.errors import NotFoundError, StoreError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.printable import without_folders
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.layer_table import UNLABELLED, read_pairs
from csp_index.service.snapshot import Snapshot
from csp_index.store import column_tables, schema
from csp_index.store.connect import create_store, open_snapshot, open_store
from csp_index.store.tables import Store

ROWS = pa.table({"number": [1, 2, 3]})
LAYER = LayerKey("m", "l")
TEXTS = CandidateTexts(tuple(f"text {i}" for i in range(12)), torch.eye(12), "axes")


def made(folder: Path) -> Index:
    paths = fakes.write_arrays(folder / "arrays")
    index = open_index(folder / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=25)
    return index


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrays of 60 images and 8 neurons (3 is dead): all labelled by csp, 0 to 4 by mean-centred, 2 by csp again."""
    folder = tmp_path_factory.mktemp("snapshot")
    index = made(folder)
    index.label("m/l", vocabulary=TEXTS, method="csp")
    index.label([f"m/l/{i}" for i in range(5)], vocabulary=TEXTS, method="mean-centred")
    index.label(["m/l/2"], vocabulary=TEXTS, method="csp", gamma=0.25, examples=3)
    return folder / "db"


@pytest.fixture
def snapshot(labelled: Path) -> Snapshot:
    return Snapshot(labelled)


def test_later_commits_are_not_seen_by_a_snapshot(tmp_path):
    writer = create_store(tmp_path / "db")
    writer.append("numbers", ROWS)
    fixed = open_snapshot(tmp_path / "db")
    writer.append("numbers", ROWS)
    writer.append("later", ROWS)
    assert fixed.count("numbers") == 3 and not fixed.has("later")
    assert fixed.table_names() == ["numbers", "runs"]
    assert writer.count("numbers") == 6
    with pytest.raises(StoreError, match="table later is not in"):
        fixed.read("later")


def test_a_snapshot_opens_again_at_the_versions_of_another(tmp_path):
    writer = create_store(tmp_path / "db")
    writer.append("numbers", ROWS)
    seen = open_snapshot(tmp_path / "db").versions()
    writer.append("numbers", ROWS)
    writer.append("later", ROWS)
    again = open_snapshot(tmp_path / "db", seen)
    assert again.versions() == seen and again.count("numbers") == 3 and not again.has("later")
    assert again.state("numbers") != open_store(tmp_path / "db").state("numbers")
    with pytest.raises(StoreError, match="cannot be opened at version 99"):
        open_snapshot(tmp_path / "db", {"numbers": 99})
    with pytest.raises(StoreError, match=r"table nothing of .* cannot be opened at version 1"):
        open_snapshot(tmp_path / "db", {"nothing": 1})


@pytest.mark.parametrize(
    "write",
    [
        lambda store: store.append("numbers", ROWS),
        lambda store: store.create("other", ROWS.schema),
        lambda store: store.upsert("numbers", ["number"], ROWS),
        lambda store: store.delete("numbers", "number = 1"),
        lambda store: store.replace("numbers", ROWS),
        lambda store: store.write_fragments("numbers", ROWS),
        lambda store: store.append_fragments("numbers", []),
        lambda store: store.upkeep("numbers").__enter__(),
        lambda store: store.write_lock().__enter__(),
    ],
)
def test_a_snapshot_refuses_every_write_and_leaves_no_file(tmp_path, write: Callable[[Store], object]):
    create_store(tmp_path / "db").append("numbers", ROWS)
    fixed, before = open_snapshot(tmp_path / "db"), sorted((tmp_path / "db").rglob("*"))
    with pytest.raises(StoreError, match="only to be read"):
        write(fixed)
    assert sorted((tmp_path / "db").rglob("*")) == before
    assert open_store(tmp_path / "db").count("numbers") == 3


def test_vector_search_stays_at_the_version(tmp_path):
    index = made(tmp_path)
    table = column_tables.embeddings_table("arrays")
    fixed = open_snapshot(tmp_path / "db")
    query = np.eye(12, dtype=np.float32)[:1]
    expected = fixed.search(table, query, 5)[0].tolist()
    index.store.delete(table, f"image_id = {expected[0]}")
    assert fixed.search(table, query, 5)[0].tolist() == expected


def test_many_threads_read_one_snapshot(tmp_path):
    writer = create_store(tmp_path / "db")
    writer.append("numbers", pa.table({"number": list(range(500))}))
    fixed = open_snapshot(tmp_path / "db")

    def read(number: int) -> bool:
        """Ask for more different things than the store keeps, so that they push each other out."""
        found = fixed.read("numbers", where=f"number = {number % 90}")["number"].to_pylist()
        return found == [number % 90] and fixed.count("numbers") == 500

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(600)))


def test_a_layer_shows_the_newest_label_of_each_method(snapshot, labelled):
    table = snapshot.layer(LAYER)
    assert sorted(table.methods) == ["csp", "mean-centred"]
    shown = [table.row(neuron)["method"] for neuron in range(8)]  # of each neuron the newest
    assert [method == "csp" for method in shown] == [neuron in (2, 5, 6, 7) for neuron in range(8)]
    reader = open_index(labelled)
    for method in table.methods:
        newest = {row["neuron"]: row for row in reader.labels("m/l", method=method).rows()}
        for neuron in range(8):
            row, told = table.row(neuron, method), newest.get(f"m/l/{neuron}")
            assert row["label"] == (told and told["text"]) and row["score"] == (told and told["score"])
            assert row["state"] == (told["state"] if told else UNLABELLED)
            assert row["uncertain"] == (told and told["uncertain"])
            assert row["confidence"] == (told and told["confidence"])
    assert table.methods["csp"].runs[2] != table.methods["csp"].runs[1]


def test_a_layers_label_is_what_the_index_tells(snapshot, labelled):
    table, index = snapshot.layer(LAYER), open_index(labelled)
    for neuron, method in [(0, "csp"), (2, "csp"), (3, "csp"), (1, "mean-centred")]:
        key = NeuronKey("m", "l", neuron)
        found, view = table.labels(method).label(key, 5), index.view(str(key), method)
        pairs, threshold = snapshot.pairs_of(key, found.run_id)
        assert (found.text, found.labels, found.rivals) == (view.label.text, view.label.labels, view.label.rivals)
        assert (found.state, found.note, found.uncertain) == (view.label.state, view.label.note, view.label.uncertain)
        assert pairs == view.pairs
        assert threshold is None if neuron == 3 else threshold == pytest.approx(view.statistics["mean"])


def test_pairs_are_kept_for_each_method_apart(labelled):
    table = Snapshot(labelled).layer(LAYER)
    sizes = [read_pairs(open_snapshot(labelled), table, method).nbytes for method in ("csp", "mean-centred")]
    snapshot = Snapshot(labelled, held_bytes=table.nbytes + sum(sizes) - 1)  # not enough for both beside the layer
    for method in ("csp", "mean-centred"):
        pairs = snapshot.pairs(LAYER, method)
        assert set(pairs.runs) == set(table.methods[method].runs) - {""}
        assert snapshot.pairs(LAYER, method) is pairs
    assert snapshot.pairs_of(NeuronKey("m", "l", 0), "no such run") == ((), None)


def test_a_row_of_a_neuron_without_and_with_label(snapshot):
    dead = snapshot.neuron_row(NeuronKey("m", "l", 3))
    assert dead["state"] == "dead" and dead["dead"] and dead["label"] is None and dead["score"] is None
    assert dead["top_images"] == []
    row = snapshot.neuron_row(NeuronKey("m", "l", 6), "mean-centred")
    assert row["state"] == UNLABELLED and row["method"] is None and row["uncertain"] is None
    row = snapshot.neuron_row(NeuronKey("m", "l", 0))
    best, second = snapshot.layer(LAYER).labels().label(NeuronKey("m", "l", 0), 2).labels
    assert row["lead"] == pytest.approx(best.score - second.score) and len(row["top_images"]) == 4


def test_what_is_not_there_is_missing(snapshot):
    with pytest.raises(NotFoundError, match=r"layer m/x is not in the index \(has: m/l\)"):
        snapshot.layer(LayerKey("m", "x"))
    with pytest.raises(NotFoundError, match="m/l has neurons 0 to 7"):
        snapshot.neuron_row(NeuronKey("m", "l", 8))
    with pytest.raises(NotFoundError, match=r"no labels by 'pmi' \(has: csp, mean-centred\)"):
        snapshot.neuron_row(NeuronKey("m", "l", 0), "pmi")
    for image in (-1, 60, 2**39):
        with pytest.raises(NotFoundError, match="images 0 to 59"):
            snapshot.check_image(image)
    assert snapshot.image_rows([-1, 60, 2**39], ["uri"]) == {}
    assert snapshot.texts("any") is None


def test_an_index_without_images_says_so(snapshot, monkeypatch):
    monkeypatch.setattr(snapshot, "images", 0)
    with pytest.raises(NotFoundError, match="image 0 does not exist: the index has no images"):
        snapshot.check_image(0)


def test_images_by_id(snapshot):
    rows = snapshot.image_rows([7, 3, 59], ["uri", "width"])
    assert sorted(rows) == [3, 7, 59] and rows[7]["uri"] == "array#7"
    assert snapshot.names([59, 3, 60]) == {3: "array#3", 59: "array#59"}


def test_the_version_changes_with_the_tables(tmp_path):
    index = made(tmp_path)
    before = Snapshot(tmp_path / "db")
    assert Snapshot(tmp_path / "db").version == before.version
    index.label("m/l/0", vocabulary=TEXTS)
    after = Snapshot(tmp_path / "db")
    assert after.version != before.version
    assert Snapshot(tmp_path / "db", versions=before.versions).version == before.version
    assert before.layer(LAYER).method is None and after.layer(LAYER).method == "csp"
    assert before.layer_rows()[0]["labelled"] == 0 and after.layer_rows()[0]["labelled"] == 1


def test_a_layer_that_was_not_finished_is_missing(tmp_path):
    index = made(tmp_path)
    index.store.delete(schema.NEURONS, "neuron >= 0")
    found = Snapshot(tmp_path / "db")
    assert found.layer_rows()[0] | {"neurons": 8, "ready": False, "dead": 0, "images": 60} == found.layer_rows()[0]
    with pytest.raises(NotFoundError, match="m/l is not finished"):
        found.layer(LAYER)


def test_folders_are_not_told():
    told = {"a": ["open_clip:/srv/x/clip", "hf-hub:org/model"], "b": "m/l/3", "c": "~/nets/my net.py:make", "d": 3}
    assert without_folders(told) == {
        "a": ["open_clip:clip", "hf-hub:org/model"],
        "b": "m/l/3",
        "c": "my net.py:make",
    } | {"d": 3}


def test_nothing_of_this_loads_torch(labelled):
    code = (
        "import random, sys\n"
        "from csp_index.service.documents.home import home_document, random_neuron\n"
        "from csp_index.service.snapshot import Snapshot\n"
        f"snapshot = Snapshot({str(labelled)!r})\n"
        "home_document(snapshot)\n"
        "snapshot.neuron_row(random_neuron(snapshot, random.Random(0)))\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
