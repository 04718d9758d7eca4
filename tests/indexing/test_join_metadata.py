"""Tables joined to images that are indexed already."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pytest

from csp_index import NetworkSource, SourceError, open_index
from csp_index.evaluation.options import EvaluationOptions, parse_methods
from csp_index.index import Index
from csp_index.store import schema


@pytest.fixture
def index(tmp_path: Path) -> Index:
    fakes.write_images(tmp_path / "images", 23)
    index = open_index(tmp_path / "db")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index.add_images(tmp_path / "images", encoders=["python:fakes:encoder"], networks=[network], shard_size=10)
    return index


def table(tmp_path: Path, column: str, images: range, text: str = "{}") -> Path:
    lines = [f"img{number:05d},{text.format(number % 3)}\n" for number in images]
    (tmp_path / f"{column}.csv").write_text(f"id,{column}\n" + "".join(lines))
    return tmp_path / f"{column}.csv"


def column(index: Index, name: str) -> list[str | None]:
    query = f"SELECT uri, json_extract_string(metadata, '$.{name}') AS v FROM images ORDER BY uri.split('/')[-1]"
    return [row["v"] for row in index.sql(query).rows()]


def test_a_table_is_joined_later_and_nothing_else_changes(tmp_path, index):
    rest = [name for name in index.store.dataset(schema.IMAGES).schema.names if name != "metadata"]
    before = index.store.read(schema.IMAGES, rest)
    summary = index.add_metadata(table(tmp_path, "kind", range(20), "k{}"))
    assert (summary.images, summary.joined, summary.columns) == (23, 20, ("kind",))
    assert "without a row: 3" in summary.notes[0]
    assert column(index, "kind") == [f"k{number % 3}" for number in range(20)] + [None] * 3
    assert index.store.read(schema.IMAGES, rest).equals(before)
    assert index.verify(full=True).sound
    index.add_metadata(table(tmp_path, "size", range(23)))
    assert column(index, "kind")[:3] == ["k0", "k1", "k2"] and column(index, "size")[:3] == ["0", "1", "2"]


def test_columns_are_replaced_only_on_request(tmp_path, index):
    index.add_metadata(table(tmp_path, "kind", range(23), "old{}"))
    version = index.versions().rows()[0]["version"]
    with pytest.raises(SourceError, match="have the columns kind already: add --replace"):
        index.add_metadata(table(tmp_path, "kind", range(5), "new{}"))
    assert index.versions().rows()[0]["version"] == version, "what is refused writes nothing"
    index.add_metadata(table(tmp_path, "kind", range(5), "new{}"), replace=True)
    assert column(index, "kind") == ["new0", "new1", "new2", "new0", "new1"] + [None] * 18
    with open_index(index.uri, version=version) as earlier:
        assert column(earlier, "kind")[0] == "old0"


def test_a_table_that_names_no_image_writes_nothing(tmp_path, index):
    (tmp_path / "t.csv").write_text("id,n\nother,1\n")
    version = index.versions().rows()[0]["version"]
    with pytest.raises(SourceError, match="'other', the first image is"):
        index.add_metadata(tmp_path / "t.csv")
    assert index.versions().rows()[0]["version"] == version


def test_images_without_file_names_are_refused(tmp_path):
    paths = fakes.write_arrays(tmp_path / "made")
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    with pytest.raises(SourceError, match=r"no image of .* has a file name"):
        index.add_metadata(table(tmp_path, "kind", range(3)))


def test_an_evaluation_by_metadata_is_made_again_after_a_join(tmp_path, index):
    """Its values are stored by all that they depend on."""
    index.add_metadata(table(tmp_path, "kind", range(23), "k{}"))
    (tmp_path / "words.txt").write_text("k0\nk1\nk2\nred\n")
    options = EvaluationOptions(methods=parse_methods(["semanticlens"]), concepts=("kind",))

    def runs() -> int:
        index.evaluate("net/concepts", options, vocabulary=str(tmp_path / "words.txt"))
        return sum(run["command"] == "evaluate" for run in index.sql("SELECT command FROM runs").rows())

    assert (runs(), runs()) == (1, 1)
    index.add_metadata(table(tmp_path, "kind", range(23), "k{}"), replace=True)
    assert (runs(), runs()) == (2, 2)


def test_the_command(tmp_path, index, run):
    ended = run("metadata", index.uri, table(tmp_path, "kind", range(20)))
    assert ended.status == 0 and "20 of 23 images have the columns kind" in ended.out
    again = run("metadata", index.uri, table(tmp_path, "kind", range(20)))
    assert again.status == 1 and "--replace" in again.err
    summary = json.loads(run("metadata", index.uri, table(tmp_path, "kind", range(20)), "--replace", "--json").out)
    assert summary["joined"] == 20 and summary["columns"] == ["kind"]
    assert run("metadata", tmp_path / "none.db", table(tmp_path, "kind", range(20))).status == 1
