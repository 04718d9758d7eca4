"""Images below a prefix of an object store: the same as those of a folder, and one line for each failure."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import fakes
import pytest
from bucket_images import picture, put
from buckets import SECRET, Bucket
from PIL import Image

from csp_index import NetworkSource, open_index
from csp_index.errors import SourceError, StoreError
from csp_index.images.decode import ImageRead, read_images, uris_of
from csp_index.images.files.bucket_files import _bucket_client
from csp_index.images.sources import open_source

pytestmark = pytest.mark.s3


@pytest.fixture(autouse=True)
def fresh_clients() -> None:
    """Each bucket has a client that knows the server of its test."""
    _bucket_client.cache_clear()


def copy(bucket: Bucket, folder: Path) -> str:
    """Copy a folder into the bucket, and return its address."""
    files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    put(bucket, {f"deep/photos/{name}": data for name, data in files.items()})
    return f"s3://{bucket.name}/deep/photos/"


def write_folder(folder: Path) -> Path:
    """Write pictures in class folders, with neighbors that say something and some that do not, of odd names."""
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "train/cat/1.jpg": picture(exif=turned),
        "train/cat/a b#2.jpg": picture("green"),
        "train/cat/grün 100%.jpg": picture("blue"),
        "train/cat-of-mine/1.jpg": picture("gray"),
        "train/dog/1.jpg": picture("white"),
        "train/dog/1.json": json.dumps({"weight": 12}).encode(),
        "train/dog/1.txt": b"a white dog",
        "train/dog/5f0000": picture("black"),
        "train/dog/2.jpg": picture("pink"),
        "test/cat/1.jpg": picture("navy"),
        "test/dog/1.jpg": picture("teal"),
        "test/dog/.hidden.jpg": picture("teal"),
        "test/.folder/1.jpg": picture("teal"),
        "notes.md": b"text",
        "lone.json": b"{}",
    }
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_a_bucket_is_listed_like_the_folder_that_it_copies(bucket: Bucket, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos")
    here, there = open_source(folder), open_source(copy(bucket, folder))
    start = f"{there.name}/"
    assert start == f"s3://{bucket.name}/deep/photos/"
    known = [(ref.uri.removeprefix(start), ref.metadata, ref.failure) for ref in there.refs()]
    assert known == [(ref.uri.removeprefix(f"{folder}/"), ref.metadata, ref.failure) for ref in here.refs()]
    assert len(known) == 9 and known[-1][1] == {"split": "train", "label": "dog"}
    assert [ref[1] for ref in known if ref[0] == "train/dog/1.jpg"] == [
        {"split": "train", "label": "dog", "weight": 12, "txt": "a white dog"}
    ]
    assert there.passed_over == here.passed_over and there.class_notes == here.class_notes
    assert list(uris_of(there)) == [ref.uri for ref in there.refs()]


def test_pictures_are_read_as_from_a_disk(bucket: Bucket, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos")
    here, there = open_source(folder), open_source(copy(bucket, folder))
    for one, other in zip(read_images(uris_of(here)), read_images(uris_of(there)), strict=True):
        assert isinstance(one, ImageRead) and isinstance(other, ImageRead)
        assert (one.sha256, one.width, one.height) == (other.sha256, other.width, other.height)
        assert one.image.tobytes() == other.image.tobytes()


@pytest.mark.parametrize("beside", [True, False])
def test_a_table_is_joined(bucket: Bucket, tmp_path: Path, beside: bool) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (folder / name).write_bytes(picture())
    table = (folder if beside else tmp_path) / "metadata.csv"
    table.write_text("file,kind\na.jpg,cat\nb.jpg,dog\n")
    source = open_source(copy(bucket, folder), metadata=None if beside else table)
    assert [ref.metadata["kind"] for ref in source.refs()] == ["cat", "dog"]
    assert "metadata.csv" in source.notes[0] and not source.passed_over
    put(bucket, {"deep/photos/metadata.csv": b"file,kind\nz.jpg,cat\n"})
    with pytest.raises(SourceError, match=rf"s3://{bucket.name}/deep/photos/metadata.csv: ") as refused:
        open_source(f"s3://{bucket.name}/deep/photos")
    assert "/tmp" not in str(refused.value)


def test_what_must_lie_on_a_disk_is_counted(bucket: Bucket) -> None:
    put(
        bucket, {"p/a.jpg": picture(), "p/s.tar": b"x", "p/t.parquet": b"x", "p/in/metadata.csv": b"x", "p/z.zip": b"x"}
    )
    source = open_source(f"s3://{bucket.name}/p")
    assert {reason.split(" (")[0]: count for reason, count in source.passed_over.items()} == {
        "tar shards": 1,
        ".parquet": 1,
        ".csv": 1,
        ".zip": 1,
    }


def test_an_index_of_a_bucket_grows_and_keeps_its_ids(bucket: Bucket, tmp_path: Path) -> None:
    folder = fakes.write_images(tmp_path / "images", 12)
    uri = copy(bucket, folder)
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(uri, encoders=["python:fakes:encoder"], networks=[network], shard_size=5)
    rows = index.sql("SELECT image_id, uri FROM images ORDER BY image_id").to_arrow().to_pylist()
    assert [row["uri"] for row in rows] == list(uris_of(open_source(uri))) and len(rows) == 12
    put(bucket, {"deep/photos/a/000.png": next(folder.rglob("*.png")).read_bytes()})  # before all others
    index.add_images(uri, encoders=["python:fakes:encoder"], networks=[network], shard_size=5)
    grown = index.sql("SELECT image_id, uri FROM images ORDER BY image_id").to_arrow().to_pylist()
    assert grown[:12] == rows and grown[12]["uri"].endswith("/a/000.png") and len(grown) == 13
    plain = open_index(tmp_path / "plain")
    plain.add_images(folder, encoders=["python:fakes:encoder"], networks=[network], shard_size=5)
    column = "SELECT image_id, embedding FROM embeddings WHERE image_id < 12 ORDER BY image_id"
    assert plain.sql(column).to_arrow() == index.sql(column).to_arrow()


BROKEN = {
    "missing": "cannot be listed: the bucket does not exist: make it first",
    "unreachable": "cannot be listed: the server does not answer: check AWS_ENDPOINT_URL",
    "denied": "cannot be listed: no permission .AccessDenied.: check the keys",
    "empty": "holds no images: 0 other files",
    "double slash": "cannot be listed .*empty path segment.*: rename that object",
    "no obstore": r"needs obstore: pip install 'csp_index\[storage\]'",
    "column": "takes no image_column",
}


@pytest.mark.parametrize("how", BROKEN)
def test_each_failure_is_one_line(bucket: Bucket, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    put(bucket, {"p/a.jpg": picture()})
    uri, options = f"s3://{bucket.name}/p", {}
    if how == "missing":
        uri = "s3://no-such-bucket/p"
    if how == "unreachable":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    if how == "denied":
        bucket.server.refuses = lambda method: True
    if how == "empty":
        uri = f"s3://{bucket.name}/nothing"
    if how == "double slash":
        boto = pytest.importorskip("boto3").client("s3", endpoint_url=bucket.server.url)
        boto.put_object(Bucket=bucket.name, Key="p//b.jpg", Body=b"x")
    if how == "no obstore":
        monkeypatch.setitem(sys.modules, "obstore.store", None)
    if how == "column":
        options["image_column"] = "jpg"
    with pytest.raises((SourceError, StoreError)) as refused:
        open_source(uri, **options)
    line = str(refused.value)
    assert re.search(BROKEN[how], line) and "\n" not in line and len(line) < 400 and SECRET not in line


def test_an_index_from_a_stranger_sends_no_request_to_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    from csp_index.store.originals import ImageRoots, read_indexed

    folder = fakes.write_images(tmp_path / "images", 4)
    index = open_index(tmp_path / "db")
    index.add_images(copy(bucket, folder), encoders=["python:fakes:encoder"])
    shutil.copytree(tmp_path / "db", tmp_path / "moved")
    roots = ImageRoots(open_index(tmp_path / "moved").store)
    bucket.server.requests.clear()
    with pytest.raises(SourceError, match="lies in no place that you named"):
        read_indexed(roots, f"s3://{bucket.name}/deep/photos/a/img00000.png", "")
    assert bucket.server.requests == []
    with pytest.raises(SourceError, match="is another file than the one indexed"):
        read_indexed(ImageRoots(index.store), next(uris_of(open_source(f"s3://{bucket.name}/deep/photos"))), "0")


def test_a_prefix_is_taken_as_it_is_written(bucket: Bucket) -> None:
    put(bucket, {"set/other.jpg": picture("green")})
    for name in ("set#1", "100% new?", "a%20b"):
        put(bucket, {f"{name}/1.jpg": picture()})
        uris = list(uris_of(open_source(f"s3://{bucket.name}/{name}/")))
        assert uris == [f"s3://{bucket.name}/{name}/1.jpg"]
        assert [type(read) for read in read_images(uris)] == [ImageRead]
    with pytest.raises(SourceError, match=r"has \. or \.\. in it"):
        open_source(f"s3://{bucket.name}/set/../set/")
