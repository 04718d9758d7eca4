"""Tar shards: members that belong together, odd members that cost themselves alone, members without end, damage."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest
from indexed import ENCODER, NETWORK
from odd_files import in_time, sparse
from pictures import listed, number_of, plain, png

from csp_index import open_index
from csp_index.errors import SourceError
from csp_index.images.decode import ImageFailure, ImageRef, read_images
from csp_index.images.loader import decoded
from csp_index.images.passed_over import passed_over_by
from csp_index.images.sources import open_source


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, first: int = 0, count: int = 4) -> Path:
    members: dict[str, bytes] = {}
    for row in range(count):
        members[f"train/{row:04}.jpg.png" if row == 3 else f"train/{row:04}.png"] = png(first + row)
        members[f"train/{row:04}.cls"] = b"3\n"
        members[f"train/{row:04}.txt"] = b"a caption"
        members[f"train/{row:04}.json"] = json.dumps({"row": row}).encode()
    return tar_of(path, members)


def test_tar_members_of_one_sample_belong_together(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    refs = listed(open_source(path))
    assert refs[1] == ImageRef(f"{path.resolve()}#train/0001.png", {"cls": 3, "txt": "a caption", "row": 1})
    assert [number_of(result) for result in read_images([ref.uri for ref in refs])] == [0, 1, 2, 3]
    assert [number_of(result) for result in read_images([ref.uri for ref in refs[::-1]])] == [3, 2, 1, 0]
    assert len(list(open_source(path, image_column="png").refs())) == 3, "the other one ends in .jpg.png"
    with pytest.raises(SourceError, match=r"no member that ends in .webp"):
        open_source(path, image_column="webp")


def test_folder_of_shards_and_a_damaged_one(tmp_path: Path) -> None:
    shard(tmp_path / "0.tar")
    data = shard(tmp_path / "1.tar", first=50).read_bytes()
    (tmp_path / "1.tar").write_bytes(data[:700])
    (tmp_path / "2.tar").write_bytes(b"x" * 2000)
    results = list(read_images([ref.uri for ref in listed(open_source(tmp_path))]))
    assert [number_of(result) for result in results[:4]] == [0, 1, 2, 3]
    assert any("2.tar#" in result.uri for result in results if isinstance(result, ImageFailure))
    (missing,) = read_images([f"{tmp_path}/0.tar#train/none.png"])
    assert isinstance(missing, ImageFailure)
    assert missing.reason == "the shard has no member 'train/none.png'"
    with pytest.raises(SourceError, match="holds its images and their columns itself, and takes no metadata: give"):
        open_source(tmp_path, metadata=tmp_path / "any.csv")
    with pytest.raises(SourceError, match="itself, and takes no class_names: give a folder"):
        open_source(tmp_path, class_names=tmp_path / "any.txt")
    with pytest.raises(SourceError, match="a list as a source takes no class_names and no image_column: its items"):
        open_source([png(1)], class_names=tmp_path / "any.txt", image_column="jpg")


def test_shard_written_by_webdataset_is_read(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        writer.write({"__key__": "sample/1", "png": plain((9, 0, 0)), "cls": 4, "json": {"size": "big"}})
    (ref,) = open_source(tmp_path / "w.tar").refs()
    assert ref.metadata == {"cls": 4, "size": "big"}
    assert number_of(next(iter(read_images([ref.uri])))) == 9


def failures(path: Path) -> dict[str, str]:
    """The reason of each failure among a source's images, by what stands behind the # of its URI."""
    found = decoded(open_source(path).refs(), [])
    return {item.uri.partition("#")[2]: item.reason for item in found if isinstance(item, ImageFailure)}


ODD_MEMBERS = {
    "deep.json": (b"[" * 100_000 + b"]" * 100_000, "more than 64 lists and objects inside each other"),
    "deep_objects.json": (b'{"a":' * 70 + b"1" + b"}" * 70, "more than 64 lists and objects inside each other"),
    "long.cls": (b"7" * 5000, "the class number has 5,000 digits: expected one of 64 bits"),
    "wide.cls": (b"9" * 19, "the class number has 19 digits: expected one of 64 bits"),
    "large.txt": (b"x" * (2**20 + 1), r"the metadata has 1,048,577 bytes, more than the setting max_metadata_bytes"),
}


def test_an_odd_metadata_member_costs_itself_alone_and_names_its_reason(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for name, (data, _) in ODD_MEMBERS.items():
        stem = name.partition(".")[0]
        members |= {f"{stem}.png": png(1), name: data, f"{stem}.seg.json": b"{}", f"{stem}.x": b""}
        members |= {f"{stem}2.png": png(2), f"{stem}2.json": b'{"good": 1}'}
    path = tar_of(tmp_path / "odd.tar", members)
    refs = [ref for ref in listed(open_source(path)) if ref.failure is None]
    assert len(refs) == 2 * len(ODD_MEMBERS), "every image is there"
    assert [ref.metadata for ref in refs] == [{}, {"good": 1}] * len(ODD_MEMBERS)
    reasons = failures(path)
    assert set(reasons) == set(ODD_MEMBERS)
    for name, (_, reason) in ODD_MEMBERS.items():
        assert reason in reasons[name]


def test_metadata_that_is_just_small_enough_is_metadata(tmp_path: Path) -> None:
    deep = b"[" * 64 + b"]" * 64
    path = tar_of(tmp_path / "a.tar", {"a.png": png(1), "a.cls": b"-9223372036854775808", "a.json": deep})
    (ref,) = open_source(path).refs()
    assert ref.metadata["cls"] == -(2**63)
    assert "json" in ref.metadata
    json.dumps(ref.metadata)
    path = tar_of(tmp_path / "b.tar", {"a.png": png(1), "a.json": b"null", "a.txt": b"x" * 2**20})
    (ref,) = open_source(path).refs()
    assert ref.metadata["json"] is None
    assert ref.metadata["txt"] == "x" * 2**20


def sparse_member(path: Path, size: int, name: str = "huge.png") -> Path:
    """A shard with a good image, a member of `size` zeros that takes 20 kB, and a good image."""
    tar_of(path, {"a.png": png(1)})
    whole = path.read_bytes().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512)
    info = tarfile.TarInfo(name)
    info.size = 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386 : 386 + 24] = b"%011o\0%011o\0" % (0, 0)
    header[483:495] = b"\x80" + size.to_bytes(11, "big") if size >= 8**11 else b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    rest = tar_of(path.with_suffix(".rest"), {"b.png": png(2)}).read_bytes()
    path.write_bytes(whole + bytes(header) + rest)
    return path


@pytest.mark.parametrize("size", [4 * 2**30, 2**50])
def test_a_sparse_member_is_refused_by_its_size_and_its_neighbours_are_read(size: int, tmp_path: Path) -> None:
    path = sparse_member(tmp_path / "sparse.tar", size)
    with in_time():
        one, huge, two = read_images(ref.uri for ref in open_source(path).refs())
    assert (number_of(one), number_of(two)) == (1, 2)
    assert isinstance(huge, ImageFailure)
    assert huge.reason == f"the member has {size:,} bytes, more than the setting max_image_bytes allows (268,435,456)"


def test_sparse_metadata_is_refused_by_its_size(tmp_path: Path) -> None:
    path = sparse_member(tmp_path / "sparse.tar", 2**40, "a.json")
    with in_time():
        assert failures(path) == {
            "a.json": "the metadata has 1,099,511,627,776 bytes, more than the setting max_metadata_bytes allows "
            "(1,048,576)"
        }


def test_a_shard_that_breaks_off_names_its_reason(tmp_path: Path) -> None:
    whole = shard(tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[: 6 * 1024 + 100])  # in the second sample
    reasons = failures(tmp_path / "a.tar")
    assert list(reasons) == ["damaged shard"]
    assert "cannot be read as a tar shard to its end: " in reasons["damaged shard"]


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    data = bytearray(path.read_bytes())
    data[8 * 512 + 3] ^= 255  # the name of a member of the second sample
    path.write_bytes(data)
    assert [ref.failure is None for ref in open_source(path).refs()].count(True) >= 1
    assert "to its end: the header at byte 4,096 is damaged" in failures(path)["damaged shard"]


def test_a_shard_without_an_end_mark_is_whole(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar")
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    path.write_bytes(path.read_bytes()[: last.offset_data + 512])
    assert failures(path) == {}


def test_a_member_of_negative_size_ends_the_shard_with_a_reason(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"a.png": png(1)})
    whole = path.read_bytes().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512)
    info = tarfile.TarInfo("b.png")
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-1024).to_bytes(12, "big", signed=True)  # the member would end before it begins
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path.write_bytes(whole + bytes(header) + b"\0" * 1024)
    with in_time():
        reasons = failures(path)
    assert "to its end: the size in the header at byte 1,024 is negative" in reasons["damaged shard"]


def test_a_name_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 2**30
    tar_of(path, {"a.png": png(1)})
    whole = path.read_bytes().rstrip(b"\0")
    whole += b"\0" * (-len(whole) % 512)
    path.write_bytes(whole + info.tobuf(tarfile.GNU_FORMAT))
    with path.open("r+b") as file:
        file.truncate(16 * 2**30)
    with in_time():
        assert "asks for more bytes than the setting max_image_bytes allows" in failures(path)["damaged shard"]


def test_a_tar_file_without_end_is_refused(tmp_path: Path) -> None:
    with in_time(), pytest.raises(SourceError):
        open_source(sparse(tmp_path / "zeros.tar", 2**42))


def test_an_index_records_what_a_shard_lost(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", {"a.png": png(1), "a.cls": b"7" * 5000, "b.png": png(2)})
    index = open_index(tmp_path / "x.db")
    index.add_images(path, encoders=[ENCODER], networks=[NETWORK])
    assert index.sql("SELECT count(*) FROM images").to_arrow().column(0)[0].as_py() == 2
    (row,) = index.sql("SELECT uri, reason FROM failures").to_arrow().to_pylist()
    assert row["uri"].endswith("a.tar#a.cls")
    assert row["reason"].startswith("the class number has 5,000 digits")


def test_names_with_more_dots_have_their_own_metadata(tmp_path: Path) -> None:
    """Two pictures of one sample must not share what was written about one of them."""
    members = {"img.1.jpg": png(1), "img.1.json": b'{"n": 1}', "img.2.jpg": png(2), "img.2.jpg.json": b'{"n": 2}'}
    members |= {"img.txt": b"both", "x.jpg": png(3), "x.jpg.json": b'{"n": 3}'}
    refs = listed(open_source(tar_of(tmp_path / "a.tar", members)))
    assert [ref.metadata for ref in refs] == [{"txt": "both", "n": 1}, {"txt": "both", "n": 2}, {"n": 3}]


def test_metadata_apart_from_its_image_is_counted(tmp_path: Path) -> None:
    members = {"1.jpg": png(1), "2.jpg": png(2), "1.json": b'{"n": 1}', "2.json": b'{"n": 2}', "2.note.txt": b"x"}
    source = open_source(tar_of(tmp_path / "a.tar", members))
    assert [ref.metadata for ref in listed(source)] == [{}, {}]
    assert passed_over_by(source) == {
        ".json about no image next to it": 2,
        ".txt about no image next to it": 1,
    }


def test_hidden_members_and_links_are_no_images(tmp_path: Path) -> None:
    """Tar files made on macOS hold '._a.jpg' beside every a.jpg."""
    hidden = {"./._1.jpg": b"\0\5\x16\7", "__MACOSX/._1.jpg": b"\0\5\x16\7", ".cache/2.jpg": png(2), "./1.jpg": png(1)}
    path = tar_of(tmp_path / "a.tar", hidden)
    with tarfile.open(path, "a") as tar:
        for name, kind in (("hard.jpg", tarfile.LNKTYPE), ("soft.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "./1.jpg"
            tar.addfile(info)
    source = open_source(path)
    assert [ref.uri for ref in listed(source)] == [f"{path.resolve()}#./1.jpg"]
    assert passed_over_by(source) == {"hidden (the name starts with a dot)": 1, "links": 2}


def test_a_second_member_of_one_name_is_counted(tmp_path: Path) -> None:
    """Both have one address, by which only the first can be read."""
    path = tar_of(tmp_path / "a.tar", {"1.png": png(1), "2.png": png(2)})
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("1.png")
        info.size = len(png(3))
        tar.addfile(info, io.BytesIO(png(3)))
    source = open_source(path)
    refs = listed(source)
    assert [number_of(result) for result in read_images([ref.uri for ref in refs])] == [1, 2]
    assert passed_over_by(source) == {"with the name of another member": 1}
