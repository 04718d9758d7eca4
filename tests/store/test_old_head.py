"""A HEAD that is older than its index, or lost: nothing later is undone in silence."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from csp_index.errors import StoreError
from csp_index.integrity.verify import verify
from csp_index.store import schema
from csp_index.store.connect import create_store, open_store
from csp_index.store.history.cleanup import clean_up
from csp_index.store.history.named_versions import tag_version
from csp_index.store.locks import hold

ROWS = pa.table({"key": [1, 2, 3]})


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """An index of four commits; `others` came with the last."""
    store = create_store(tmp_path / "db")
    for name in ("numbers", "numbers", "others"):
        store.append(name, ROWS)
    return tmp_path / "db"


def set_head(db: Path, number: int) -> None:
    store = open_store(db)
    store.log.point_to(store.log.record(number))


@pytest.mark.parametrize("number", [1, 2])
def test_an_old_head_is_an_error_and_nothing_is_undone(db, number):
    head = (db / "commits" / "HEAD").read_bytes()
    before = open_store(db)
    set_head(db, number)
    del before
    with pytest.raises(StoreError, match=rf"HEAD is older than the index: it names commit {number}, 4 is there"):
        open_store(db)
    with pytest.raises(StoreError, match="HEAD is older"), create_store(db).write_lock():
        pass
    assert (db / "others.lance").is_dir()
    result = verify(db, repair=True)
    assert result.sound and (db / "others.lance").is_dir()
    assert open_store(db).count("numbers") == 6 and open_store(db).count("others") == 3
    assert json.loads(head)["commit"] <= json.loads((db / "commits" / "HEAD").read_bytes())["commit"]


def test_one_record_too_many_is_what_a_killed_writer_leaves(db):
    set_head(db, 3)
    assert open_store(db).count("numbers") == 6, "readers cannot know who wrote it"
    with pytest.raises(StoreError, match="it names commit 3, 4 is there"), open_store(db).write_lock():
        pass
    (db / ".writer.json").write_text("{}")  # now they can: the last writer did not end well
    open_store(db).append("numbers", ROWS)
    assert open_store(db).count("numbers") == 9 and not open_store(db).has("others")


@pytest.mark.parametrize("begun", [False, True])
def test_a_lost_head_is_not_an_index_that_was_just_begun(db, begun):
    (db / "commits" / "HEAD").unlink()
    if begun:
        (db / "commits" / "BEGUN").write_bytes(b"")
    for opened in (open_store, create_store):
        with pytest.raises(StoreError, match="commits/HEAD is missing"):
            opened(db)
    assert verify(db, repair=True).sound
    assert open_store(db).count("others") == 3


def test_a_mark_of_the_beginning_that_was_left_is_removed(tmp_path):
    store = create_store(tmp_path / "db")
    (tmp_path / "db" / "commits" / "BEGUN").write_bytes(b"")  # as a kill between HEAD and its removal leaves it
    store.append("numbers", ROWS)
    assert not (tmp_path / "db" / "commits" / "BEGUN").exists()


def test_a_table_of_the_user_is_left_alone(db, caplog):
    import lancedb

    lancedb.connect(str(db)).create_table("my_notes", ROWS)
    lancedb.connect(str(db)).create_table("derived_x", ROWS)
    open_store(db).append("numbers", ROWS)
    assert (db / "my_notes.lance").is_dir() and not (db / "derived_x.lance").exists()
    assert "my_notes" not in caplog.text and "derived_x" in caplog.text and "made by another program" in caplog.text
    assert not open_store(db).has("my_notes")
    result = verify(db)
    assert result.sound and any("my_notes is no table of csp_index" in note for note in result.notes)
    assert not schema.is_own("my_notes")


def test_a_version_is_named_while_somebody_writes(db):
    with hold(open_store(db).location):
        assert tag_version(open_store(db), "now") == 4
    store = open_store(db)
    store.append("numbers", ROWS)
    with store.write_lock():
        clean_up(store, 0)
    assert store.log.tags() == {"now": 4} and store.log.record(4).number == 4


def test_a_tag_given_while_clean_up_runs_is_seen(db, monkeypatch):
    """Clean-up has read the tags; then one is given, without the lock of the writer."""
    store = open_store(db)
    tags, calls = type(store.log).tags, []

    def late(log):
        calls.append(1)
        if len(calls) == 2:
            log.tag("late", log.record(2))
        return tags(log)

    monkeypatch.setattr(type(store.log), "tags", late)
    with store.write_lock():
        clean_up(store, 0)
    assert tags(store.log) == {"late": 2} and store.log.record(2).number == 2


def test_clean_up_on_nfs_removes_records(db, monkeypatch):
    """NFS gives an exclusive lock only on a file that is open for writing."""
    flock = fcntl.flock

    def of_nfs(handle, operation):
        writable = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        if operation & fcntl.LOCK_EX and not writable:
            raise OSError(errno.EBADF, "Bad file descriptor")
        return flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", of_nfs)
    store = open_store(db)
    with store.write_lock():
        clean_up(store, 0)
    assert store.log.numbers() == [4]


def test_a_copy_with_an_old_head_goes_forward(db, tmp_path):
    """HEAD was copied before the others changed, the rest after."""
    (tmp_path / "copy" / "commits").mkdir(parents=True)
    shutil.copy(db / "commits" / "HEAD", tmp_path / "copy" / "commits" / "HEAD")
    for _ in range(2):
        open_store(db).append("numbers", ROWS)
    head = tmp_path / "copy" / "commits" / "HEAD"
    shutil.copytree(db, tmp_path / "copy", dirs_exist_ok=True, ignore=lambda *names: {"HEAD"} & set(names[1]))
    assert json.loads(head.read_bytes())["commit"] == 4
    with pytest.raises(StoreError, match="is older than the index"):
        open_store(tmp_path / "copy")
    assert verify(tmp_path / "copy", repair=True).sound
    assert open_store(tmp_path / "copy").count("numbers") == 12
