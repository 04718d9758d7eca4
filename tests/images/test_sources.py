"""Listing of every kind of source: folders, metadata tables, parquet, tar shards, datasets."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, listed, number_of, plain, png

from csp_index.errors import SourceError
from csp_index.images.decode import ImageFailure, ImageRead, ImageRef, fetch, read_image, read_images
from csp_index.images.files.containers import ContainerReader, rows_at_once
from csp_index.images.files.formats import image_extensions
from csp_index.images.sources import open_source


def folder(root: Path) -> Path:
    for number, name in enumerate(
        ["a-b.png", "a/x.PNG", "a/deep/er/y.jpg", "b.webp", "with#hash.png", "ünïcode ☂.bmp"]
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {".jpg": "JPEG", ".webp": "WEBP", ".bmp": "BMP"}.get(path.suffix, "PNG")
        path.write_bytes(encoded(plain((number * 40, 0, 0)), kind))
    (root / "notes.txt").write_text("not an image")
    (root / ".hidden.png").write_bytes(png(0))
    (root / ".cache").mkdir()
    (root / ".cache" / "c.png").write_bytes(png(0))
    return root


def test_trap_10_images_in_sub_folders_are_read(tmp_path: Path) -> None:
    source = open_source(folder(tmp_path))
    relative = [Path(ref.uri).relative_to(tmp_path.resolve()).as_posix() for ref in listed(source)]
    assert relative == sorted(relative)
    assert set(relative) == {"a-b.png", "a/deep/er/y.jpg", "a/x.PNG", "b.webp", "with#hash.png", "ünïcode ☂.bmp"}
    results = list(read_images([ref.uri for ref in source.refs()]))
    assert all(isinstance(result, ImageRead) for result in results)


def test_broken_file_with_an_image_ending_is_listed_and_fails_later(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"text")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    uris = [ref.uri for ref in open_source(tmp_path).refs()]
    assert len(uris) == 2
    assert all(isinstance(result, ImageFailure) for result in read_images(uris))


def test_name_that_is_not_utf8_is_a_failure_that_can_be_stored(tmp_path: Path) -> None:
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.png")).write_bytes(png(1))
    except OSError:
        pytest.skip("the file system refuses such names")
    (ref,) = open_source(tmp_path).refs()
    ref.uri.encode("utf-8")
    assert ref.failure == "its name is not UTF-8 text: rename the file, or its folder"
    assert isinstance(next(iter(read_images([ref.uri]))), ImageFailure)


def test_links_in_a_circle_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png(1))
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    assert len(listed(open_source(tmp_path))) == 1


def test_an_empty_text_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="the place of the images is an empty text"):
        open_source("")
    assert len(listed(open_source("."))) == 1


def test_folder_without_images_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(SourceError, match="found 1 other file in it and its sub-folders"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="does not exist"):
        open_source(tmp_path / "missing")
    with pytest.raises(SourceError, match="neither a folder nor"):
        open_source(tmp_path / "a.txt")
    (tmp_path / "a.png").write_bytes(png(1))
    with pytest.raises(SourceError, match="without columns, and takes no image_column"):
        open_source(tmp_path, image_column="image")


def test_every_extension_that_pillow_can_decode_counts() -> None:
    endings = image_extensions()
    assert {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".avif"} <= endings
    assert not {".pdf", ".h5", ".mpg", ".txt", ".csv", ".eps"} & endings


# metadata tables


def test_metadata_table_is_joined_by_path(tmp_path: Path) -> None:
    folder(tmp_path)
    (tmp_path / "metadata.csv").write_text(
        "label,path,count\nred,a/x.PNG,3\nblue,./b.webp,\nlost,none.png,4\n", encoding="utf-8-sig"
    )
    source = open_source(tmp_path)
    rows = {Path(ref.uri).name: ref.metadata for ref in listed(source)}
    assert rows["x.PNG"] == {"label": "red", "count": 3}
    assert rows["b.webp"] == {"label": "blue", "count": None}
    assert rows["a-b.png"] == {}
    assert "2 of 3 rows joined" in source.notes[0]  # type: ignore[attr-defined]


def test_metadata_table_may_use_file_names_and_other_columns(tmp_path: Path) -> None:
    images = folder(tmp_path / "images")
    table = tmp_path / "table.csv"
    table.write_text("where,split\nx.PNG,train\na-b.png,test\n")
    rows = {Path(ref.uri).name: ref.metadata for ref in open_source(images, metadata=table).refs()}
    assert rows["x.PNG"] == {"split": "train"}, "a bare name finds the image in its sub-folder"
    (tmp_path / "table.tsv").write_text(f"file_name\tn\n{images.resolve()}/a/x.PNG\t1\n")
    rows = {Path(ref.uri).name: ref.metadata for ref in open_source(images, metadata=tmp_path / "table.tsv").refs()}
    assert rows["x.PNG"] == {"n": 1}, "an absolute path fits too"


def test_metadata_table_of_numbers_as_names_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "007.png").write_bytes(png(1))
    (tmp_path / "metadata.csv").write_text("file_name,n\n007.png,1\n")
    assert [ref.metadata for ref in open_source(tmp_path).refs()] == [{"n": 1}]


def test_ambiguous_file_name_in_the_table_is_an_error(tmp_path: Path) -> None:
    for part in ("a", "b"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "0.png").write_bytes(png(1))
    (tmp_path / "metadata.csv").write_text("path,n\n0.png,1\n")
    with pytest.raises(SourceError, match=r"'0.png', but 2 images share it \(a/0.png, b/0.png"):
        open_source(tmp_path)


def test_metadata_table_without_paths_lists_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "metadata.csv").write_text("colour,size\nred,big\n")
    with pytest.raises(SourceError, match=r"no column with image paths \(has: colour, size\)"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(tmp_path, metadata=tmp_path / "missing.csv")
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(SourceError, match="metadata table"):
        open_source(tmp_path)


# parquet


def parquet(path: Path, count: int = 10, group: int = 4, first: int = 0, **columns: Any) -> Path:
    table = pa.table(
        {
            "image": [{"bytes": png(first + row), "path": f"{row}.png"} for row in range(count)],
            "label": [f"label {row}" for row in range(count)],
            **columns,
        }
    )
    pq.write_table(table, path, row_group_size=group)
    return path


def test_parquet_rows_and_metadata(tmp_path: Path) -> None:
    path = parquet(tmp_path / "data.parquet", nested=[{"a": [1, 2]}] * 10)
    source = open_source(path)
    refs = listed(source)
    assert source.name == str(path.resolve())
    assert [ref.uri for ref in refs] == [f"{path.resolve()}#{row}" for row in range(10)]
    assert refs[3].metadata == {"label": "label 3", "nested": {"a": [1, 2]}}
    assert [number_of(result) for result in read_images([ref.uri for ref in refs])] == list(range(10))
    mixed = [9, 2, 3, 3, 0, 8]
    assert [number_of(result) for result in read_images([refs[row].uri for row in mixed])] == mixed


def test_parquet_neighbours_share_one_pass_over_the_image_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "data.parquet", count=100, group=10)
    passes: list[Any] = []
    original = pq.ParquetFile.iter_batches

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        passes.append((options["columns"], options["row_groups"].start))
        return original(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    rows = [*range(3, 9), *range(55, 75)]
    assert [number_of(result) for result in read_images([f"{path}#{row}" for row in rows])] == rows
    assert passes == [(["image"], 0), (["image"], 5)]

    passes.clear()
    reader = ContainerReader()
    for start in range(0, 100, 8):
        uris = [f"{path}#{row}" for row in range(start, min(start + 8, 100))]
        numbers = [number_of(read_image(uri, fetch(reader, uri))) for uri in uris]
        assert numbers == list(range(start, min(start + 8, 100)))
    reader.close()
    assert len(passes) < 5, "a reader goes on where the last call stopped"


def test_folder_of_parquet_files_is_one_source(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data" / "b.parquet", first=100)
    parquet(tmp_path / "data" / "a.parquet")
    (tmp_path / "data" / "c.parquet").write_bytes(b"PAR1 broken")
    uris = [ref.uri for ref in listed(open_source(tmp_path))]
    results = list(read_images(uris))
    assert [number_of(result) for result in results[:-1]] == [*range(10), *range(100, 110)]
    assert isinstance(results[-1], ImageFailure), "a damaged file is one failure"
    assert "c.parquet#0" in results[-1].uri


def test_parquet_columns_found_or_named(tmp_path: Path) -> None:
    path = tmp_path / "two.parquet"
    pq.write_table(pa.table({"left": [png(1)], "right": [png(2)], "n": [5]}), path)
    with pytest.raises(SourceError, match=r"several columns may hold images \(left, right\)"):
        open_source(path)
    (ref,) = open_source(path, image_column="right").refs()
    assert ref == ImageRef(f"{path.resolve()}#0@right", {"n": 5})
    assert number_of(next(iter(read_images([ref.uri])))) == 2
    with pytest.raises(SourceError, match=r"no column 'up' \(has: left, right, n\)"):
        open_source(path, image_column="up")
    with pytest.raises(SourceError, match="column 'n' holds int64, not images"):
        open_source(path, image_column="n")
    pq.write_table(pa.table({"n": [5]}), path)
    with pytest.raises(SourceError, match=r"no column holds images .* \(has: n\)"):
        open_source(path)
    path.write_bytes(b"not parquet")
    with pytest.raises(SourceError, match="cannot be read as parquet"):
        open_source(path)


def test_parquet_cell_with_a_path_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(png(7))
    path = tmp_path / "paths.parquet"
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array([{"bytes": None, "path": "one.png"}, None], kind)}), path)
    by_path, empty, outside = read_images([f"{path}#{row}" for row in range(3)])
    assert number_of(by_path) == 7
    assert isinstance(empty, ImageFailure)
    assert empty.reason == "the cell is empty"
    assert isinstance(outside, ImageFailure)
    assert outside.reason == "row 2 is not in the file, which has 2 rows"


def test_a_parquet_cell_names_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(png(9))
    folder = tmp_path / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "own.png").write_bytes(png(7))
    (folder / "link.png").symlink_to(tmp_path / "private.png")
    names = [str(tmp_path / "private.png"), "../private.png", "link.png", "deep/own.png", "deep/../deep/own.png"]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = pa.array([{"bytes": None, "path": name} for name in names], kind)
    pq.write_table(pa.table({"image": cells}), folder / "a.parquet")
    *outside, own, same = read_images(f"{folder}/a.parquet#{row}" for row in range(5))
    assert (number_of(own), number_of(same)) == (7, 7)
    for name, failure in zip(names, outside, strict=False):
        assert isinstance(failure, ImageFailure)
        assert failure.reason == (
            f"the cell names {name}, which is not below the folder of its file: expected a path below it"
        )


def test_large_cells_cost_themselves_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_MAX_IMAGE_BYTES", "1000000")
    monkeypatch.setenv("CSP_INDEX_MAX_METADATA_BYTES", "1000")
    large = b"\0" * 1_000_001
    cells = [png(row) if row % 3 else large for row in range(40)]
    texts = [f"text {row}" if row % 5 else "x" * 1001 for row in range(40)]
    path = tmp_path / "a.parquet"
    table = pa.table({"image": cells, "text": texts, "kind": pa.array(texts).dictionary_encode(), "row": range(40)})
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 50_000
    sizes: list[int] = []
    original = pq.ParquetFile.iter_batches

    def seen(self: Any, size: int, **options: Any) -> Any:
        for batch in original(self, size, **options):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", seen)
    refs = list(open_source(path).refs())
    sizes.clear()
    images = [ref for ref in refs if ref.failure is None]
    for row, item in enumerate(read_images(ref.uri for ref in images)):
        if row % 3:
            assert number_of(item) == row
        else:
            assert isinstance(item, ImageFailure)
            assert "the cell has 1,000,001 bytes, more than the setting max_image_bytes allows" in item.reason
    assert set(sizes) == {1}, "no two rows of a large column are read at once"
    assert [ref.metadata["row"] for ref in images] == list(range(40))
    assert images[1].metadata == {"text": "text 1", "kind": "text 1", "row": 1}
    assert images[5].metadata == {"text": None, "kind": None, "row": 5}
    odd = {ref.uri.partition("#")[2]: ref.failure for ref in refs if ref.failure is not None}
    assert set(odd) == {f"{row}@{name}" for row in range(0, 40, 5) for name in ("text", "kind")}
    assert "more than the setting max_metadata_bytes allows (1,000)" in (odd["5@text"] or "")


def test_rows_of_small_cells_are_read_together(tmp_path: Path) -> None:
    path = parquet(tmp_path / "data.parquet", count=100, group=100)
    metadata = pq.ParquetFile(path).metadata
    assert rows_at_once(metadata, ["image"], 32) == 32
    assert rows_at_once(metadata, ["label"], 1024) == 1024


# datasets


def test_saved_dataset_with_and_without_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = {"image": [{"bytes": png(row), "path": None} for row in range(5)], "label": [0, 1, 0, 1, 0]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict(images, features=kinds)
    data.save_to_disk(str(tmp_path / "plain"))
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(str(tmp_path / "splits"))

    refs = listed(open_source(tmp_path / "plain"))
    assert refs[3] == ImageRef(f"{(tmp_path / 'plain').resolve()}#3", {"label": 1, "label_name": "dog"})
    assert [number_of(result) for result in read_images([ref.uri for ref in refs])] == list(range(5))

    refs = listed(open_source(tmp_path / "splits"))
    assert len(refs) == 10
    assert refs[4].uri == f"{(tmp_path / 'splits').resolve()}#train/4"
    assert refs[4].metadata == {"split": "train", "label": 0, "label_name": "cat"}
    assert [number_of(result) for result in read_images([ref.uri for ref in refs])] == [*range(5)] * 2
    (outside,) = read_images([f"{tmp_path}/plain#9"])
    assert isinstance(outside, ImageFailure)


def test_missing_datasets_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(SourceError, match=r"pip install 'csp_index\[datasets\]'"):
        open_source(tmp_path)


def test_class_numbers_of_hugging_face_get_their_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "n": datasets.Value("int32")}
    )
    rows = {"image": [{"bytes": png(n), "path": None} for n in range(3)], "label": [1, 0, -1], "n": [7, 8, 9]}
    table = datasets.Dataset.from_dict(rows, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    table.to_parquet(str(tmp_path / "t.parquet"))
    for name in ("saved", "t.parquet"):
        assert [ref.metadata for ref in listed(open_source(tmp_path / name))] == [
            {"label": 1, "n": 7, "label_name": "dog"},
            {"label": 0, "n": 8, "label_name": "cat"},
            {"label": -1, "n": 9},
        ]


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"info": {"features": {"label": {"_type": "ClassLabel"}}}}', b"\xff"])
def test_what_is_not_of_hugging_face_names_no_classes(tmp_path: Path, said: bytes) -> None:
    table = pa.table({"image": [png(1)], "label": [0]}).replace_schema_metadata({b"huggingface": said})
    pa.parquet.write_table(table, tmp_path / "t.parquet")
    assert [ref.metadata for ref in listed(open_source(tmp_path / "t.parquet"))] == [{"label": 0}]
