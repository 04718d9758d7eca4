"""Properties of what is read about images: tables of metadata, shards, addresses, encoded pictures."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import JSON, QUICK, damaged, like, refusing
from PIL import Image
from pyarrow import parquet

from csp_index.errors import SourceError
from csp_index.images.datasets import DatasetImages
from csp_index.images.decode import ImageFailure, decode, fetch, read_image
from csp_index.images.files.containers import ContainerReader, container_of
from csp_index.images.sample_metadata import sample_metadata
from csp_index.images.sources import open_source
from csp_index.images.tables.join_table import PathTable
from csp_index.images.tar_shards import TarSource, _sample_and_ending


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(file, "PNG")
    return file.getvalue()


PNG = _png()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("images")
    (place / "a.png").write_bytes(PNG)
    (place / "sub").mkdir()
    (place / "sub" / "b.png").write_bytes(PNG)
    return place


@QUICK
@given(
    st.one_of(
        like("path", "caption", ",", '"', "\n", "a.png", "sub/b.png", "2026-01-01", "1.5").map(str.encode),
        damaged(b"path,caption\na.png,red\nsub/b.png,blue\n"),
        st.binary(max_size=40),
    ),
    st.sampled_from([".csv", ".tsv", ".json", ".jsonl"]),
)
@example(b"path,b\n", ".csv")
@example(b'"path"x,b\na.png,1\n', ".csv")
@example(b"\npath,b\na.png,1\n", ".csv")
@example(b"caption,where\n" + b"x" * 300 + b",a.png\n", ".csv")
@example(b"caption,where\nx\0y,a.png\n", ".csv")
@example(b'pa"th,b\na.png,1\n', ".csv")
@example(b'"a\nb",c\nd,e\n', ".csv")
@example(b"path\xff,b\na.png,1\n", ".csv")
def test_any_table_is_joined_or_refused(folder: Path, data: bytes, suffix: str) -> None:
    file = folder / f"table{suffix}"
    file.write_bytes(data)
    with refusing(SourceError):
        table = PathTable(file, folder, ["a.png", "sub/b.png"], [".png"])
        for image in ("a.png", "sub/b.png"):
            json.dumps(table.row(image), default=str).encode()


@QUICK
@given(
    st.sampled_from(["json", "cls", "txt"]),
    st.one_of(
        JSON.map(lambda v: json.dumps(v).encode()),
        st.binary(max_size=30),
        like("-", "5", "[", "null", '"').map(str.encode),
    ),
)
@example("cls", b"--5")
@example("cls", b"-")
@example("cls", "\u0663".encode())
@example("json", b'{"split": "\\ud800"}')
@example("json", b"[" * 5000)
@example("json", b"9" * 5000)
def test_any_metadata_of_a_member_can_be_stored_or_is_refused(ending: str, data: bytes) -> None:
    with refusing(SourceError):
        value = sample_metadata(ending, data)
        json.dumps(value, ensure_ascii=False).encode()
        assert ending != "cls" or isinstance(value["cls"], str) or -(2**63) <= int(str(value["cls"])) < 2**63


@QUICK
@given(like("a", "/", ".", "png", "seg.png"))
def test_the_name_of_a_member_is_its_sample_and_its_ending(name: str) -> None:
    sample, ending = _sample_and_ending(name)
    assert name.lower().startswith(sample.lower()) and "/" not in ending and ending == ending.lower()


def _tar(members: dict[bytes, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


WHOLE = _tar({b"0001.png": PNG, b"0001.cls": b"7", b"0002.png": PNG, b"0002.json": b'{"a": 1}', b"0003.png": PNG})
ODD_CLASS = _tar({b"0001.png": PNG, b"0001.cls": b"--5", b"0002.png": PNG})
ODD_NAME = _tar({b"0001.png": PNG, b"000\xff2.png": PNG})


@QUICK
@given(st.one_of(damaged(WHOLE), damaged(WHOLE[:1024]), st.binary(max_size=600)))
@example(ODD_CLASS)
@example(ODD_NAME)
def test_any_shard_is_listed_and_read_or_refused(folder: Path, data: bytes) -> None:
    file = folder / "shard.tar"
    file.write_bytes(data)
    reader = ContainerReader()
    with refusing(SourceError):
        for ref in TarSource(str(file), [file], None).refs():
            pa.array([ref.uri, ref.failure or ""])  # they are stored
            read_image(ref.uri, fetch(reader, ref.uri))
            json.dumps(ref.metadata, ensure_ascii=False).encode()
    reader.close()


def test_a_class_that_is_no_number_costs_no_other_member(folder: Path) -> None:
    file = folder / "shard.tar"
    file.write_bytes(ODD_CLASS)
    refs = list(TarSource(str(file), [file], None).refs())
    assert [ref.uri.rpartition("#")[2] for ref in refs] == ["0001.png", "0002.png"]
    assert refs[0].metadata == {"cls": "--5"}


def test_a_member_whose_name_is_no_text_is_a_failure(folder: Path) -> None:
    file = folder / "shard.tar"
    file.write_bytes(ODD_NAME)
    refs = list(TarSource(str(file), [file], None).refs())
    assert [ref.uri.rpartition("#")[2] for ref in refs] == ["0001.png", "000\\xff2.png"]
    assert [ref.failure for ref in refs] == [None, "its name is not UTF-8 text"]


def _table() -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table({"image": [PNG, PNG], "label": ["a", None]}), file)
    return file.getvalue()


PARQUET = _table()


@QUICK
@given(st.one_of(damaged(PARQUET), st.binary(max_size=40)))
def test_any_parquet_file_is_listed_and_read_or_refused(folder: Path, data: bytes) -> None:
    file = folder / "table.parquet"
    file.write_bytes(data)
    reader = ContainerReader()
    with refusing(SourceError):
        for ref in open_source(file).refs():
            pa.array([ref.uri, ref.failure or ""])
            read_image(ref.uri, fetch(reader, ref.uri))
    reader.close()


@QUICK
@given(
    like("table.parquet", "shard.tar", "#", "1", "0001.png", "@image", "sub", "a.png", "/", "train/", "dataset:x/", "0")
)
@example("table.parquet#" + "9" * 5000)
@example("table.parquet#\u0663")
@example("\ud800#1")
@example("\0")
@example("dataset:held/" + "9" * 5000)
def test_any_address_is_a_picture_or_a_failure(folder: Path, text: str) -> None:
    (folder / "table.parquet").write_bytes(PARQUET)
    (folder / "shard.tar").write_bytes(WHOLE)
    held = DatasetImages([Image.new("RGB", (2, 2))], "held")
    held.find(text)
    reader = ContainerReader()
    for uri in (text, f"{folder}/{text}"):
        address = container_of(uri)
        assert address is None or uri == f"{address.path}#{address.key}"
        read = read_image(uri, fetch(reader, uri))
        if isinstance(read, ImageFailure):
            assert read.reason and "\n" not in read.reason
    reader.close()


@QUICK
@given(st.one_of(damaged(PNG), st.binary(max_size=60)))
def test_any_bytes_are_a_picture_or_refused(data: bytes) -> None:
    with refusing(SourceError):
        assert decode(data).mode == "RGB"
