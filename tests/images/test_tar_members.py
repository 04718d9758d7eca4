"""Tar shards as people have them: compressed, with members of other endings or none, some without images."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pictures import encoded, listed, number_of, plain, png
from tar_files import samples, shard

from csp_index.errors import SourceError
from csp_index.images.decode import read_images
from csp_index.images.passed_over import passed_over_by
from csp_index.images.sources import open_source


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2"), ("a.tar.xz", "w:xz"), ("a.tar", "w:gz")],
)
def test_a_compressed_shard_is_read(tmp_path: Path, name: str, mode: str) -> None:
    path = shard(tmp_path / name, samples(3), mode)
    for source in (open_source(path), open_source(tmp_path)):
        uris = [ref.uri for ref in listed(source)]
        assert uris == [f"{path.resolve()}#{number:09}.jpg" for number in range(3)]
        assert [number_of(read) for read in read_images(uris)] == [0, 1, 2]
        assert [number_of(read) for read in read_images(reversed(uris))] == [2, 1, 0]


@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) * 2 // 3], lambda data: data[:-9] + b"x" * 9])
def test_a_damaged_compressed_shard_is_a_failure(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    members = {f"{n}.png": encoded(plain((n, 0, 0), (9, 9))) + os.urandom(3000) for n in range(30)}
    path = shard(tmp_path / "a.tar.gz", members, "w:gz")
    path.write_bytes(spoil(path.read_bytes()))
    refs = list(open_source(path).refs())
    assert refs[-1].uri.endswith("#damaged shard") or len(refs) == 30
    assert len(refs) > 15


def test_members_of_other_endings_or_none_are_found_and_others_counted(tmp_path: Path) -> None:
    members = {"a": png(1), "b.bin": png(2), "c.npy": b"none", "d.mp4": b"none", "e.jpg": png(3), "e.json": b"{}"}
    path = shard(tmp_path / "a.tar", members)
    source = open_source(path)
    assert [ref.uri.rpartition("#")[2] for ref in listed(source)] == ["a", "b.bin", "e.jpg"]
    assert dict(passed_over_by(source)) == {".npy": 1, ".mp4": 1}
    assert [ref.uri.rpartition("#")[2] for ref in listed(open_source(path, image_column="jpg"))] == ["e.jpg"]


def test_shards_without_images_beside_those_with_images_do_not_matter(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar", {"a.txt": b"text"})
    shard(tmp_path / "1.tar", samples(1))
    (tmp_path / "2.tar").write_bytes(b"damaged")
    refs = list(open_source(tmp_path).refs())
    assert [bool(ref.failure) for ref in refs] == [False, True]
    shutil.rmtree(tmp_path)
    shard(tmp_path / "0.tar", {"a.txt": b"text"})
    shard(tmp_path / "1.tar", {"a.txt": b"text"})
    with pytest.raises(SourceError, match=r"0\.tar \(and 1 other shards?\) holds no image"):
        open_source(tmp_path)
