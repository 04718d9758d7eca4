"""Copies of one version: whole while others write, checked as they are made, never half there."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import fakes
import pytest

from csp_index import StoreError, open_index
from csp_index.integrity.verify import verify
from csp_index.store import maintenance
from csp_index.store.connect import open_store
from csp_index.store.history import backup


@pytest.fixture
def db(tmp_path: Path) -> Path:
    paths = fakes.write_arrays(tmp_path / "made")
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=20)
    index.prefer("csp")
    return tmp_path / "db"


def shown(place: Path) -> object:
    with open_index(place) as index:
        queries = ("SELECT * FROM activations('m/l/1') ORDER BY image_id", "SELECT * FROM runs ORDER BY run_id")
        return [index.sql(query).rows() for query in queries]


def test_a_copy_says_the_same_and_is_an_index_of_its_own(db, tmp_path):
    done = open_index(db).backup(tmp_path / "copy.db")
    assert (done.version, done.place) == (open_store(db).commit_seen.number, str(tmp_path / "copy.db"))
    assert shown(tmp_path / "copy.db") == shown(db)
    assert verify(tmp_path / "copy.db", full=True).sound
    paths = fakes.write_arrays(tmp_path / "made")
    open_index(tmp_path / "copy.db").import_arrays(paths["activations"], "m/other", embeddings=paths["embeddings"])
    open_index(tmp_path / "copy.db").optimize(keep_hours=0)
    assert verify(tmp_path / "copy.db", full=True).sound
    assert shown(tmp_path / "copy.db") != shown(db)


def test_an_earlier_version_is_copied_alone(db, tmp_path, run):
    first = open_index(db).versions().rows()[-1]["version"]
    open_index(db).prefer("semanticlens")
    ended = run("backup", db, tmp_path / "copy.db", "--version", first)
    assert ended.status == 0 and f"version {first} is at" in ended.out
    assert [row["version"] for row in open_index(tmp_path / "copy.db").versions().rows()] == [first]
    assert verify(tmp_path / "copy.db", full=True).sound


def test_copies_are_whole_while_somebody_writes_and_cleans_up(db, tmp_path):
    stop = threading.Event()

    def write() -> None:
        store = open_store(db)
        while not stop.is_set():
            with store.write_lock():
                store.upsert("failures", ["uri"], store.read("failures").slice(0, 0))
                maintenance.compact(store, "runs")
                store.commit()
            open_index(db).optimize(keep_hours=0)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(8):
            open_index(db).backup(tmp_path / f"copy{number}.db")
    finally:
        stop.set()
        writer.join()
    for number in range(8):
        assert verify(tmp_path / f"copy{number}.db", full=True).sound


def test_a_copy_that_is_cut_off_is_none_and_the_next_one_is_whole(db, tmp_path, monkeypatch):
    copied = backup._copy
    calls = []

    def cut_off(*arguments):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        copied(*arguments)

    monkeypatch.setattr(backup, "_copy", cut_off)
    with pytest.raises(KeyboardInterrupt):
        open_index(db).backup(tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
    with pytest.raises(StoreError, match="is no index yet"):
        open_store(tmp_path / "copy.db.unfinished")
    open_index(db).backup(tmp_path / "copy.db")
    assert verify(tmp_path / "copy.db", full=True).sound and not (tmp_path / "copy.db.unfinished").exists()


def test_what_cannot_be_copied_is_said_in_one_line(db, tmp_path, run):
    shutil.copytree(db, tmp_path / "full.db")
    said = run("backup", db, tmp_path / "full.db")
    assert said.status == 1 and "exists and is not empty" in said.err
    assert "is not in" in run("backup", db, tmp_path / "a.db", "--version", "77").err
    (file,) = list((db / "images.lance" / "data").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)
    said = run("backup", db, tmp_path / "b.db")
    assert said.status == 1 and "was changed after it was committed" in said.err
    file.unlink()
    os.symlink("/etc/passwd", file)
    assert "is a link" in run("backup", db, tmp_path / "c.db").err
    assert not any((tmp_path / f"{name}.db").exists() for name in "abc")
