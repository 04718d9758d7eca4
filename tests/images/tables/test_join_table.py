"""Tables about image files: rows find their images, or say why not."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from csp_index.errors import SourceError
from csp_index.images.tables.join_table import PathTable

ENDINGS = (".jpg", ".png", ".tif")


def joined(tmp_path: Path, images: list[str], text: str, key: str | None = None, name: str = "t.csv") -> PathTable:
    (tmp_path / name).write_text(text)
    return PathTable(tmp_path / name, tmp_path / "root", images, ENDINGS, key)


def rows(table: PathTable, images: list[str], column: str = "n") -> list[object]:
    return [table.row(image).get(column) for image in images]


# Which row is about which image


@pytest.mark.parametrize(
    ("images", "cells"),
    [
        (["a/x.png", "b/y.png"], ["a/x.png", "b/y.png"]),
        (["a/x.png", "b/y.png"], ["x.png", "y.png"]),
        (["ISIC_1.jpg", "ISIC_2.jpg"], ["ISIC_1", "ISIC_2"]),
        (["ISIC_1.JPG", "ISIC_2.JPG"], ["isic_1.jpg", "isic_2.jpg"]),
        (["x.png", "y.png"], ["root/x.png", "/elsewhere/root/y.png"]),
        (["a/1.png", "b/1.png"], ["train/a/1.png", "train/b/1.png"]),
        (["a/1.png", "b/1.png"], ["C:\\data\\a\\1.png", "C:\\data\\b\\1.png"]),
        (["v1.2.png", "v1.3.png"], ["v1.2", "v1.3"]),
        (["a.png", "b.png"], ["a.tif", "b.tif"]),
        (["007.png", "008.png"], ["007", "008"]),
        (["x.png", "y.png"], ["./x.png", "file://y.png"]),
    ],
)
def test_rows_find_their_images(tmp_path, images, cells):
    table = joined(tmp_path, images, "odd,which,n\n" + "".join(f"z,{cell},{n}\n" for n, cell in enumerate(cells)))
    assert rows(table, images) == [0, 1]
    assert "2 of 2 rows joined to 2 of 2 images by column 'which'" in table.notes[0]
    assert table.complete


@pytest.mark.parametrize("name", ["image_id", "isic_id", "Image Index", "filename", "DICOM", "hash"])
def test_the_column_that_fits_is_taken_whatever_its_name(tmp_path, name):
    images = [f"ISIC_{number}.jpg" for number in range(8)]
    lines = [f"HAM_{number // 2},ISIC_{number},{number}" for number in range(8)]
    table = joined(tmp_path, images, f"lesion_id,{name},n\n" + "\n".join(lines))
    assert rows(table, images) == list(range(8))


def test_a_usual_name_wins_among_columns_that_fit_equally(tmp_path):
    images = ["1.jpg", "2.jpg"]
    table = joined(tmp_path, images, "patient,image_id,n\n1,2,two\n2,1,one\n")
    assert rows(table, images) == ["one", "two"]
    table = joined(tmp_path, images, "patient,image_id,n\n1,2,one\n2,1,two\n", key="patient")
    assert rows(table, images) == ["one", "two"]


def test_what_did_not_join_is_counted(tmp_path):
    images = ["a.jpg", "b.jpg", "c.jpg"]
    table = joined(tmp_path, images, "image,n\na,1\na,2\nlost.jpg,3\n,4\n")
    assert rows(table, images) == [1, None, None]
    (line,) = table.notes
    assert "2 of 4 rows joined to 1 of 3 images by column 'image'" in line
    assert "1 of them without the ending" in line and "1 rows repeat an image" in line
    assert "without a row: 2, first b.jpg" in line
    assert not table.complete


def test_joining_nothing_is_an_error_that_shows_both_sides(tmp_path):
    with pytest.raises(SourceError, match=r"column 'image' has 'ISIC_7', the first image is 'a\.jpg'.*--metadata-key"):
        joined(tmp_path, ["a.jpg"], "image,n\nISIC_7,1\n")
    with pytest.raises(SourceError, match=r"no column with image paths \(has: colour, n\).*colour=red, n=1.*a\.jpg"):
        joined(tmp_path, ["a.jpg"], "colour,n\nred,1\n")
    with pytest.raises(SourceError, match=r"no column 'who' \(has: colour, n\)"):
        joined(tmp_path, ["a.jpg"], "colour,n\nred,1\n", key="who")


def test_another_folder_is_another_image_unless_the_user_vouches(tmp_path):
    """Numbering that begins again in every split would give each image the row of another one."""
    text = "path,n\ntrain/0001.jpg,1\ntrain/0002.jpg,2\n"
    with pytest.raises(SourceError, match="names alone count"):
        joined(tmp_path, ["0001.jpg", "0002.jpg"], text)
    with pytest.raises(SourceError, match="no row"):
        joined(tmp_path, ["test/0001.jpg"], text)
    assert rows(joined(tmp_path, ["0001.jpg", "0002.jpg"], text, key="path"), ["0001.jpg", "0002.jpg"]) == [1, 2]


def test_a_name_that_fits_several_images_is_an_error(tmp_path):
    for cell in ("0.png", "0"):
        with pytest.raises(SourceError, match=r"'0.*', but 2 images share it \(a/0.png, b/0.png\)"):
            joined(tmp_path, ["a/0.png", "b/0.png", "c.png"], f"path,n\nc.png,1\n{cell},2\n")
    with pytest.raises(SourceError, match="both fit one image"):
        joined(tmp_path, ["0.png", "1.png"], "path,n\na/0.png,1\nb/0.png,2\na/1.png,3\n", key="path")


def test_numbers_of_parquet_files_name_images(tmp_path):
    pa.parquet.write_table(pa.table({"key": [7, 8], "n": [1, 2]}), tmp_path / "t.parquet")
    table = PathTable(tmp_path / "t.parquet", tmp_path, ["7.jpg", "8.jpg"], ENDINGS)
    assert rows(table, ["7.jpg", "8.jpg"]) == [1, 2]


# One column per class


def test_one_hot_columns_become_a_label(tmp_path):
    images = ["a.jpg", "b.jpg", "c.jpg"]
    table = joined(tmp_path, images, "image,age,MEL,NV,UNK,male\na,5,0.0,1.0,0.0,1\nb,6,1.0,0.0,0.0,1\nc,7,0,0,1,0\n")
    assert rows(table, images, "label") == ["NV", "MEL", "UNK"], "an attribute beside them is none of the classes"
    table = joined(tmp_path, images, "image,MEL,NV,UNK,age\na,0.0,1.0,0.0,5\nb,1.0,0.0,0.0,5\nc,0,0,1,6\n")
    assert rows(table, images, "label") == ["NV", "MEL", "UNK"]
    assert table.row("a.jpg") == {"MEL": 0.0, "NV": 1.0, "UNK": 0.0, "age": 5, "label": "NV"}
    assert "columns MEL to UNK are one class per image: it stands in the new column 'label'" in table.notes[1]


def test_a_yes_and_its_no_among_attributes_are_no_classes(tmp_path):
    text = "image,young,old,hat,scarf\na,1,0,1,1\nb,0,1,1,1\nc,0,1,0,0\n"
    assert "label" not in joined(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], text).row("a.jpg")


def test_attributes_that_are_not_exclusive_stay_as_they_are(tmp_path):
    table = joined(tmp_path, ["a.jpg", "b.jpg"], "image,hat,glasses\na,1,1\nb,0,1\n")
    assert "label" not in table.row("a.jpg") and len(table.notes) == 1


def test_a_label_that_is_there_is_not_replaced(tmp_path):
    table = joined(tmp_path, ["a.jpg", "b.jpg"], "image,label,cat,dog\na,x,1,0\nb,y,0,1\n")
    assert table.row("a.jpg") == {"label": "x", "cat": 1, "dog": 0, "class": "cat"}
