"""Tables of metadata in a folder of pictures: which are joined, which are named or counted."""

from __future__ import annotations

from pathlib import Path

from pictures import listed, png

from csp_index.images.folders import FolderSource
from csp_index.images.passed_over import passed_over_by
from csp_index.images.sources import open_source


def test_each_split_may_have_its_own_table(tmp_path: Path) -> None:
    """Hugging Face's imagefolder: names are relative to the folder of the table, and equal in every split."""
    for split in ("train", "test/deep"):
        (tmp_path / split).mkdir(parents=True)
        for number in (1, 2):
            (tmp_path / split / f"{number}.png").write_bytes(png(number))
    (tmp_path / "train/metadata.csv").write_text("file_name,text\n1.png,a\n2.png,b\n")
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "deep/1.png", "text": "c"}\n')
    source = open_source(tmp_path)
    assert {ref.uri[len(str(tmp_path.resolve())) + 1 :]: ref.metadata.get("text") for ref in listed(source)} == {
        "train/1.png": "a",
        "train/2.png": "b",
        "test/deep/1.png": "c",
        "test/deep/2.png": None,
    }
    assert isinstance(source, FolderSource)
    assert [line.partition(" by column")[0] for line in source.notes] == [
        "test/metadata.jsonl: 1 of 1 rows joined to 1 of 2 images",
        "train/metadata.csv: 2 of 2 rows joined to 2 of 2 images",
    ]
    assert passed_over_by(source).total() == 0


def test_tables_that_are_not_read_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(png(1))
    (tmp_path / "a/metadata.csv").write_text("when,who\ntoday,me\n")
    (tmp_path / "a/metadata.jsonl").write_text("{}")
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource) and "a table is passed over: " in source.notes[0]
    assert passed_over_by(source) == {".csv": 1, ".jsonl": 1}
    (tmp_path / "metadata.csv").write_text("file_name,n\na/1.png,1\n")
    (tmp_path / "metadata.jsonl").write_text("{}")
    source = open_source(tmp_path)
    assert [ref.metadata for ref in listed(source)] == [{"n": 1}]
    assert passed_over_by(source) == {".csv": 1, ".jsonl": 2}


def test_a_file_that_may_be_a_table_is_named_with_the_option_that_joins_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "labels.csv").write_text("file_name,n\na.png,1\n")
    source = open_source(tmp_path)
    assert isinstance(source, FolderSource)
    table = f"{tmp_path}/labels.csv"
    assert source.notes == (f"is {table} a table about the images? --metadata (metadata= in Python) joins it",)
    assert passed_over_by(source) == {".csv": 1}
    joined = open_source(tmp_path, metadata=table)
    assert isinstance(joined, FolderSource) and "1 of 1 rows joined" in joined.notes[0]
    assert len(joined.notes) == 1
