"""A copy without some images is the index that these images were never in; an unfinished layer goes on in it."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest
from fragile_networks import FRAGILE
from indexed import ENCODER, NETWORK, contents
from PIL import Image

from csp_index import NetworkSource, open_index
from csp_index.errors import ModelError, NotFoundError, SettingError, StoreError
from csp_index.integrity.verify import verify
from csp_index.store import column_tables

ONLY = NetworkSource("python:fakes:network", ("concepts",), name="fake")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fakes.write_images(tmp_path / "images", 23)


def names(db: Path) -> list[str]:
    return [Path(row["uri"]).stem for row in open_index(db).sql("SELECT uri FROM images ORDER BY image_id").rows()]


@pytest.mark.parametrize("storage", ["dense", pytest.param("sparse", marks=pytest.mark.slow)])
def test_the_copy_is_the_index_without_these_images(images, tmp_path, storage, monkeypatch) -> None:
    monkeypatch.setenv("CSP_INDEX_ACTIVATION_STORAGE", storage)
    index = open_index(tmp_path / "db")
    index.add_images(images, encoders=[ENCODER], networks=[NETWORK], shard_size=5, dtype="float16")
    uris = [row["uri"] for row in index.sql("SELECT uri FROM images ORDER BY image_id").rows()]
    left_out = [uris[3], *uris[5:10], uris[22]]  # one, a whole shard, the last
    summary = index.copy(tmp_path / "copy", left_out)
    assert (summary.images, summary.left_out, summary.shards) == (16, tuple(left_out), 4)
    assert (summary.layers, summary.unfinished) == (("net/conv", "net/concepts"), ())
    kept = [number for number in range(23) if uris[number] not in left_out]
    copy = open_index(tmp_path / "copy")
    assert names(tmp_path / "copy") == [Path(uris[number]).stem for number in kept]
    for layer, neurons in (("net/conv", 6), ("net/concepts", 10)):
        for neuron in range(neurons):
            address = f"{layer}/{neuron}"
            np.testing.assert_array_equal(copy.activations(address), index.activations(address)[kept])
    tables = [contents(tmp_path / name)[column_tables.embeddings_table(ENCODER)] for name in ("copy", "db")]
    assert [row["embedding"] for row in tables[0]] == [tables[1][number]["embedding"] for number in kept]
    row = copy.sql("SELECT * FROM neurons WHERE layer = 'conv' AND neuron = 2").rows()[0]
    values = index.activations("net/conv/2")[kept]
    assert row["images"] == 16 and row["mean"] == pytest.approx(values.mean(), rel=1e-6)
    assert row["top_images"] == np.lexsort((np.arange(16), -values)).tolist()
    assert verify(tmp_path / "copy", full=True).sound
    assert copy.label("net/concepts/0", "csp", vocabulary=["red", "blue"], templates="none")
    assert copy.add_images(images).added == 7, "the images that were left out can be added again"


def test_the_copy_has_the_maps_and_the_images_that_moved_up_get_theirs(images, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CSP_INDEX_MAP_IMAGES", "4")
    index = open_index(tmp_path / "db")
    index.add_images(images, encoders=[ENCODER], networks=[NETWORK], shard_size=5)
    uris = [row["uri"] for row in index.sql("SELECT uri FROM images ORDER BY image_id").rows()]
    first = index.maps("net/conv/2").images.tolist()
    left_out = [uris[first[1]], uris[7], uris[22]]
    index.copy(tmp_path / "copy", left_out)
    kept = {uri for uri in uris if uri not in left_out}
    copy = open_index(tmp_path / "copy")
    at = {row["uri"]: row["image_id"] for row in copy.sql("SELECT uri, image_id FROM images").rows()}
    for neuron in range(6):
        old, new = index.maps(f"net/conv/{neuron}"), copy.maps(f"net/conv/{neuron}")
        stayed = [place for place, image in enumerate(old.images.tolist()) if uris[image] in kept]
        assert new.images.tolist() == [at[uris[old.images[place]]] for place in stayed]
        np.testing.assert_array_equal(new.maps, old.maps[stayed])
        np.testing.assert_array_equal(new.scales, old.scales[stayed])
    assert verify(tmp_path / "copy", full=True).sound
    copy.add_images(None, networks=[NETWORK], maps=True)
    fresh = open_index(tmp_path / "fresh")
    for uri in left_out:
        Path(uri).unlink()
    fresh.add_images(images, encoders=[ENCODER], networks=[NETWORK], shard_size=5)
    for neuron in range(6):
        new, alone = (one.maps(f"net/conv/{neuron}") for one in (copy, fresh))
        assert new.images.tolist() == alone.images.tolist()
        np.testing.assert_allclose(new.scales, alone.scales, rtol=1e-4)


def test_a_layer_that_one_image_stopped_goes_on_without_it(images, tmp_path) -> None:
    index = open_index(tmp_path / "db")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(images / "b" / "img00011_red.png")
    index.add_images(images, encoders=[ENCODER], networks=[ONLY], shard_size=5)
    with pytest.raises(ModelError, match=r"3 of 5 shards are stored.*`csp-index copy .*db NEW\.db` and run the same"):
        index.add_images(None, networks=[FRAGILE])
    summary = index.copy(tmp_path / "new")
    assert [Path(uri).stem for uri in summary.left_out] == ["img00011_red"]
    assert (summary.images, summary.unfinished) == (23, ("net/concepts",))
    new = open_index(tmp_path / "new")
    assert new.sql("SELECT count(*) AS n FROM neurons WHERE model = 'net'").rows() == [{"n": 0}]
    marks = "SELECT max(shard) AS last FROM shards WHERE what = 'activations:net/concepts'"
    assert new.sql(marks).rows() == [{"last": 2}]
    new.add_images(None, networks=[FRAGILE])
    assert new.sql(marks).rows() == [{"last": 4}]
    assert {row["images"] for row in new.sql("SELECT images FROM neurons").rows()} == {23}
    added = new.add_images(images)  # the image is new here, and fails as every new one does
    assert (added.added, added.failed) == (0, 1)
    assert verify(tmp_path / "new", full=True).sound


def test_a_copy_needs_images_to_leave_out_and_a_new_place(images, tmp_path, run) -> None:
    index = open_index(tmp_path / "db")
    index.add_images(images, encoders=[ENCODER], networks=[ONLY])
    with pytest.raises(SettingError, match=r"no image of .* is in its table of failures"):
        index.copy(tmp_path / "new")
    with pytest.raises(NotFoundError, match="1 of 1 images are not in"):
        index.copy(tmp_path / "new", ["/elsewhere.png"])
    with pytest.raises(StoreError, match="is an index already"):
        index.copy(tmp_path / "db")
    uris = [row["uri"] for row in index.sql("SELECT uri FROM images").rows()]
    with pytest.raises(SettingError, match="all 23 images"):
        index.copy(tmp_path / "new", uris)
    assert not (tmp_path / "new").exists()
    (tmp_path / "without.txt").write_text("\n".join(uris[:2]) + "\n")
    said = run("copy", tmp_path / "db", tmp_path / "new", "--without", tmp_path / "without.txt")
    assert said.status == 0 and "has 21 images, without 2, in 1 shards" in said.out


def test_a_list_of_images_that_is_no_text_is_refused(images, tmp_path, run) -> None:
    open_index(tmp_path / "db").add_images(images, encoders=[ENCODER], networks=[NETWORK])
    np.save(tmp_path / "list.npy", np.zeros(3))
    said = run("copy", tmp_path / "db", tmp_path / "new", "--without", tmp_path / "list.npy")
    assert said.status == 1 and len(said.err.splitlines()) == 1
    assert "list.npy cannot be read" in said.err and "expected UTF-8 text with one image per line" in said.err
    assert not (tmp_path / "new").exists()
