"""Folders as people have them: pictures known by content, shards beside other files, captions beside pictures."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from odd_files import ODD, in_time
from pictures import encoded, listed, number_of, plain, png
from tar_files import samples, shard

from csp_index.errors import SourceError
from csp_index.images import folders, passed_over
from csp_index.images.decode import ImageFailure, read_images, uris_of
from csp_index.images.files import formats
from csp_index.images.files.formats import has_extra
from csp_index.images.folders import FolderSource, walk
from csp_index.images.passed_over import PassedOver, passed_over_by, refuse_passed_over
from csp_index.images.sources import open_source
from csp_index.images.table_sources import ParquetSource
from csp_index.images.tar_shards import TarSource


def names(root: Path) -> list[str]:
    return [os.path.relpath(ref.uri, root.resolve()) for ref in listed(open_source(root))]


def passed(root: Path) -> dict[str, int]:
    source = open_source(root)
    list(source.refs())
    return dict(passed_over_by(source))


def table(path: Path, **columns: list[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


# pictures known by their content


@pytest.mark.parametrize(
    "name",
    ["5f0000", "a.dat", "a.jpg_large", "a.jpg?w=200", "a.php", "a.txt", "a.json", "a.JPG~", "deep/er/a", "a.jpg.1"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_a_picture_of_another_ending_or_none_is_found(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(encoded(plain(size=(20, 20)), kind))
    (tmp_path / "notes").write_text("no picture")
    assert names(tmp_path) == [name]
    assert passed(tmp_path) == {"without an ending": 1}
    assert not isinstance(next(iter(read_images([str(tmp_path / name)]))), ImageFailure)


def test_a_picture_with_the_ending_of_another_format_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(png(7))
    assert [number_of(read) for read in read_images(ref.uri for ref in open_source(tmp_path).refs())] == [7]


def test_files_of_one_ending_are_opened_only_until_it_is_clear_that_none_is_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passed_over, "_TRIED", 3)
    (tmp_path / "a.png").write_bytes(png(1))
    for number in range(6):
        (tmp_path / f"{number}.dat").write_bytes(b"none" if number < 5 else png(1))
        (tmp_path / f"x{number}").write_bytes(b"none" if number < 5 else png(1))
    assert names(tmp_path) == ["a.png", "x5"]
    assert passed(tmp_path) == {".dat": 6, "without an ending": 5}


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "a folder"])
def test_what_cannot_be_opened_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(png(1))
    ODD[kind](tmp_path / "odd")
    (tmp_path / "gone.dat").symlink_to(tmp_path / "nowhere")
    with in_time():
        assert passed(tmp_path) == {"unreadable": 2}


def test_every_file_passed_over_is_counted_by_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.png", ".hidden.jpg", "._a.png", ".DS_Store", "sub/b.png", "sub/.c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    for name in ("x.txt", "y.txt", "sub/z.txt", "clip.mp4", "a.zip", "README", "labels.csv"):
        (tmp_path / name).write_text("text")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
    for name in ("1.heic", "2.HEIC", "3.jpgx"):
        (tmp_path / name).write_bytes(heic)
    has_extra.cache_clear()
    formats.decoded_formats.cache_clear()
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None)
    real = formats.Image.registered_extensions
    monkeypatch.setattr(
        formats.Image, "registered_extensions", lambda: {e: k for e, k in real().items() if k != "HEIF"}
    )
    try:
        source = open_source(tmp_path)
        assert [Path(ref.uri).name for ref in source.refs()] == ["a.png", "b.png"]
        line = str(passed_over_by(source))
    finally:
        has_extra.cache_clear()
        formats.decoded_formats.cache_clear()
    assert line.startswith("passed over 12 files: 3 .txt, 2 hidden (the name starts with a dot), 2 .heic (pip install")
    assert "1 .zip (unpack it)" in line and "\n" not in line
    assert line.endswith(" others")


class Unlisted:
    """Lists folders but those named so, as the system does for who may not."""

    def __init__(self, *names: str, error: int = errno.EACCES) -> None:
        self.names, self.error, self.scandir = names, error, os.scandir

    def __call__(self, folder: str) -> Any:
        if os.path.basename(folder) in self.names:
            raise OSError(self.error, os.strerror(self.error), folder)
        return self.scandir(folder)


def test_a_folder_that_may_not_be_listed_is_named_and_the_others_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/1.png", "a/more/2.png", "lost+found/3.png", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    for number in range(9):  # more reasons than a line names
        for copy in range(2):
            (tmp_path / f"{copy}.e{number}").write_text("")
    monkeypatch.setattr(os, "scandir", Unlisted("lost+found", "more"))
    assert names(tmp_path) == ["a/1.png", "z.png"]
    source = open_source(tmp_path)
    line = str(passed_over_by(source))
    for folder in ("a/more", "lost+found"):
        assert f"1 folder that you may not list ({folder})" in line
    with pytest.raises(SourceError, match=r"may not list \(lost\+found\).*--strict allows none"):
        refuse_passed_over(source)
    monkeypatch.setattr(os, "scandir", Unlisted("lost+found", "more", "a"))
    with pytest.raises(SourceError, match=r"the folder .*/a cannot be listed"):
        list(source.refs())  # images that were counted do not vanish without a word
    monkeypatch.undo()
    assert len(list(source.refs())) == 2  # nor do others come that nothing is known of


def test_a_folder_that_cannot_be_listed_for_another_reason_or_is_the_source_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.png").write_bytes(png(1))
    monkeypatch.setattr(os, "scandir", Unlisted("a", error=errno.EIO))  # a failing disk
    with pytest.raises(SourceError, match=r"the folder .*/a cannot be listed"):
        open_source(tmp_path)
    monkeypatch.setattr(os, "scandir", Unlisted(tmp_path.name))
    with pytest.raises(SourceError, match=r"cannot be listed.*Permission denied"):
        open_source(tmp_path)


def test_strict_allows_no_file_that_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    refuse_passed_over(open_source(tmp_path))
    (tmp_path / "a.md").write_text("text")
    with pytest.raises(SourceError, match=r"passed over 1 file: 1 \.md: --strict allows none"):
        refuse_passed_over(open_source(tmp_path))
    shard(tmp_path / "shards/0.tar", {**samples(1), "x.npy": b"none"})
    with pytest.raises(SourceError, match=r"1 file: 1 \.npy"):
        refuse_passed_over(open_source(tmp_path / "shards"))


def test_a_folder_without_images_names_what_is_in_it(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt", "c.zip"):
        (tmp_path / name).write_text("")
    with pytest.raises(SourceError, match=r"found 3 other files in it and its sub-folders \(2 \.txt, 1 \.zip \(unpack"):
        open_source(tmp_path)


# what lies beside a picture


def test_files_beside_a_picture_are_its_metadata(tmp_path: Path) -> None:
    for name, data in samples(2).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "b.png").write_bytes(png(1))
    (tmp_path / "b.png.json").write_text('{"title": "as a photo album exports it"}')
    (tmp_path / "v1.2.png").write_bytes(png(1))
    (tmp_path / "v1.3.txt").write_text("of another picture")
    (tmp_path / "5f0000").write_bytes(png(1))
    (tmp_path / "5f0000.txt").write_text("of a picture without ending")
    metadata = {Path(ref.uri).name: ref.metadata for ref in listed(open_source(tmp_path))}
    assert metadata["000000001.jpg"] == {"txt": "number 1", "caption": "number 1", "key": "000000001"}
    assert metadata["b.png"] == {"title": "as a photo album exports it"}
    assert metadata["v1.2.png"] == {}
    assert metadata["5f0000"] == {"txt": "of a picture without ending"}
    assert passed(tmp_path) == {".txt": 1}


def test_a_table_wins_over_what_lies_beside_a_picture(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.json").write_text('{"label": "beside", "more": 1}')
    (tmp_path / "metadata.csv").write_text("path,label\na.png,table\n")
    assert [ref.metadata for ref in open_source(tmp_path).refs()] == [{"label": "table", "more": 1}]
    assert passed(tmp_path) == {}


def test_what_cannot_be_stored_from_beside_a_picture_does_not_cost_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.json").write_text("[" * 70 + "]" * 70)
    (tmp_path / "a.txt").write_bytes(b"x" * (2**20 + 1))
    failures = {Path(ref.uri).name: ref.failure for ref in listed(open_source(tmp_path))}
    assert failures["a.png"] is None
    assert "64 lists" in str(failures["a.json"]) and "max_metadata_bytes" in str(failures["a.txt"])


# img2dataset


def test_a_folder_of_img2dataset_gives_the_pictures_of_its_shards(tmp_path: Path) -> None:
    for number in range(2):
        shard(tmp_path / f"{number:05}.tar", samples(3))
        table(tmp_path / f"{number:05}.parquet", url=["http://x/1"] * 3, caption=["a"] * 3, status=["success"] * 3)
        (tmp_path / f"{number:05}_stats.json").write_text("{}")
    source = open_source(tmp_path)
    assert isinstance(source, TarSource)
    refs = listed(source)
    assert len(refs) == 6 and refs[1].metadata["caption"] == "number 1"
    assert passed(tmp_path) == {".parquet": 2, ".json": 2}


def test_img2dataset_may_write_files_or_parquet_too(tmp_path: Path) -> None:
    for name, data in samples(2).items():
        (tmp_path / "files/00000").mkdir(parents=True, exist_ok=True)
        (tmp_path / "files/00000" / name).write_bytes(data)
    table(tmp_path / "files/00000.parquet", url=["http://x/1"] * 2, caption=["a"] * 2)
    source = open_source(tmp_path / "files")
    assert isinstance(source, FolderSource)
    assert [ref.metadata["caption"] for ref in source.refs()] == ["number 0", "number 1"]
    assert passed(tmp_path / "files") == {".parquet": 1}
    table(tmp_path / "parquet/00000.parquet", jpg=[png(1), png(2)], caption=["a", "b"], key=["0", "1"])
    (tmp_path / "parquet/00000_stats.json").write_text("{}")
    source = open_source(tmp_path / "parquet")
    assert isinstance(source, ParquetSource)
    assert [ref.metadata for ref in source.refs()] == [{"caption": "a", "key": "0"}, {"caption": "b", "key": "1"}]


# several kinds in one folder


def test_the_kind_with_the_most_images_is_taken_and_the_rest_counted(tmp_path: Path) -> None:
    (tmp_path / "preview.jpg").write_bytes(png(1))
    shard(tmp_path / "0.tar", samples(3))
    source = open_source(tmp_path)
    assert isinstance(source, TarSource) and len(listed(source)) == 3
    assert passed(tmp_path) == {".jpg beside the shards": 1}
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    assert isinstance(open_source(tmp_path), FolderSource)
    assert passed(tmp_path) == {"tar shards": 1}
    table(tmp_path / "0.parquet", image=[png(n) for n in range(9)])
    assert isinstance(open_source(tmp_path), ParquetSource)
    assert passed(tmp_path) == {".png beside the shards": 4, ".jpg beside the shards": 1, "tar shards": 1}


def test_a_table_of_other_bytes_is_no_kind_of_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    table(tmp_path / "features.parquet", vector=[b"\0" * 64] * 5)
    shard(tmp_path / "code.tar", {"a.py": b"print()", "b.txt": b"text"})
    assert names(tmp_path) == ["a.png"]
    assert passed(tmp_path) == {".parquet": 1, "tar shards": 1}
    os.remove(tmp_path / "a.png")
    shard(tmp_path / "images.tar", samples(1))
    source = open_source(tmp_path)
    assert isinstance(source, TarSource) and len(listed(source)) == 1


def test_an_image_column_is_of_the_shards(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    table(tmp_path / "0.parquet", left=[png(1)], right=[png(2)])
    assert isinstance(open_source(tmp_path, image_column="right"), ParquetSource)
    assert names(tmp_path) == ["a.png"]


def test_tables_without_images_among_those_with_images_are_counted(tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", n=[1])
    table(tmp_path / "b.parquet", image=[png(5)])
    (tmp_path / "c.parquet").write_bytes(b"damaged")
    refs = listed(open_source(tmp_path))
    assert [bool(ref.failure) for ref in refs] == [False, True]
    assert passed(tmp_path) == {".parquet without images": 1}


def test_walk_sorts_whole_paths(tmp_path: Path) -> None:
    for name in ("a/c.png", "a-b.png", "a.png", "a/b/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    assert list(walk(tmp_path)) == ["a-b.png", "a.png", "a/b/d.png", "a/c.png"]
    assert names(tmp_path) == ["a-b.png", "a.png", "a/b/d.png", "a/c.png"]


def test_many_reasons_still_make_one_line() -> None:
    counts = PassedOver({f".e{number}": 10 - number for number in range(9)})
    assert str(counts) == "passed over 54 files: 10 .e0, 9 .e1, 8 .e2, 7 .e3, 6 .e4, 5 .e5, 9 others"


def test_nothing_is_logged_by_listing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.md").write_text("text")
    with caplog.at_level(logging.WARNING):
        names(tmp_path)
    assert not caplog.records


def test_a_folder_is_walked_once_to_join_a_table_and_its_images_are_named_without_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks, reads = list[Path](), list[str]()
    real_walk, real_read = folders.walk, folders.read_bytes
    monkeypatch.setattr(folders, "walk", lambda root, *rest: [walks.append(root), *real_walk(root, *rest)][1:])
    monkeypatch.setattr(folders, "read_bytes", lambda file, *rest: [reads.append(file.name), real_read(file, *rest)][1])
    for name, data in samples(3).items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "5f0000").write_bytes(png(1))
    (tmp_path / "metadata.csv").write_text("path,label\n000000001.jpg,one\n5f0000,five\n")
    source = open_source(tmp_path)
    assert (len(walks), reads) == (1, [])
    uris = list(uris_of(source))
    refuse_passed_over(source)
    assert (len(uris), len(walks), reads) == (4, 3, [])
    refs = list(source.refs())
    assert [ref.uri for ref in refs] == uris and sorted(reads) == sorted(
        set(samples(3)) - {f"{n:09}.jpg" for n in range(3)}
    )
    assert [ref.metadata.get("label") for ref in refs] == [None, "one", None, "five"]


def test_what_cameras_record_is_no_picture(tmp_path: Path) -> None:
    """Pillow would open the small preview that such a file begins with."""
    (tmp_path / "a.jpg").write_bytes(encoded(plain(), "JPEG"))
    for name in ("a.NEF", "b.dng", "c.jpg_large"):
        (tmp_path / name).write_bytes(encoded(plain(), "TIFF"))
    assert names(tmp_path) == ["a.jpg", "c.jpg_large"]
    assert passed(tmp_path) == {".nef (camera raw: convert it)": 1, ".dng (camera raw: convert it)": 1}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_captions_in_other_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "a.txt").write_bytes("a café".encode(encoding))
    (tmp_path / "a.json").write_bytes('{"place": "Köln"}'.encode(encoding))
    assert [ref.metadata for ref in listed(open_source(tmp_path))] == [{"txt": "a café", "place": "Köln"}]


@pytest.mark.parametrize("name", ["a.jpg", "a.tar", "a.parquet"])
def test_a_pointer_of_git_lfs_says_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    if name == "a.jpg":
        (failure,) = read_images([ref.uri for ref in listed(open_source(tmp_path))])
        assert isinstance(failure, ImageFailure) and "git lfs pull" in failure.reason
    else:
        with pytest.raises(SourceError, match="git lfs pull"):
            open_source(tmp_path)


def test_an_index_in_the_folder_is_one_thing_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    for name in ("mine.db/runs.lance/data", "mine.db/commits", "mixed/vectors.lance"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mine.db/runs.lance/data/1.lance").write_bytes(b"x")
    (tmp_path / "mine.db/commits/1.json").write_text("{}")
    (tmp_path / "mixed/b.png").write_bytes(png(2))  # of the user's pictures none is left out
    source = open_source(tmp_path)
    assert [Path(ref.uri).name for ref in listed(source)] == ["a.png", "b.png"]
    assert str(passed_over_by(source)) == "passed over 1 file: 1 database of LanceDB (an index?)"
