"""An image that a model cannot take: a failure if it is new, an error that names all of them if it is indexed."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest
from few import few
from fragile_networks import FRAGILE
from indexed import ENCODER, contents
from PIL import Image
from ray_here import engine_here

from csp_index import NetworkSource, open_index
from csp_index.errors import ModelError, SourceError
from csp_index.images.sources import open_source
from csp_index.indexing import indexer
from csp_index.models.encoders import load_encoder
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store.connect import create_store

COLOURS = {"a/img00004_red": (255, 0, 0), "b/img00002_blue": (0, 0, 255), "a/img00004_green": (0, 255, 0)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fakes.write_images(tmp_path / "images", 23)


def spoil(images: Path) -> None:
    for name, colour in COLOURS.items():
        Image.new("RGB", (8, 8), colour).save(images / f"{name}.png")


def loaded(source: NetworkSource) -> LoadedNetwork:
    return load_network(source.spec, layers=source.layers, name="net")


def reasons(db: Path) -> dict[str, str]:
    rows = open_index(db).sql("SELECT uri, reason FROM failures").rows()
    return {Path(row["uri"]).stem: row["reason"] for row in rows}


@pytest.mark.parametrize("workers", [0, 1])
def test_new_images_on_which_the_preprocessing_fails_are_failures(images: Path, tmp_path: Path, workers: int) -> None:
    spoil(images)
    index = open_index(tmp_path / "db")
    summary = index.add_images(images, encoders=[ENCODER], networks=[FRAGILE], decode_workers=workers, shard_size=10)
    assert (summary.added, summary.failed, summary.shards) == (23, 3, 3)
    assert reasons(tmp_path / "db") == {
        "img00004_red": "activations:net/concepts gave values that are not finite",
        "img00002_blue": "activations:net/concepts fails on 1 images: ValueError: no blue, please; check the model",
        "img00004_green": "the preprocessing of a model fails: ValueError: no green, please",
    }


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_preprocessing_that_fails_on_every_image_ends_the_pass(images, tmp_path, engine, monkeypatch) -> None:
    network = loaded(NetworkSource("python:fragile_networks:choosy", ("concepts",), name="net"))
    store = create_store(tmp_path / "db")
    with (
        engine_here(engine, monkeypatch) as (runner, _),
        pytest.raises(ModelError, match=r"fails: ValueError: too small, on all images tried, first .*img00001\.png"),
    ):
        indexer.add_images(store, open_source(images), [load_encoder(ENCODER)], [network], engine=runner)
    assert open_index(tmp_path / "db").status()["images"] == 0


@pytest.mark.parametrize("shard_size", few([4, 5, 100], 1))
def test_on_ray_the_same_images_fail_and_the_shards_are_the_same(images, tmp_path, shard_size, monkeypatch) -> None:
    spoil(images)
    for name in ("local", "ray"):
        store = create_store(tmp_path / name)
        with engine_here(name, monkeypatch, shard_size) as (engine, _):
            options = {"shard_size": shard_size, "engine": engine}
            summary = indexer.add_images(
                store, open_source(images), [load_encoder(ENCODER)], [loaded(FRAGILE)], **options
            )
        assert (summary.added, summary.failed) == (23, 3)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert set(reasons(tmp_path / "ray")) == {Path(name).name for name in COLOURS}


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_all_indexed_images_on_which_a_new_layer_fails_are_named(images, tmp_path, engine, monkeypatch, caplog) -> None:
    spoil(images)
    index = open_index(tmp_path / "db")
    index.add_images(images, encoders=[ENCODER], networks=[], shard_size=5)
    before = contents(tmp_path / "db")
    with (
        engine_here(engine, monkeypatch) as (runner, _),
        pytest.raises(ModelError, match=r"net/concepts cannot be finished: of the indexed images a model fails on 3"),
    ):
        indexer.add_images(index.store, None, [load_encoder(ENCODER)], [loaded(FRAGILE)], engine=runner)
    assert set(reasons(tmp_path / "db")) == {Path(name).name for name in COLOURS}
    assert sum("Ctrl-C ends it" in record.message for record in caplog.records) == 1
    after = contents(tmp_path / "db")
    assert {name: after[name] for name in before if name not in ("failures", "layers")} == {
        name: before[name] for name in before if name not in ("failures", "layers")
    }, "nothing of the layer is stored"


@pytest.mark.parametrize("engine", few(["local", "ray"], 1))
def test_the_shards_before_an_unusable_image_are_kept_and_the_layer_is_finished_once_it_is_back(
    images, tmp_path, engine, monkeypatch
) -> None:
    index = open_index(tmp_path / "db")
    only = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(images, encoders=[ENCODER], networks=[], shard_size=5)
    paths = index.sql("SELECT uri FROM images ORDER BY image_id").rows()
    gone, other = Path(paths[11]["uri"]), Path(paths[17]["uri"])
    saved = gone.read_bytes(), other.read_bytes()
    gone.unlink()
    Image.new("RGB", (8, 8), "white").save(other)
    with engine_here(engine, monkeypatch) as (runner, _):
        arguments = (index.store, None, [load_encoder(ENCODER)], [loaded(only)])
        with pytest.raises(SourceError) as error:
            indexer.add_images(*arguments, engine=runner)
    assert "1 cannot be read any more, 1 changed since they were indexed" in str(error.value)
    assert "2 of 5 shards are stored" in str(error.value)
    assert reasons(tmp_path / "db") == {
        gone.stem: "No such file or directory",
        other.stem: "it changed since it was indexed",
    }
    marks = index.sql("SELECT shard FROM shards WHERE what = 'activations:net/concepts' ORDER BY shard").rows()
    assert [row["shard"] for row in marks] == [0, 1]
    gone.write_bytes(saved[0])
    other.write_bytes(saved[1])
    with engine_here(engine, monkeypatch) as (runner, _):
        indexer.add_images(index.store, None, [load_encoder(ENCODER)], [loaded(only)], engine=runner)
    assert reasons(tmp_path / "db") == {}
    whole = open_index(tmp_path / "whole")
    whole.add_images(images, encoders=[ENCODER], networks=[], shard_size=5)
    whole.add_images(None, encoders=[ENCODER], networks=[only])
    assert contents(tmp_path / "db") == contents(tmp_path / "whole") | {"failures": []}
