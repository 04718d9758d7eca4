"""The pass over images: it adds only what is new, resumes after any kill, and refuses what differs."""

from __future__ import annotations

import json
import os
import time
from concurrent import futures
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from indexed import ENCODER, add, contents
from PIL import Image

from csp_index import CspIndexError, NetworkSource, open_index
from csp_index.images import folders, loader
from csp_index.images.decode import read_images
from csp_index.indexing import commit
from csp_index.store import column_tables, schema


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fakes.write_images(tmp_path / "images", 23)


def test_every_image_is_stored_with_embedding_and_activations(images, tmp_path):
    summary = add(tmp_path / "db", images)
    assert (summary.images, summary.added, summary.failed, summary.shards) == (23, 23, 0, 3)
    index = open_index(tmp_path / "db")
    rows = index.store.read(schema.IMAGES).to_pylist()
    assert [row["image_id"] for row in rows] == list(range(23))
    assert [row["uri"] for row in rows] == sorted(row["uri"] for row in rows)
    encoder, network = fakes.encoder(), fakes.network()
    pictures = [item.image for item in read_images([row["uri"] for row in rows])]
    pixels = torch.stack([encoder.preprocess(picture) for picture in pictures])
    stored = index.store.read(column_tables.embeddings_table(ENCODER))["embedding"].to_pylist()
    np.testing.assert_allclose(stored, encoder.embed_images(pixels).numpy(), atol=1e-6)
    with torch.no_grad():
        concepts = network(pixels).numpy()
        conv = network.conv(pixels).mean((2, 3)).numpy()
    for neuron in range(10):
        np.testing.assert_allclose(index.activations(f"net/concepts/{neuron}"), concepts[:, neuron], atol=1e-5)
    np.testing.assert_allclose(index.activations("net/conv/5"), conv[:, 5], atol=1e-5)
    neurons = index.sql("SELECT * FROM neurons WHERE layer = 'concepts' ORDER BY neuron").rows()
    np.testing.assert_allclose([n["mean"] for n in neurons], concepts.mean(0), atol=1e-5)
    np.testing.assert_allclose([n["std"] for n in neurons], concepts.std(0), atol=1e-5)
    np.testing.assert_allclose([n["firing_rate"] for n in neurons], (concepts > 0).mean(0))
    assert neurons[0]["top_images"] == np.lexsort((np.arange(23), -concepts[:, 0])).tolist()


def test_the_same_source_again_adds_only_what_is_new(images, tmp_path):
    add(tmp_path / "db", images)
    before = contents(tmp_path / "db")
    assert add(tmp_path / "db", images).added == 0
    assert contents(tmp_path / "db") == before
    fakes.write_images(images, 7, start=23)
    again = open_index(tmp_path / "db").add_images(images, shard_size=10)  # the models of the index
    assert (again.added, again.images) == (7, 30)
    after = contents(tmp_path / "db")
    embeddings = column_tables.embeddings_table(ENCODER)
    assert after[embeddings][:23] == before[embeddings]
    assert {n["images"] for n in after["neurons"]} == {30}


def test_new_layers_and_encoders_leave_the_others_alone(images, tmp_path):
    only = NetworkSource("python:fakes:network", ("concepts",), name="net")
    add(tmp_path / "db", images, networks=[only])
    store = open_index(tmp_path / "db").store
    versions = store.versions()
    open_index(tmp_path / "db").add_layer("python:fakes:network", "conv", name="net")
    after = open_index(tmp_path / "db").store.versions()
    kept = [n for n in versions if n.startswith(("embeddings", "activations", "images"))]
    assert {n: after[n] for n in kept} == {n: versions[n] for n in kept}
    add(tmp_path / "whole", images)
    assert contents(tmp_path / "whole")["neurons"] == contents(tmp_path / "db")["neurons"]


def test_trap_10_sub_folders_are_read_and_broken_files_reported(images, tmp_path):
    (images / "a" / "deep" / "er").mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(images / "a" / "deep" / "er" / "x.jpg")
    (images / "broken.png").write_bytes(b"not a picture")
    summary = add(tmp_path / "db", images)
    assert (summary.added, summary.failed) == (24, 1)
    rows = open_index(tmp_path / "db").sql("SELECT uri, reason FROM failures").rows()
    assert rows[0]["uri"].endswith("broken.png")
    assert "Pillow" in rows[0]["reason"]
    assert add(tmp_path / "db", images).failed == 1
    assert open_index(tmp_path / "db").sql("SELECT count(*) AS n FROM failures").rows() == [{"n": 1}]


def test_float16_activations_are_half_the_size_and_close(images, tmp_path):
    add(tmp_path / "db", images, dtype="float16")
    add(tmp_path / "full", images)
    half, full = open_index(tmp_path / "db"), open_index(tmp_path / "full")
    np.testing.assert_allclose(
        half.activations("net/concepts/1"), full.activations("net/concepts/1"), rtol=2e-3, atol=1e-4
    )
    assert half.sql("SELECT count(*) AS n FROM activations('net/concepts/1')").rows() == [{"n": 23}]
    fakes.write_images(images, 5, start=23)
    half.add_images(images)  # stays float16 without being told
    assert {row["dtype"] for row in half.sql("SELECT dtype FROM layers").rows()} == {"float16"}
    with pytest.raises(CspIndexError, match="dtype is float32, was float16"):
        add(tmp_path / "db", images, dtype="float32")


def test_other_weights_or_pooling_under_a_held_name_are_refused(images, tmp_path, monkeypatch):
    add(tmp_path / "db", images)
    before = contents(tmp_path / "db")
    with pytest.raises(CspIndexError, match="pool is max, was mean"):
        add(tmp_path / "db", images, networks=[NetworkSource("python:fakes:network", ("conv",), "max", name="net")])
    monkeypatch.setenv("FAKE_SEED", "1")
    with pytest.raises(CspIndexError, match="weights is projection 1, was projection 0"):
        add(tmp_path / "db", images)
    with pytest.raises(CspIndexError, match="not the encoder the index was built with"):
        open_index(tmp_path / "db").label("net/concepts/0", vocabulary=["red", "blue"])
    assert contents(tmp_path / "db") == before


def test_a_changed_or_missing_image_stops_a_new_layer_before_anything_is_marked(images, tmp_path):
    only = NetworkSource("python:fakes:network", ("concepts",), name="net")
    add(tmp_path / "db", images, networks=[only])
    first = min(images.rglob("*.png"))
    Image.new("RGB", (8, 8), "white").save(first)
    with pytest.raises(CspIndexError, match="changed since it was indexed"):
        open_index(tmp_path / "db").add_layer("python:fakes:network", "conv", name="net")
    first.unlink()
    with pytest.raises(CspIndexError, match="cannot be read any more"):
        open_index(tmp_path / "db").add_layer("python:fakes:network", "conv", name="net")


def test_one_writer_holds_the_index_and_readers_do_not_wait(images, tmp_path):
    add(tmp_path / "db", images)
    index = open_index(tmp_path / "db")
    with index.store.write_lock():
        with pytest.raises(CspIndexError, match=f"being written by process {os.getpid()}"):
            add(tmp_path / "db", images)
        assert len(open_index(tmp_path / "db").activations("net/concepts/0")) == 23


@pytest.mark.slow
def test_processes_that_decode_change_nothing(images, tmp_path, monkeypatch):
    real = loader._Pools.submit

    def patient(pools, jobs):  # with so few images, threads would be done before a process has started
        futures.wait(pools._starting)
        return real(pools, jobs)

    monkeypatch.setattr(loader._Pools, "submit", patient)
    (images / "broken.png").write_bytes(b"not a picture")
    add(tmp_path / "threads", images, decode_workers=0)
    add(tmp_path / "processes", images, decode_workers=1)
    assert contents(tmp_path / "processes") == contents(tmp_path / "threads")


def test_where_models_run_elsewhere_than_on_the_cpu_processes_decode_unasked(images, tmp_path, monkeypatch):
    started: list[int] = []
    real = loader._Pools.__init__

    def counted(pools, preprocess, size, draft, workers):
        started.append(workers)
        real(pools, preprocess, size, draft, 0)  # none starts: what processes give is tested above

    add(tmp_path / "cpu", images)
    monkeypatch.setattr(loader, "_GPU_IMAGES", 20)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(loader._Pools, "__init__", counted)
    monkeypatch.setattr(fakes.FakeEncoder, "device", torch.device("mps"))  # in name: it computes where it did
    add(tmp_path / "elsewhere", images)
    assert started == [1]
    assert contents(tmp_path / "elsewhere") == contents(tmp_path / "cpu")


def test_a_shard_is_written_while_the_next_is_computed(images, tmp_path, monkeypatch):
    real_mark, real_embed = commit.mark, fakes.FakeEncoder.embed_images
    embedded, marked = [], []

    def mark(store, names, shard, run):
        ended = time.monotonic() + 30
        while shard.number == 0 and sum(embedded) <= 10 and time.monotonic() < ended:
            time.sleep(0.01)
        marked.append(sum(embedded))
        real_mark(store, names, shard, run)

    def embed(self, pixels):
        embedded.append(len(pixels))
        return real_embed(self, pixels)

    monkeypatch.setattr(commit, "mark", mark)
    monkeypatch.setattr(fakes.FakeEncoder, "embed_images", embed)
    add(tmp_path / "db", images)
    assert 10 < marked[0] <= 20, "one shard ahead of the writer, not more"
    assert embedded == [4, 4, 2, 4, 4, 2, 3], "batches end with their shard"


def test_a_mended_image_leaves_the_failures(images, tmp_path):
    (images / "broken.png").write_bytes(b"not a picture")
    add(tmp_path / "db", images)
    Image.new("RGB", (8, 8), "red").save(images / "broken.png")
    assert add(tmp_path / "db", images).added == 1
    assert open_index(tmp_path / "db").status()["failures"] == 0


def test_a_link_to_itself_is_a_failure_and_the_pass_goes_on(images, tmp_path):
    (images / "loop.png").symlink_to("loop.png")
    assert (add(tmp_path / "db", images).added, open_index(tmp_path / "db").status()["failures"]) == (23, 1)


def test_metadata_is_kept(images, tmp_path):
    names = sorted(str(p.relative_to(images)) for p in images.rglob("*.png"))
    (images / "metadata.csv").write_text(
        "path,colour,split\n" + "".join(f"{n},c{i},train\n" for i, n in enumerate(names))
    )
    add(tmp_path / "db", images)
    rows = open_index(tmp_path / "db").sql("SELECT image_id, split, metadata FROM images ORDER BY image_id").rows()
    assert rows[3]["split"] == "train"
    assert json.loads(rows[3]["metadata"])["colour"] == "c3"


def test_what_lies_beside_images_is_read_once(images, tmp_path, monkeypatch):
    reads = []
    real = folders.read_bytes
    monkeypatch.setattr(folders, "read_bytes", lambda file, limit: [reads.append(file.name), real(file, limit)][1])
    captions = [path.with_suffix(".txt") for path in sorted(images.rglob("*.png"))[:5]]
    for path in captions:
        path.write_text("a caption")
    (images / "metadata.csv").write_text(f"path,colour\n{captions[0].stem},blue\n")
    steps = []
    assert add(tmp_path / "db", images, progress=lambda *step: steps.append(step)).added == 23
    assert sorted(reads) == sorted(path.name for path in captions)
    assert steps[-1] == (23, 23, "images")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"networks": [NetworkSource("python:fakes:network", ("layer5",), name="net")]}, "concepts"),
        ({"encoders": []}, "needs an encoder"),
        ({"encoders": ["open_clip:/nowhere/at/all"]}, "/nowhere/at/all"),
        ({"encoders": ["clip"]}, "names no library"),
    ],
)
def test_bad_input_leaves_nothing_behind(images, tmp_path, change, told):
    with pytest.raises(CspIndexError) as error:
        add(tmp_path / "db", images, **change)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "db").exists()


def test_a_folder_without_images_and_a_foreign_database_are_refused(images, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CspIndexError, match="image"):
        add(tmp_path / "db", tmp_path / "empty")
    assert not (tmp_path / "db").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(CspIndexError, match="not a csp_index database"):
        add(foreign, images)
    assert [p.name for p in foreign.iterdir()] == ["notes.txt"]
