"""Versions of an index on the command line: list, name, read, migrate."""

from __future__ import annotations

import gc
import json
import tarfile
from pathlib import Path

import fakes
import pytest

from csp_index import open_index

ARCHIVE = Path(__file__).parents[1] / "data" / "index_of_2d73c0c.tar.gz"
LABEL = ("label", "db", "--layer", "m/l", "--neurons", "0-1", "--text-embeddings", "T.npy", "--texts", "T.txt")


@pytest.fixture
def db(tmp_path, monkeypatch):
    """An index of arrays, whose labels come after it is named `bare`."""
    monkeypatch.chdir(tmp_path)
    paths = fakes.write_arrays(tmp_path)
    Path("T.npy").write_bytes(paths["text_embeddings"].read_bytes())
    Path("T.txt").write_bytes(paths["texts"].read_bytes())
    open_index("db").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return tmp_path / "db"


def listed(run) -> list[dict[str, object]]:
    return json.loads(run("versions", "db", "--json").out)


def test_versions_are_listed_named_and_read(run, db):
    assert run("tag", "db", "bare").out.endswith("is named bare\n")
    assert run(*LABEL, "--method", "csp").status == 0
    rows = listed(run)
    assert [row["command"] for row in rows] == ["label", "import", "create"]
    assert [row["tags"] for row in rows] == [[], ["bare"], []]
    assert [row["labels"] > 0 for row in rows] == [True, False, False]
    assert json.loads(run("status", "db", "--json").out)["labels"] == 2
    for name in ("bare", str(rows[1]["version"])):
        assert json.loads(run("status", "db", "--version", name, "--json").out)["labels"] == 0
        assert run("export", "db", "--version", name).out.count("\n") == 1, "the header alone"
        assert "0" in run("sql", "db", "SELECT count(*) AS n FROM labels", "--version", name).out
    assert run("show", "db", "m/l/0", "--version", str(rows[0]["version"])).status == 0


def test_nothing_is_written_to_a_version(run, db):
    assert run("tag", "db", "bare").status == 0
    before = sorted(db.rglob("*"))
    said = run(*LABEL, "--method", "csp", "--version", "bare")
    assert said.status == 1
    assert "is open at a fixed version, only to be read: to write, leave out --version" in said.err
    assert sorted(db.rglob("*")) == before


def test_clean_up_keeps_what_has_a_name_until_it_is_taken_away(run, db):
    run("tag", "db", "bare")
    run(*LABEL, "--method", "csp")
    gc.collect()  # `label` ran in this process, too
    run("optimize", "db", "--keep-hours", "0")
    assert [row["command"] for row in listed(run)] == ["optimize", "import"]
    assert json.loads(run("status", "db", "--version", "bare", "--json").out)["labels"] == 0
    assert run("tag", "db", "bare", "--remove").status == 0
    gc.collect()  # `status` ran in this process, which would otherwise still hold the version that it read
    run("optimize", "db", "--keep-hours", "0")
    assert [row["command"] for row in listed(run)] == ["optimize"]
    said = run("status", "db", "--version", "bare")
    assert (said.status, "version 'bare' is not in db" in said.err) == (1, True)


def test_an_index_of_format_2_is_migrated_once(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(tmp_path)
    said = run("prefer", "index", "pmi")
    assert (said.status, "run `csp-index migrate index` once" in said.err) == (1, True)
    assert run("migrate", "index").out == "index has format 3 now (was 2): 8 shards with their digests\n"
    assert run("migrate", "index").out == "index has format 3 already\n"
    assert run("prefer", "index", "pmi").status == 0


def test_a_newer_format_names_what_it_needs(run, db):
    head = db / "commits" / "HEAD"
    head.write_text(json.dumps(json.loads(head.read_text()) | {"format": "5", "needs": "0.9.0"}))
    for command in (["status", "db"], ["prefer", "db", "csp"], ["versions", "db"], ["migrate", "db"]):
        said = run(*command)
        assert said.status == 1
        assert "db has format 5" in said.err and "it needs csp_index 0.9.0 or later" in said.err
