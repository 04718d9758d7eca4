"""Stored addresses of images are opened only below places that the user named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pyarrow as pa
import pytest
from indexed import ENCODER, NETWORK, WORDS
from PIL import Image

from csp_index import open_index
from csp_index.errors import SourceError
from csp_index.store import originals, schema
from csp_index.store.originals import ImageRoots, read_originals
from csp_index.store.tables import Store


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with an index `db` of images that this user has not named, since another one indexed them."""
    monkeypatch.chdir(tmp_path)
    index = open_index("db")
    index.add_images(fakes.write_images(tmp_path / "images", 23), encoders=[ENCODER], networks=[NETWORK])
    index.label("net/concepts", vocabulary=WORDS, templates="none")
    become_another_user(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index for tests that ask only what may be opened."""
    folder = tmp_path_factory.mktemp("bare")
    open_index(folder / "db").add_images(
        np.zeros((20, 8, 8, 3), np.uint8), name="black", encoders=[ENCODER], networks=[NETWORK]
    )
    return folder / "db"


@pytest.fixture
def beside(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an index `db` and `images` of which it does not know."""
    monkeypatch.chdir(tmp_path)
    fakes.write_images(tmp_path / "images", 23)
    shutil.copytree(bare, tmp_path / "db")
    become_another_user(tmp_path, monkeypatch)
    return tmp_path


def become_another_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_STATE", str(folder / "another user"))
    monkeypatch.setattr(originals, "_named", {})


def point(store: Store, column: str, value: object) -> None:
    """Overwrite a column of the table of images."""
    rows = store.read(schema.IMAGES)
    values = pa.array([value] * len(rows), rows.schema.field(column).type)
    with store.write_lock():
        store.delete(schema.IMAGES, "image_id >= 0")
        store.append(schema.IMAGES, rows.set_column(rows.schema.get_field_index(column), column, values))


PERTURB = ["label", "db", "--layer", "net/concepts", "--neurons", "0", "--contrast", "perturbation"]
EVALUATE = ["evaluate", "db", "--layer", "net/concepts", "--neurons", "0,1", "--perturb", "--resamples", "1"]
OPENING = (PERTURB, EVALUATE, ["index", "db", "--encoder", "python:fakes:other_encoder"])


@pytest.mark.parametrize("command", OPENING, ids=lambda command: command[0])
def test_a_command_opens_no_image_that_only_the_index_names(
    foreign: Path, run: Callable[..., Any], command: list[str]
) -> None:
    said = run(*command)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert f"the image {foreign}/images/" in said.err
    assert "its address comes from the index db" in said.err
    assert "--images DIR (CSP_INDEX_IMAGE_ROOTS)" in said.err
    assert run(*command, "--images", foreign / "elsewhere").status == 1
    assert run(*command, "--images", "images").status == 0


def test_the_setting_opens_them_for_services(
    foreign: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSP_INDEX_IMAGE_ROOTS", os.pathsep.join(["/nowhere", str(foreign / "images")]))
    assert run(*PERTURB).status == 0


def test_indexing_remembers_the_source_for_this_user(
    foreign: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("index", "db", "images").status == 0
    monkeypatch.setattr(originals, "_named", {})  # another process of the user
    assert run(*PERTURB).status == 0
    (file,) = (foreign / "another user").rglob("*.json")
    assert str(foreign / "images") in file.read_text()
    file.write_text("[" * 100_000)
    assert run(*PERTURB, "--recompute", "--seed", "1", "--examples", "5").status == 0  # made and stored already
    with pytest.raises(SourceError):
        list(read_originals(open_index("db").store, [str(foreign / "images" / "b" / "img00000.png")]))


def test_another_index_at_the_same_place_is_another(
    foreign: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("index", "db", "images").status == 0
    shutil.rmtree("db")
    index = open_index("db")
    index.add_images(np.zeros((20, 8, 8, 3), np.uint8), name="noise", encoders=[ENCODER], networks=[NETWORK])
    monkeypatch.setattr(originals, "_named", {})
    assert ImageRoots(open_index("db").store).places == ()


def test_a_card_shows_thumbnails_and_opens_nothing(foreign: Path, run: Callable[..., Any]) -> None:
    assert run("show", "db", "net/concepts/0", "--card", "card.png").status == 0
    point(open_index("db").store, "uri", str(foreign / "secret.png"))
    Image.new("RGB", (8, 8), "red").save(foreign / "secret.png")
    assert run("show", "db", "net/concepts/0", "--card", "card.png").status == 0
    point(open_index("db").store, "thumbnail", None)
    said = run("show", "db", "net/concepts/0", "--card", "card.png")
    assert (said.status, "secret.png is not opened" in said.err) == (1, True)
    assert run("show", "db", "net/concepts/0", "--card", "card.png", "--images", foreign).status == 0


def test_a_model_is_shown_thumbnails(foreign: Path, run: Callable[..., Any]) -> None:
    command = ["candidates", "db", "--layer", "net/concepts", "--neurons", "0", "--vlm", "python:namers:namer"]
    said = run(*command)
    assert said.status == 0, said.err
    assert "pictures are thumbnails: their files are missing, changed or outside --images" in said.out
    said = run(*command, "--again", "--images", "images")
    assert said.status == 0
    assert "thumbnails" not in said.out


@pytest.mark.parametrize("way", ["link", "folder link", "dots", "link and dots", "null", "prefix", "url", "relative"])
def test_no_way_around_the_roots(way: str, beside: Path) -> None:
    (beside / "private").mkdir()
    shutil.copy(beside / "images" / "b" / "img00000.png", beside / "private" / "mine.png")
    shutil.copytree(beside / "private", beside / "images-2")
    os.symlink(beside / "private" / "mine.png", beside / "images" / "link.png")
    os.symlink(beside / "private", beside / "images" / "folder")
    os.makedirs(beside / "images" / "deep" / "er")
    os.symlink(beside / "images" / "deep" / "er", beside / "er")
    uri = {
        "link": "images/link.png",
        "folder link": "images/folder/mine.png",
        "dots": "images/../private/mine.png",
        "link and dots": "images/folder/../private/mine.png",
        "null": "images/b/img00000.png\0",
        "prefix": "images-2/mine.png",
        "url": "https://example.org/images/000.png",
        "relative": "../private/mine.png",
    }[way]
    roots = ImageRoots(open_index("db", image_roots=[beside / "images", "https://example.com/images"]).store)
    assert not roots.allow(uri if "://" in uri else f"{beside}/{uri}")
    assert not roots.allow(uri)


def test_places_in_the_environment_may_be_urls(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = ["s3://bucket/x", str(beside / "images"), "http://localhost:8080/y", "https://example.org"]
    monkeypatch.setenv("CSP_INDEX_IMAGE_ROOTS", os.pathsep.join(places))
    roots = ImageRoots(open_index("db").store)
    assert roots.places == tuple(places)
    for place in places:
        assert roots.allow(f"{place}/000.png")


@pytest.mark.parametrize("way", ["../secret", "a/../../secret", "%2e%2e/secret", "%2E./secret", "..\\secret", ".."])
def test_no_url_climbs_out_of_its_place(way: str, beside: Path) -> None:
    roots = ImageRoots(open_index("db", image_roots="https://example.com/images").store)
    assert roots.allow("https://example.com/images/a..b/1.png")
    assert not roots.allow(f"https://example.com/images/{way}")


def test_what_the_roots_allow(beside: Path) -> None:
    os.symlink(beside / "images", beside / "link")
    roots = ImageRoots(open_index("db", image_roots=["link", "https://example.com/images/", "one.tar"]).store)
    (beside / "one.tar").touch()
    for uri in (
        f"{beside}/images/000.png",
        f"{beside}/link/000.png",
        f"{beside}/images/not/there.png",
        f"{beside}/images/table.parquet#7",
        f"{beside}/one.tar#a/b.png",
        "https://example.com/images/1.png",
        "dataset:mine/3",
        "array#12",
    ):
        assert roots.allow(uri), uri
    assert ImageRoots(open_index("db", image_roots="images").store).allow(f"{beside}/images/000.png")


def test_objects_in_memory_need_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(originals, "_named", {})
    pictures = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), dtype=np.uint8)
    index = open_index("db")
    index.add_images(pictures, name="noise", encoders=[ENCODER], networks=[NETWORK])
    index.label("net/concepts/0", vocabulary=WORDS, templates="none", contrast="perturbation")
