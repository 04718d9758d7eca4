"""Clean-up keeps what readers, tags and the last commit need, and removes the rest."""

from __future__ import annotations

import errno
import fcntl
import os

import numpy as np
import pyarrow as pa
import pytest
from filelock import SoftFileLock
from other_process import run_python

from csp_index.errors import NotFoundError, SettingError
from csp_index.store import locks
from csp_index.store.connect import create_store, open_snapshot, open_store, open_version
from csp_index.store.history.cleanup import clean_up
from csp_index.store.tables import Store


def rows(first: int, count: int = 3) -> pa.Table:
    return pa.table({"key": pa.array(np.arange(first, first + count))})


@pytest.fixture
def store(tmp_path):
    """An index of four commits: runs alone, then three times three rows more."""
    made = create_store(tmp_path / "db")
    for first in (0, 3, 6):
        made.append("numbers", rows(first))
    return made


def cleaned(store: Store, keep_hours: float = 0) -> dict[str, int]:
    with store.write_lock():
        return clean_up(store, keep_hours)


def numbers(store: Store) -> list[int]:
    return [record.number for record in store.log.records()]


def test_nothing_goes_before_its_time(store):
    cleaned(store, 1)  # versions inside a commit, which nobody sees, are no loss
    assert numbers(store) == [1, 2, 3, 4]


def test_without_readers_and_tags_the_last_commit_is_left(store):
    freed = cleaned(store)
    assert freed["numbers"] > 0
    assert numbers(store) == [4]
    assert len(store.dataset("numbers").versions()) == 1
    assert store.read("numbers")["key"].to_pylist() == list(range(9))
    assert set(cleaned(store).values()) == {0}


def test_a_commit_that_is_read_stays_as_long_as_its_reader(store, tmp_path):
    early = open_version(tmp_path / "db", 2)
    reader = open_snapshot(tmp_path / "db")
    store.append("numbers", rows(9))
    cleaned(store)
    assert numbers(store) == [2, 4, 5]
    assert (early.count("numbers"), reader.count("numbers")) == (3, 9)
    assert early.read("numbers")["key"].to_pylist() == [0, 1, 2]
    del early
    cleaned(store)
    assert numbers(store) == [4, 5]
    assert reader.read("numbers").num_rows == 9


def test_a_tagged_commit_stays_until_its_tag_goes(store, tmp_path):
    store.log.tag("paper", store.log.find("3"))
    cleaned(store)
    assert numbers(store) == [3, 4]
    assert open_version(tmp_path / "db", "paper").count("numbers") == 6
    with pytest.raises(SettingError, match="names version 3 already"):
        store.log.tag("paper", store.log.find("4"))
    store.log.untag("paper")
    cleaned(store)
    assert numbers(store) == [4]
    with pytest.raises(NotFoundError, match="'paper' is not in"):
        open_version(tmp_path / "db", "paper")


@pytest.mark.parametrize("name", ["", "3", "a/b", "../x", "a b", "x" * 65, ".hidden", "\x1b[31m"])
def test_a_tag_is_a_plain_name(store, name):
    with pytest.raises(SettingError, match="is no name"):
        store.log.tag(name, store.log.find("3"))


@pytest.mark.parametrize("name", ["99", "0", "-1", "1e3", "nothing", "9" * 40])
def test_a_version_that_is_not_there_is_told(tmp_path, store, name):
    with pytest.raises(NotFoundError, match="csp-index versions"):
        open_version(tmp_path / "db", name)


def test_what_a_cut_off_writer_left_is_removed(store, tmp_path):
    table = tmp_path / "db" / "numbers.lance"
    store.write_fragments("numbers", rows(100))  # never appended
    assert len(list((table / "data").iterdir())) == 4
    assert cleaned(store)["numbers"] > 0
    assert len(list((table / "data").iterdir())) == 3
    assert store.count("numbers") == 9


def test_a_failed_command_is_undone_and_leaves_the_last_commit(store, tmp_path):
    with pytest.raises(ZeroDivisionError), store.write_lock():
        store.append("numbers", rows(9))
        store.append("more", rows(0))
        store.checkpoint()
        store.append("numbers", rows(12))
        raise ZeroDivisionError
    other = open_store(tmp_path / "db")
    assert other.count("numbers") == 12, "what was finished before a checkpoint is kept"
    assert other.table_names() == ["more", "numbers", "runs"]


def test_a_killed_command_is_not_seen_and_the_next_writer_goes_on_from_its_checkpoint(store, tmp_path):
    code = """
        import os, signal, sys, pyarrow as pa; from csp_index.store.connect import open_store
        store, rows = open_store(sys.argv[1]), pa.table({"key": pa.array([9])})
        with store.write_lock():
            store.append("numbers", rows)
            store.checkpoint()
            store.append("numbers", rows)
            store.append("more", rows)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, str(tmp_path / "db")).returncode == -9
    other = open_store(tmp_path / "db")
    assert (other.count("numbers"), other.table_names()) == (9, ["numbers", "runs"])
    with store.write_lock():
        assert store.count("numbers") == 10
    assert (other.count("numbers"), other.table_names()) == (10, ["numbers", "runs"])


def test_a_change_of_another_program_is_not_seen_by_readers_and_undone_by_writers_who_say_so(store, tmp_path, caplog):
    import lance

    lance.write_dataset(rows(50), str(tmp_path / "db" / "numbers.lance"), mode="append")
    assert open_store(tmp_path / "db").count("numbers") == 9
    with store.write_lock():
        assert store.count("numbers") == 9
    assert "table numbers of" in caplog.text and "changed by another program" in caplog.text
    assert "its version 5 is there" in caplog.text
    assert lance.dataset(str(tmp_path / "db" / "numbers.lance"), version=5).count_rows() == 12


def test_a_file_system_without_links_and_locks_holds_an_index(tmp_path, monkeypatch):
    def unsupported(*arguments):
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "link", unsupported)
    monkeypatch.setattr(fcntl, "flock", unsupported)
    monkeypatch.setattr(locks, "FileLock", SoftFileLock)  # filelock has its own answer to that
    store = create_store(tmp_path / "db")
    store.append("numbers", rows(0))
    store.append("numbers", rows(3))
    assert open_store(tmp_path / "db").count("numbers") == 6
    cleaned(store)
    assert numbers(store) == [3]
    assert open_store(tmp_path / "db").count("numbers") == 6
