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
        (["u\u0308ber.png", "x.png"], ["\u00fcber.png", "x.png"]),
        (["\u00dcber.png", "x.png"], ["u\u0308ber", "x"]),
        (["my photo.png", "y.png"], ["my%20photo.png", "y.png"]),
        (["my photo.png", "y.png"], ["https://a.org/root/my%20photo.png?w=1", "http://a.org/root/y.png"]),
        (["139.png", "785.png"], ["139.0", "785.0"]),
        (["Train/1.png", "Train/2.png"], ["train/1.png", "train/2.png"]),
        (["a.png", "b.png"], ["a.dcm", "b.dcm"]),
        (["p1/s1/v.jpg", "p2/s1/v.jpg"], ["CheXpert/train/p1/s1/v.jpg", "CheXpert/train/p2/s1/v.jpg"]),
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


def test_a_path_that_is_equal_only_in_its_last_folders_is_about_another_image(tmp_path):
    """Every patient has a first study with a frontal view: the row of one must not become another's."""
    images = ["p1/study1/frontal.jpg", "p4/study1/frontal.jpg"]
    table = joined(tmp_path, images, "Path,n\nX/p2/study1/frontal.jpg,2\nX/p4/study1/frontal.jpg,4\n")
    assert rows(table, images) == [None, 4] and "1 of 2 rows joined" in table.notes[0]
    with pytest.raises(SourceError, match="no row"):
        joined(tmp_path, images[:1], "Path,n\nX/p2/study1/frontal.jpg,2\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "a.jpg,5,cat\nb.jpg,6,dog\nlost.jpg,7,dog\n"),
        ("t.txt", "a.jpg 5 cat\nb.jpg 6 dog\n"),
        ("t.txt", "2\na.jpg 5 cat\nb.jpg 6 dog\n"),
        ("t.tsv", "a\t5\tcat\nb\t6\tdog\n"),
    ],
)
def test_a_first_line_that_names_an_image_is_a_row(tmp_path, name, text):
    images = ["a.jpg", "b.jpg"]
    table = joined(tmp_path, images, text, name=name)
    assert rows(table, images, "column_2") == [5, 6] and rows(table, images, "column_3") == ["cat", "dog"]
    assert any("its first line is a row" in note for note in table.notes) and not table.complete


def test_one_row_without_names_of_columns_is_a_row(tmp_path):
    assert joined(tmp_path, ["a.jpg"], "a.jpg,5\n").row("a.jpg") == {"column_2": 5}


def test_numbers_may_lack_the_leading_zeros_of_files_in_a_column_of_a_usual_name(tmp_path):
    images = ["000139.jpg", "000785.jpg"]
    table = joined(tmp_path, images, "id,n\n785,2\n139,1\n")
    assert rows(table, images) == [1, 2] and "2 of them as a number without leading zeros" in table.notes[0]
    with pytest.raises(SourceError, match="no column with image paths"):
        joined(tmp_path, images, "weight,n\n785,2\n139,1\n")
    with pytest.raises(SourceError, match="2 images share it"):
        joined(tmp_path, ["01.jpg", "001.jpg", "2.jpg"], "id\n1\n2\n")


def test_numbers_that_repeat_are_no_names(tmp_path):
    """Ages are numbers of images, too, where images are numbered."""
    images = [f"{number:03}.jpg" for number in range(40, 80)]
    with pytest.raises(SourceError, match="no column with image paths"):
        joined(tmp_path, images, "patient,age\nP1,45\nP2,60\nP3,45\n")


def test_rows_that_repeat_an_image_and_say_something_else_are_counted(tmp_path):
    table = joined(tmp_path, ["a.jpg"], "image,n,same\na,1,x\na,2,x\n")
    assert "1 rows repeat an image, whose first row counts, and differ from it in n" in table.notes[0]


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


def test_a_text_that_only_looks_like_an_address_names_nothing(tmp_path):
    table = joined(tmp_path, ["a.jpg", "100%.jpg"], "image,n\nhttp://[a.jpg,1\n100%,2\n")
    assert rows(table, ["a.jpg", "100%.jpg"]) == [None, 2]
