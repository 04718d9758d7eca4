"""An index that commit 2d73c0c made, in format 2: read as it is, refused by writers, migrated without loss."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from few import few
from killing import killed_at
from planted import PLANTED, WORDS

from csp_index import Index, StoreError, open_index
from csp_index.labelling.methods import METHODS
from csp_index.store import catalog
from csp_index.store.connect import open_version
from csp_index.store.history.migration import Migration, digests_of, migrate

ARCHIVE = Path(__file__).parent / "data" / "index_of_2d73c0c.tar.gz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, dict[str, Any]]:
    """The index, opened, and what that commit's `Index.label` returned for each method."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(folder)
    return open_index(folder / "index"), json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("firing-contrast", "linear", "linear-1")])
def test_labels_are_read_and_not_made_again(old, method):
    index, expected = old
    versions = index.store.versions()
    labels = index.label(PLANTED, method, vocabulary=WORDS, templates="none")
    read = json.loads(json.dumps([label.as_json() | {"run": label.run_id} for label in labels]))
    stored = expected["labels"][method]
    assert [{key: row[key] for key in old_row} for row, old_row in zip(read, stored, strict=True)] == stored
    assert index.store.versions() == versions == expected["versions"]


def test_writers_refuse_it_and_name_what_to_do(old):
    index, expected = old
    with pytest.raises(StoreError, match=r"has format 2, without commits: run `csp-index migrate .*nothing of it"):
        index.prefer("pmi")
    assert index.store.versions() == expected["versions"]


WRITERS: dict[str, Callable[[Index], object]] = {
    "index": lambda index: index.add_images(None),
    "add_layer": lambda index: index.add_layer("python:fakes:network", "conv"),
    "maps": lambda index: index.make_maps("net/concepts/0"),
    "effects": lambda index: index.effects("net/concepts"),
    "label": lambda index: index.label("net/concepts", "csp", vocabulary=["brown"]),
    "label --crop": lambda index: index.label("net/concepts", "csp", vocabulary=["brown"], crop=True),
    "evaluate": lambda index: index.evaluate("net/concepts", vocabulary=["brown"]),
    "facets": lambda index: index.facets("net/concepts", vocabulary=["brown"]),
    "formulas": lambda index: index.formulas("net/concepts", vocabulary=["brown"]),
    "audit": lambda index: index.audit("net", ["brown"], by="colour"),
    "candidates": lambda index: index.propose("net/concepts", captioner="python:elsewhere:captioner"),
}


@pytest.mark.parametrize("command", WRITERS)
def test_writers_refuse_it_before_code_that_it_names_runs(command, old, monkeypatch):
    for loader in (
        "models.index_models.load_network",
        "models.index_models.load_encoder",
        "proposers.propose.load_proposer",
    ):
        monkeypatch.setattr(f"csp_index.{loader}", lambda *_, **__: pytest.fail("code that the index names ran"))
    with pytest.raises(StoreError, match="csp-index migrate"):
        WRITERS[command](open_index(old[0].uri, trust=True, device="cpu"))


@pytest.fixture
def copy(old, tmp_path) -> Path:
    shutil.copytree(old[0].uri, tmp_path / "index")
    return tmp_path / "index"


def rows_of(index: Index) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table, without the record of the migration itself."""
    names = index.store.table_names()
    rows = {name: index.store.read(name).to_pylist() for name in names}
    rows["runs"] = [row for row in rows["runs"] if row["command"] != "migrate"]
    return rows


def test_a_migrated_index_has_the_same_rows_and_the_digest_of_every_shard(copy):
    before = rows_of(open_index(copy))
    index = open_index(copy)
    assert migrate(index.store) == Migration("2", "3", len(before["shards"]))
    after = rows_of(open_index(copy))
    digests = [row.pop("digest") for row in after["shards"]]
    assert after == before
    assert all(len(digest) == 64 for digest in digests)
    for what, table in (("images", "images"), *((info.what, info.table) for info in catalog.columns(index.store))):
        assert all(shard.number >= 0 and digest in digests for shard, digest in digests_of(index.store, what, table))
    assert migrate(open_index(copy).store) == Migration("3", "3", 0), "once is enough"
    assert open_version(copy, 1).read("labels").num_rows == len(before["labels"]), "the old state stays until clean-up"


@pytest.mark.parametrize("step", few(range(1, 200, 25), 2))
def test_a_migration_that_is_killed_goes_on(copy, step):
    before = rows_of(open_index(copy))
    with killed_at(step) as kill:
        migrate(open_index(copy).store)
    if kill.done:
        assert rows_of(open_index(copy))["labels"] == before["labels"], "it can be read in between"
        with pytest.raises(StoreError, match=r"migrate"):
            open_index(copy).prefer("pmi")
    migrate(open_index(copy).store)
    after = rows_of(open_index(copy))
    assert all(row.pop("digest") for row in after["shards"])
    assert after == before


def test_what_was_made_since_goes_into_a_migrated_index(old, copy):
    _, expected = old
    index = open_index(copy)
    migrate(index.store)
    index = open_index(copy)
    index.prefer("pmi")
    (label,) = index.label(f"{PLANTED}/0", vocabulary=WORDS, templates="none", examples=7, keep=False)
    assert (label.method, len(label.pairs)) == ("pmi", 7)
    assert index.view(f"{PLANTED}/0").label.as_json()["labels"] == expected["labels"]["pmi"][0]["labels"]
