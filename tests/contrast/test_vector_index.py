"""`optimize`: labels stay what they were, recall is measured, what is cut short goes on, what is refused is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import write_arrays, write_images
from killing import killed_at
from lance.dataset import LanceDataset
from made_once import made_once

from csp_index import Index, NetworkSource, open_index
from csp_index.cli import cli
from csp_index.contrast.vector_index import kind_for, optimize, train_partitions
from csp_index.errors import NotFoundError, SettingError, StoreError
from csp_index.labelling.candidates import read_text_arrays

IMAGES = 2000


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_arrays(tmp_path_factory.mktemp("arrays"), images=IMAGES, neurons=9, width=16)


@pytest.fixture
def index(arrays, tmp_path) -> Index:
    def make(folder: Path) -> None:
        made = open_index(folder / "db")
        made.import_arrays(arrays["activations"], "m/l", embeddings=arrays["embeddings"], shard_size=100)

    made_once("vector index", make, tmp_path)
    return open_index(tmp_path / "db")


def files(index: Index) -> dict[str, bytes]:
    """Every file of the index but those of the lock."""
    found = sorted(path for path in Path(index.uri).rglob("*") if path.is_file())
    return {str(path): path.read_bytes() for path in found if ".writer" not in path.name}


def table(index: Index) -> str:
    (name,) = (name for name in index.store.table_names() if name.startswith("embeddings_"))
    return name


def labels(index: Index, arrays: dict[str, Path], **options):
    texts = read_text_arrays(arrays["text_embeddings"], arrays["texts"])
    found = index.label("m/l", vocabulary=texts, top=3, bootstrap=0, keep=False, **options)
    told = [label.as_json() | {"note": ""} for label in found]  # the note names the way the images were found
    return told, [label.pairs for label in found]


def test_labels_and_order_are_the_same_before_and_after(index, arrays, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "999")  # all partitions: search is exact
    before = {search: labels(index, arrays, search=search) for search in (False, True)}
    assert before[False] == before[True]
    stored = index.store.read(table(index))
    activations = index.activations("m/l/5")
    summary = index.optimize(kind="ivf_flat", keep_hours=0)
    assert {search: labels(index, arrays, search=search) for search in (False, True)} == before
    assert index.store.read(table(index)).equals(stored)
    np.testing.assert_array_equal(index.activations("m/l/5"), activations)
    by_table = {found.table: found for found in summary.tables}
    assert set(by_table) == set(index.store.table_names())
    assert all(found.fragments <= 1 for found in summary.tables)
    assert by_table["runs"].fragments_before > 1
    assert by_table["runs"].freed > 0
    assert by_table["images"].rows == IMAGES


def test_recall_is_one_through_all_partitions_and_honest_through_one(index, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "999")
    (full,) = index.optimize(kind="ivf_flat").encoders
    assert (full.kind, full.action, full.rows, full.trained_on) == ("ivf_flat", "built", IMAGES, "cpu")
    assert full.partitions == 44
    assert full.recall.recall == 1.0
    assert full.recall.questions >= 200
    assert min(full.recall.query_ms, full.recall.query_without_ms, full.recall.search_ms, full.recall.products_ms) > 0
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "1")
    (one,) = index.optimize().encoders
    assert one.action == "kept"
    assert one.recall.recall < 1.0


def test_few_images_need_no_index(index):
    summary = index.optimize()
    (done,) = summary.encoders
    assert done.kind == "none"
    assert done.recall is None
    assert f"goes through all {IMAGES:,} images" in done.action
    assert index.store.vector_index(table(index)) is None
    assert all(found.fragments <= 1 for found in summary.tables)


@pytest.mark.parametrize(
    ("images", "width", "kind"), [(1999, 16, "none"), (2000, 16, "ivf_flat"), (2001, 16, "ivf_sq")]
)
def test_the_kind_goes_by_size(monkeypatch, images, width, kind):
    monkeypatch.setenv("CSP_INDEX_INDEX_IMAGES", "2000")
    monkeypatch.setenv("CSP_INDEX_INDEX_BYTES", str(2000 * 16 * 4))
    assert kind_for(images, width) == kind


@pytest.mark.slow
def test_auto_builds_from_the_threshold_on_and_keeps_a_chosen_kind(index, monkeypatch):
    index.optimize(kind="ivf_sq")
    monkeypatch.setenv("CSP_INDEX_INDEX_IMAGES", str(IMAGES))
    (kept,) = index.optimize().encoders
    assert (kept.kind, kept.action) == ("ivf_sq", "kept")
    (dropped,) = index.optimize(kind="none").encoders
    assert (dropped.kind, dropped.action, dropped.bytes) == ("none", "dropped", 0)
    assert index.store.vector_index(table(index)) is None
    (built,) = index.optimize().encoders
    assert (built.kind, built.action) == ("ivf_flat", "built")
    (again,) = index.optimize(kind="ivf_sq").encoders
    assert (again.kind, again.action) == ("ivf_sq", "built again")


def test_images_added_later_are_found_and_join_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "999")
    pictures = write_images(tmp_path / "pictures", 60)
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(pictures, encoders=["python:fakes:encoder"], networks=[network], shard_size=20)
    index.optimize(kind="ivf_flat")
    write_images(pictures, 20, start=60)
    index.add_images(pictures)
    held = index.store.vector_index(table(index))
    assert (held.rows, held.unindexed) == (60, 20)
    assert index.status()["encoders"][0]["vector_index"] == {
        "kind": "ivf_flat",
        "rows": 60,
        "unindexed": 20,
        "bytes": held.bytes,
    }

    def pairs(search: bool):
        found = index.label("net/concepts", vocabulary=["a", "b"], keep=False, bootstrap=0, search=search)
        return [label.pairs for label in found]

    exact = pairs(False)
    assert any(pair.contrast_id is not None and pair.contrast_id >= 60 for each in exact for pair in each)
    assert pairs(True) == exact
    summary = index.optimize()
    (done,) = summary.encoders
    assert done.action == "extended"
    assert done.recall.recall == 1.0
    (embeddings,) = (found for found in summary.tables if found.table == table(index))
    assert embeddings.fragments_before > embeddings.fragments == 1
    held = index.store.vector_index(table(index))
    assert (held.rows, held.unindexed) == (80, 0)
    assert pairs(True) == exact
    write_images(pictures, 100, start=80)
    index.add_images(pictures)
    (done,) = index.optimize().encoders
    assert (done.action, done.partitions) == ("built again", 13)  # more than half of it is new


def test_the_run_is_recorded(index):
    summary = index.optimize(kind="none")
    last = index.status()["runs"][-1]
    assert (last["run_id"], last["command"], last["state"]) == (summary.run_id, "optimize", "done")


def test_a_killed_run_leaves_a_usable_index_and_is_made_good(index, arrays, monkeypatch):
    before = labels(index, arrays)
    with killed_at(10**6) as kill, monkeypatch.context() as patch:

        def dies(*_: object, **__: object) -> None:
            kill.left = 1
            kill.look()

        patch.setattr(LanceDataset, "create_index", dies)
        open_index(index.uri).optimize(kind="ivf_flat", keep_hours=0)
    assert kill.done
    again = open_index(index.uri)
    assert again.status()["runs"][-1]["state"] == "interrupted"
    assert labels(again, arrays) == before
    assert again.optimize(kind="ivf_flat", keep_hours=0).encoders[0].action == "built"
    assert labels(again, arrays, search=False) == before


def test_a_failed_build_keeps_the_index_there_was(index, monkeypatch):
    index.optimize(kind="ivf_flat")
    held = index.store.vector_index(table(index))
    monkeypatch.setattr("csp_index.store.maintenance._SUB_VECTOR", 3)  # does not divide the width
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("csp_index.contrast.vector_index.train_partitions", lambda *given: np.zeros((3, 5), np.float32))
    monkeypatch.setattr("csp_index.contrast.vector_index._sample", lambda *given: torch.zeros(1))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *given, **options: self)
    with pytest.raises(StoreError, match="cannot be written"):
        index.optimize(kind="ivf_pq")
    assert index.store.vector_index(table(index)).kind == held.kind
    assert index.status()["runs"][-1]["state"] == "failed"


def test_trained_partitions_find_the_clusters():
    rng = np.random.default_rng(0)
    truth = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((6, 16)).astype(np.float32)), dim=1)
    rows = truth[rng.integers(0, 6, 600)] + 0.05 * torch.from_numpy(rng.standard_normal((600, 16)).astype(np.float32))
    centres = torch.from_numpy(train_partitions(torch.nn.functional.normalize(rows, dim=1), 12))
    torch.testing.assert_close(centres.norm(dim=1), torch.ones(12))
    assert (centres @ truth.T).amax(1).min() > 0.98  # every centre lies in a cluster


def test_a_gpu_trains_the_partitions_and_one_without_room_leaves_it_to_the_cpu(index, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SEARCH_PROBES", "999")
    monkeypatch.setattr("csp_index.contrast.vector_index.torch.cuda.is_available", lambda: True)
    moved = torch.Tensor.to

    def to(self, device, *given, **options):
        return self if device == "cuda" else moved(self, device, *given, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    (done,) = index.optimize(kind="ivf_flat").encoders
    assert (done.trained_on, done.partitions, done.recall.recall) == ("cuda", 44, 1.0)

    def full(self, device, *given, **options):
        if device == "cuda":
            raise torch.cuda.OutOfMemoryError("no room")
        return moved(self, device, *given, **options)

    monkeypatch.setattr(torch.Tensor, "to", full)
    (done,) = index.optimize(kind="ivf_sq").encoders
    assert (done.trained_on, done.kind) == ("cpu", "ivf_sq")


def test_what_cannot_be_done_is_refused_before_anything_changes(index, arrays):
    before = files(index)
    with pytest.raises(SettingError, match=r"kind of vector index 'flat' is unknown: expected auto, none, ivf_flat"):
        index.optimize(kind="flat")
    with pytest.raises(NotFoundError, match=r"encoder 'other' is not in the index .has: arrays."):
        index.optimize(encoder="other")
    with pytest.raises(SettingError, match="keep_hours is -1"):
        index.optimize(keep_hours=-1)
    with pytest.raises(SettingError, match="questions is 0"):
        optimize(index.store, questions=0)
    assert files(index) == before
    with index.store.write_lock(), pytest.raises(StoreError, match="is being written by process"):
        open_index(index.uri).optimize()


def test_the_command_tells_people_and_machines(index):
    run = CliRunner().invoke(cli, ["optimize", index.uri, "--kind", "ivf_flat"])
    assert run.exit_code == 0, run.output
    assert "encoder arrays: vector index ivf_flat built in" in run.output
    assert "recall at 1 " in run.output
    assert "table runs: 2 fragments -> 1" in run.output
    run = CliRunner().invoke(cli, ["optimize", index.uri, "--json"])
    told = json.loads(run.stdout)
    assert (told["encoders"][0]["kind"], told["encoders"][0]["action"]) == ("ivf_flat", "kept")
    assert 0 <= told["encoders"][0]["recall"]["recall"] <= 1
    status = CliRunner().invoke(cli, ["status", index.uri]).output
    assert f"encoder arrays: 16 dimensions, 2,000 images, vector index ivf_flat of {IMAGES:,}\n" in status
