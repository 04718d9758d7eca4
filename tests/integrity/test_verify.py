"""`verify` on sound indexes: counts, samples, formats, notes; what the command says and returns."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
import whole_index
from checkout import ROOT
from other_process import run_python

from csp_index import StoreError, open_index
from csp_index.integrity.findings import REMEDIES, Finding, remedy_of
from csp_index.integrity.verify import verify
from csp_index.store.history.commits import CommitLog
from csp_index.store.locations import location_of
from csp_index.store.schema import fixed_tables

OLD = ROOT / "tests" / "data" / "index_of_2d73c0c.tar.gz"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return whole_index.build(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def db(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "planted.db")
    os.symlink(whole.parent / "images", tmp_path / "images")
    return tmp_path / "planted.db"


@pytest.mark.parametrize("full", [False, True])
def test_a_sound_index_is_whole(db, full):
    before = sorted(path for path in db.rglob("*") if path.is_file())
    result = whole_index.opened(db).verify(full=full)
    assert (result.findings, result.sound) == ([], True)
    assert result.checked["tables"] == 22 and result.checked["labels"] == 19 and result.checked["shards"] == 8
    assert ("texts embedded again" in result.checked) == full
    assert "all whole" in result.summary()
    assert sorted(path for path in db.rglob("*") if path.is_file()) == before, "verifying changes nothing"


def test_repairing_a_sound_index_does_nothing(db):
    before = sorted(path for path in db.rglob("*") if path.is_file())
    assert verify(db, repair=True).repaired == []
    assert sorted(path for path in db.rglob("*") if path.is_file()) == before


def test_the_command_says_what_was_checked_and_ends_with_0(db, run):
    said = run("verify", db)
    assert (said.status, said.err) == (0, "")
    assert said.out.startswith("checked 22 tables") and said.out.endswith(": all whole\n")


def test_the_command_names_what_is_wrong_what_it_affects_and_what_repairs_it(db, run):
    image = next((db / "images.lance" / "data").iterdir())
    image.write_bytes(image.read_bytes()[:-1])
    said = run("verify", db)
    assert said.status == 1
    line = said.out.splitlines()[0]
    assert line.startswith(f"images, data/{image.name}: the file has ")
    assert "; affects pictures" in line and "; repair: the rows are made again from the original images" in line
    said = run("verify", db, "--json")
    (row,) = said.rows
    assert (said.status, row["sound"], row["findings"][0]["table"]) == (1, False, "images")
    assert row["findings"][0].keys() == {"table", "where", "what", "affects", "repair"}


def test_no_index_is_an_error(tmp_path, run):
    said = run("verify", tmp_path / "nothing")
    assert said.status == 1 and "no index at" in said.err


def test_an_encoder_that_the_user_does_not_trust_is_not_run(db):
    result = verify(db, full=True)
    assert result.sound and any("is not on this machine" in note for note in result.notes)
    result = open_index(db).verify(full=True)
    assert "texts embedded again" not in result.checked or result.sound


def test_what_a_killed_command_left_is_noted_and_not_found(db):
    code = """
        import os, signal, sys, pyarrow as pa; from csp_index.store.connect import open_store
        store = open_store(sys.argv[1])
        with store.write_lock():
            store.append("labels", store.read("labels"))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, db).returncode == -9
    result = verify(db, full=True)
    assert result.findings == []
    assert any(note.startswith("labels has version") and "was cut off" in note for note in result.notes)


def test_an_index_of_format_2_is_verified_as_far_as_it_goes(tmp_path):
    with tarfile.open(OLD) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # since Python 3.11.4
        archive.extractall(tmp_path)
    result = verify(tmp_path / "index", full=True)
    assert result.findings == []
    assert any("has format 2" in note and "csp-index migrate" in note for note in result.notes)
    assert result.checked["neurons"] > 0 and "files" not in result.checked


def test_arrays_without_pictures_are_verified(tmp_path):
    paths = fakes.write_arrays(tmp_path / "made")
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=25)
    result = index.verify(full=True)
    assert result.sound and result.checked["neurons"] == 8 and result.checked["thumbnails"] == 0


def test_a_later_format_is_refused_and_not_repaired(db):
    head = db / "commits" / "HEAD"
    head.write_text(head.read_text().replace('"format": "3"', '"format": "99"'))
    text = head.read_text()
    with pytest.raises(StoreError, match="it needs csp_index"):
        verify(db, repair=True)
    assert head.read_text() == text


def test_tables_copied_without_their_commits_are_refused_and_taken_on_order(db, run):
    expected = open_index(db).labels(method="all").rows()
    shutil.rmtree(db / "commits")
    for repair in (False, True):
        with pytest.raises(StoreError, match=r"no record of which .* belong together.*`csp-index migrate"):
            verify(db, repair=repair)
    said = run("migrate", db)
    assert said.status == 0 and "has its tables as they are" in said.out
    assert verify(db, full=True).sound
    assert open_index(db).labels(method="all").rows() == expected


@pytest.mark.parametrize("table", [*fixed_tables(), "embeddings_x", "activations_x", "texts_x", "derived_x"])
def test_every_table_has_a_remedy(table):
    finding = Finding(table, "it is broken", remedy_of(table))
    assert finding.remedy in REMEDIES and finding.affects and finding.repair


def test_a_copy_made_while_somebody_writes_is_whole_if_commits_come_first(db, tmp_path):
    copy = tmp_path / "copy.db"
    shutil.copytree(db / "commits", copy / "commits")
    whole_index.opened(db).prefer("csp")
    shutil.copytree(db, copy, dirs_exist_ok=True, ignore=lambda folder, names: {"commits"} & set(names))
    assert [finding.remedy for finding in verify(copy, full=True).findings] == ["undo"]
    assert verify(copy, full=True, repair=True).sound


@pytest.mark.parametrize("name", ["data/../../../secret.txt", "../../secret.txt", "/dev/zero", "data/link"])
def test_a_list_of_files_cannot_make_verify_read_other_files(db, tmp_path, name):
    """The list comes from the index, which may come from a stranger."""
    (tmp_path / "secret.txt").write_text("secret")
    if name == "data/link":
        (db / "images.lance" / name).symlink_to("/dev/zero")
    log = CommitLog(location_of(db))
    _, record = log.current()
    digest, _ = log.keep_files({name: [6, hashlib.sha256(b"secret").hexdigest()]})
    tables = record.tables | {"images": replace(record.tables["images"], files=digest)}
    log.write(tables, "", "forged", shown=True)
    (finding,) = [finding for finding in verify(db).findings if finding.table == "images"]
    assert finding.where == name and finding.what in (
        "this is no file of the table, and is not read",
        "the file is missing",
        "it is a link, expected a regular file: no table with it is read",
    )
