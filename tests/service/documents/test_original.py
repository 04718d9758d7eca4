"""Original pictures: upright, bounded, without metadata, only of files that are the ones indexed, never by a path."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from indexed import ENCODER
from PIL import Image
from planted import DERIVED, Served
from starlette.testclient import TestClient

from csp_index import open_index
from csp_index.errors import BusyError, NotFoundError, StoreError
from csp_index.service import ServiceSettings, make_app
from csp_index.service.documents import original as module
from csp_index.service.documents.original import has_original, original_picture
from csp_index.service.snapshot import Snapshot
from csp_index.store import originals

SECRET = b"a secret of the owner"
TURNED, LARGE, SMALL, CHANGED, GONE, PACKED = range(6)  # the images below, by id


def make(folder: Path) -> Path:
    """Index six images, then change one of their files and delete another; return the index."""
    place = folder / "images"
    place.mkdir()
    seen = Image.Exif()
    seen[0x0112], seen[0x010E] = 6, SECRET.decode()  # to be turned by 90 degrees; a description
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    flat = Image.new("RGB", (1200, 600), "red")
    flat.save(place / "0.jpg", exif=seen, icc_profile=SECRET)
    flat.resize((3000, 1500)).save(place / "1.jpg")
    for name in ("2", "3", "4"):
        Image.fromarray(pixels).save(place / f"{name}.png")
        pixels = pixels[::-1]
    with tarfile.open(folder / "shard.tar", "w") as shard:
        shard.add(place / "2.png", "in.png")
    index = open_index(folder / "pictured.db")
    index.add_images(place, encoders=[ENCODER])
    index.add_images(folder / "shard.tar", encoders=[ENCODER])
    Image.fromarray(pixels // 2).save(place / "3.png")
    (place / "4.png").unlink()
    return folder / "pictured.db"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("pictured"))


@pytest.fixture
def snapshot(db: Path) -> Snapshot:
    return Snapshot(db)


def opened(snapshot: Snapshot, image: int) -> tuple[Image.Image, bytes]:
    data, kind = original_picture(snapshot, image)
    picture = Image.open(io.BytesIO(data))
    assert kind == f"image/{str(picture.format).lower()}"
    return picture, data


def test_it_is_upright_and_has_nothing_of_the_file_but_pixels(snapshot: Snapshot) -> None:
    picture, data = opened(snapshot, TURNED)
    assert picture.size == (600, 1200)
    assert SECRET not in data and b"Exif" not in data and not picture.getexif()


def test_it_is_of_bounded_size(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(snapshot, LARGE)[0].size == (2048, 1024)
    monkeypatch.setenv("CSP_INDEX_SERVE_ORIGINAL_SIDE", "500")
    assert opened(snapshot, LARGE)[0].size == (500, 250)


@pytest.mark.parametrize("image", [SMALL, PACKED])
def test_a_small_one_is_sent_pixel_by_pixel(snapshot: Snapshot, db: Path, image: int) -> None:
    picture, _ = opened(snapshot, image)
    expected = Image.open(db.parent / "images" / "2.png")
    assert picture.format == "PNG" and np.array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize("image", [CHANGED, GONE])
def test_another_file_than_the_one_indexed_is_not_shown(snapshot: Snapshot, db: Path, image: int) -> None:
    with pytest.raises(NotFoundError, match=f"the original of image {image} is not shown") as caught:
        original_picture(snapshot, image)
    assert str(db.parent) not in str(caught.value) and ".png" not in str(caught.value)


def test_the_hash_is_compared_before_anything_is_decoded(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(originals, "decode_picture", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(NotFoundError):
        original_picture(snapshot, CHANGED)


def test_whether_there_is_one_to_show(snapshot: Snapshot) -> None:
    assert [has_original(snapshot, image) for image in range(6)] == [True, True, True, True, False, True]


def test_a_picture_in_an_object_store_is_shown_without_a_request_first(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = {"uri": "s3://photos/birds/a.jpg", "sha256": "0" * 64}
    monkeypatch.setattr(module, "_row", lambda *_: row)
    assert not has_original(snapshot, SMALL)  # in no place that was named
    originals.allow(snapshot.store.uri, "s3://photos/birds")
    assert has_original(Snapshot(snapshot.store.uri), SMALL)


def test_a_place_that_nobody_named_is_not_opened(db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_STATE", str(tmp_path / "another user"))
    monkeypatch.setattr(originals, "_named", {})
    snapshot = Snapshot(db)
    for image in (SMALL, PACKED):
        assert not has_original(snapshot, image)
        with pytest.raises(NotFoundError, match="is not opened") as caught:
            original_picture(snapshot, image)
        assert str(db.parent) not in str(caught.value)


def test_an_index_of_a_stranger_shows_no_other_file(
    snapshot: Snapshot, db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, inside = tmp_path / "key.txt", db.parent / "images" / "notes.txt"
    link = db.parent / "images" / "link.png"
    for file in (outside, inside):
        file.write_bytes(SECRET)
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    link.symlink_to(tmp_path / "mine.png")
    known = hashlib.sha256(SECRET).hexdigest()
    climbing = f"{db.parent}/images/../../{tmp_path.name}/key.txt"
    for uri, sha256 in (
        (str(outside), known),
        (str(inside), known),  # below a named place, and no picture
        (climbing, known),
        (str(link), hashlib.sha256((tmp_path / "mine.png").read_bytes()).hexdigest()),
        (f"file://{outside}", known),
        (f"{db.parent}/images/2.png", None),  # nobody knows what was indexed
        (f"{db.parent}/images/2.png", ""),
    ):
        monkeypatch.setattr(module, "_row", lambda *_, row={"uri": uri, "sha256": sha256}: row)
        with pytest.raises(NotFoundError) as caught:
            original_picture(snapshot, SMALL)
        assert str(tmp_path) not in str(caught.value) and str(db.parent) not in str(caught.value)
    inside.unlink()
    link.unlink()


def test_few_are_read_at_the_same_time(snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.0)
    with module._turns, module._turns, pytest.raises(BusyError, match="too many original pictures"):
        original_picture(snapshot, SMALL)
    assert opened(snapshot, SMALL)


def test_slow_object_stores_hold_no_page_and_no_other_original(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrived, go_on, plain = threading.Semaphore(0), threading.Event(), originals.read_plain

    def slow(uri: str, **given: object) -> bytes:
        if uri.endswith("2.png"):
            return plain(uri)
        arrived.release()
        go_on.wait(20)
        raise StoreError("s3://secret does not answer")

    monkeypatch.setattr(originals, "read_plain", slow)
    with (
        TestClient(make_app(db, ServiceSettings(threads=2)), "http://127.0.0.1:8000") as client,
        ThreadPoolExecutor(2) as pool,
    ):
        waiting = [pool.submit(client.get, f"/images/{image}/original") for image in (TURNED, LARGE)]
        try:
            assert all(arrived.acquire(timeout=60) for _ in waiting)
            replies = [pool_get(client, path) for path in ("/", f"/images/{SMALL}/original")]
        finally:
            go_on.set()
        assert [reply.status_code for reply in replies] == [200, 200]
        for reply in (one.result() for one in waiting):
            assert reply.status_code == 503 and "does not answer" in reply.text and "secret" not in reply.text


def pool_get(client: TestClient, path: str) -> Any:
    """Ask in a thread, so that a service that does not answer fails the test in place of holding it."""
    return ThreadPoolExecutor(1).submit(client.get, path).result(timeout=60)


def test_a_derived_image_is_shown_from_the_index(planted: Served) -> None:
    assert original_picture(planted[0], DERIVED)[1] == "image/png" and has_original(planted[0], DERIVED)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        ({}, 200),
        ({"originals": False}, 404),
        ({"host": "0.0.0.0", "public_read": True}, 404),
        ({"host": "0.0.0.0", "public_read": True, "originals": True}, 200),
        ({"host": "0.0.0.0", "token": "a token of some length"}, 200),
    ],
)
def test_strangers_see_none_unless_the_service_says_so(db: Path, given: dict[str, object], status: int) -> None:
    app = make_app(db, ServiceSettings(**given))  # type: ignore[arg-type]
    with TestClient(app, "http://127.0.0.1:8000") as client:
        headers = {"authorization": f"Bearer {given['token']}"} if "token" in given else {}
        reply = client.get(f"/images/{SMALL}/original", headers=headers)
        assert reply.status_code == status
        assert ("--originals" in reply.text) == (status == 404)
        shown = f'src="/images/{SMALL}/original"' in client.get(f"/images/{SMALL}", headers=headers).text
        assert shown == (status == 200)
        assert 'original"' not in client.get(f"/images/{GONE}", headers=headers).text


def test_an_image_that_is_not_there(planted: Served) -> None:
    for image in (-1, 40, 2**31, 2**63 - 1):
        with pytest.raises(NotFoundError, match="does not exist"):
            original_picture(planted[0], image)
