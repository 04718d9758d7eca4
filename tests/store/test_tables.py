"""The store: opened, created or refused; one writer; order; search; nothing changed where writing is not allowed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from checkout import python_path
from fakes import write_arrays
from snapshots import snapshot

from csp_index import open_index
from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.connect import create_store, open_store

ROWS = pa.table({"key": pa.array([1, 2, 3]), "text": ["a", "b", "c"]})


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in another process."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": python_path(), "HOME": "/nowhere", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_format_survives_the_first_run(tmp_path):
    index = open_index(tmp_path / "db")
    paths = write_arrays(tmp_path)
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    assert index.store.dataset(schema.RUNS).schema.metadata[schema.FORMAT_KEY] == schema.FORMAT.encode()


def test_rows_come_back_in_the_order_they_were_written(tmp_path):
    store = create_store(tmp_path)
    for start in range(0, 50, 10):
        store.append("numbers", pa.table({"key": pa.array(range(start, start + 10)), "text": ["x"] * 10}))
    assert store.read("numbers", ["key"])["key"].to_pylist() == list(range(50))
    assert store.read("numbers", ["key"], "key >= 45")["key"].to_pylist() == list(range(45, 50))
    scanned = [batch.column("key").to_pylist() for batch in store.scan("numbers", ["key"], batch_rows=7)]
    assert [key for keys in scanned for key in keys] == list(range(50))
    assert max(map(len, scanned)) <= 7


def test_upsert_replaces_and_delete_counts(tmp_path):
    store = create_store(tmp_path)
    store.append("numbers", ROWS)
    store.upsert("numbers", ["key"], pa.table({"key": pa.array([2, 9]), "text": ["B", "n"]}))
    assert sorted(store.read("numbers").to_pylist(), key=str) == [
        {"key": 1, "text": "a"},
        {"key": 2, "text": "B"},
        {"key": 3, "text": "c"},
        {"key": 9, "text": "n"},
    ]
    version = store.versions()["numbers"]
    assert store.delete("numbers", "key = 77") == 0
    assert store.versions()["numbers"] == version  # no commit for nothing
    assert store.delete("numbers", "key > 2") == 2
    assert store.delete("absent", "key > 2") == 0
    assert store.count("numbers") == 2


def test_what_is_made_of_a_table_is_made_once_per_state(tmp_path):
    store, calls = create_store(tmp_path), []

    def total(key: str = "sum", variant: int | None = None) -> int:
        def make() -> int:
            calls.append(key)
            return sum(store.read("numbers")["key"].to_pylist()) if store.has("numbers") else 0

        return store.memo("numbers", key, make, variant=variant)

    assert [total(), total()] == [0, 0]  # of a table that does not exist
    store.append("numbers", ROWS)
    assert [total(), total(), total("other"), total("other")] == [6, 6, 6, 6]
    open_store(tmp_path).append("numbers", ROWS)  # by another writer
    assert [total(), total(), total(variant=2), total(variant=2), total()] == [12] * 5
    assert calls == ["sum", "sum", "other", "sum", "sum", "sum"]
    store.forget("sum")
    assert total("other") == 12 and total() == 12
    assert calls[-2:] == ["other", "sum"]
    store.replace("numbers", pa.table({"key": pa.array([5])}))
    assert total() == 5


def test_threads_that_ask_for_the_same_of_a_table_make_it_once(tmp_path):
    store, calls, start = create_store(tmp_path), [], threading.Barrier(4)
    store.append("numbers", ROWS)

    def ask(_: int) -> int:
        start.wait(60)
        return store.memo("numbers", "rows", lambda: calls.append(1) or store.count("numbers"))

    with store.moment(), ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == [3] * 4
    assert len(calls) == 1
    with pytest.raises(ZeroDivisionError):
        store.memo("numbers", "broken", lambda: 1 // 0)
    assert store.memo("numbers", "broken", lambda: 1) == 1  # an error is not remembered


def test_importing_changes_no_environment_variable():
    """Lance's log level is set when a table is first opened, not by an import."""
    done = run_python("""
        import os, sys
        before = dict(os.environ)
        import csp_index.store.connect
        assert dict(os.environ) == before and "lance" not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


def test_absent_tables(tmp_path):
    store = create_store(tmp_path)
    assert store.count("absent") == 0
    assert store.read(schema.LABELS).schema.names == schema.table_schema(schema.LABELS).names
    assert store.read(schema.LABELS, ["text"]).num_rows == 0
    with pytest.raises(StoreError, match=r"table absent is not in .* .has: runs."):
        store.read("absent")
    assert not store.has("absent")


def test_readers_see_the_last_commit_of_another_handle(tmp_path):
    writer, reader = create_store(tmp_path), open_store(tmp_path)
    writer.append("numbers", ROWS)
    assert reader.count("numbers") == 3
    writer.append("numbers", ROWS)
    assert reader.count("numbers") == 6


def test_a_moment_shows_one_state_and_what_is_written_through_it(tmp_path):
    store, other = create_store(tmp_path / "db"), open_store(tmp_path / "db")
    store.append("rows", ROWS)
    with other.moment():
        assert other.count("rows") == 3
        assert not other.has("later")
        store.append("rows", ROWS)
        with other.moment():
            assert other.count("rows") == 3
        assert other.count("rows") == 3
        with other.write_lock():
            assert other.count("rows") == 6
            other.append("rows", ROWS)
            assert other.count("rows") == 9
            other.append("later", ROWS)
            assert other.count("later") == 3
    store.append("rows", ROWS)
    assert other.count("rows") == 12


def test_rows_that_do_not_fit_the_table_are_a_store_error(tmp_path):
    store = create_store(tmp_path)
    store.append("numbers", ROWS)
    with pytest.raises(StoreError, match=r"table numbers of .* cannot be written"):
        store.append("numbers", pa.table({"other": [1.0]}))
    assert store.count("numbers") == 3


def test_ctrl_c_inside_lance_stays_a_keyboard_interrupt(tmp_path):
    def interrupted():
        yield ROWS.to_batches()[0]
        raise KeyboardInterrupt

    store = create_store(tmp_path)
    store.append("numbers", ROWS)
    with pytest.raises(KeyboardInterrupt):
        store.append("numbers", pa.RecordBatchReader.from_batches(ROWS.schema, interrupted()))
    assert store.count("numbers") == 3


def test_many_tables_are_all_named(tmp_path):
    store = create_store(tmp_path)
    for number in range(25):
        store.create(f"t{number:02}", ROWS.schema)
    assert store.table_names() == ["runs", *(f"t{n:02}" for n in range(25))]


def test_search_gives_ids_by_cosine_and_honours_the_filter(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 8)).astype(np.float32)
    store = create_store(tmp_path)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 8)
    store.append("e", pa.table({"image_id": pa.array(np.arange(40)), "embedding": column}))
    queries = rng.standard_normal((3, 8)).astype(np.float32)
    cosines = queries @ (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).T
    for query, found in enumerate(store.search("e", queries, 5)):
        assert found.tolist() == np.argsort(-cosines[query])[:5].tolist()
    even = store.search("e", queries, 40, "image_id % 2 = 0")
    assert [sorted(found.tolist()) for found in even] == [list(range(0, 40, 2))] * 3
    (alone,) = store.search("e", queries[:1], 2)
    assert alone.tolist() == np.argsort(-cosines[0])[:2].tolist()


def test_who_asks_whether_an_index_can_be_written_waits_a_moment(tmp_path):
    create_store(tmp_path / "db")
    held, go_on = threading.Event(), threading.Event()

    def writes():
        with open_store(tmp_path / "db").write_lock():
            held.set()
            go_on.wait(10)

    with ThreadPoolExecutor(2) as pool:
        pool.submit(writes)
        assert held.wait(10)
        asked = pool.submit(open_store(tmp_path / "db").check_writable)
        threading.Timer(0.1, go_on.set).start()
        asked.result(10)


def test_a_second_writer_is_told_who_writes_and_readers_do_not_wait(tmp_path):
    store = create_store(tmp_path)
    store.append("numbers", ROWS)
    assert not store.is_locked()
    with store.write_lock():
        other = open_store(tmp_path)
        assert other.is_locked()
        assert other.count("numbers") == 3
        with (
            pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .* since 20"),
            other.write_lock(),
        ):
            pass
        code = """
            import sys; from csp_index.store.connect import open_store
            store = open_store(sys.argv[1])
            print(store.count("numbers"), store.is_locked())
            with store.write_lock(): pass
        """
        foreign = run_python(code, tmp_path)
        assert foreign.stdout == "3 True\n"
        assert f"process {os.getpid()}" in foreign.stderr
        assert json.loads((tmp_path / ".writer.json").read_text())["pid"] == os.getpid()
    assert not store.is_locked()
    assert not (tmp_path / ".writer.json").exists()
    with other.write_lock():
        pass


def test_the_lock_is_free_after_an_error_and_after_a_kill(tmp_path):
    store = create_store(tmp_path)
    with pytest.raises(ZeroDivisionError), store.write_lock():
        raise ZeroDivisionError
    assert not store.is_locked()
    code = """
        import os, signal, sys; from csp_index.store.connect import open_store
        with open_store(sys.argv[1]).write_lock(): os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path).returncode == -9
    assert (tmp_path / ".writer.json").exists()  # it could not clean up, and nobody minds
    assert not store.is_locked()
    with store.write_lock():
        assert store.is_locked()


def test_reading_leaves_no_file_behind(tmp_path):
    index = open_index(tmp_path / "db")
    paths = write_arrays(tmp_path)
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    (tmp_path / "db" / ".writer.lock").unlink(missing_ok=True)
    before = snapshot(tmp_path / "db")
    reader = open_index(tmp_path / "db")
    reader.status(), reader.activations("m/l/1"), reader.sql("SELECT count(*) FROM images")
    assert snapshot(tmp_path / "db") == before


READ_ONLY = """
    import os, sys
    from csp_index import open_index, CspIndexError
    from csp_index.labelling.candidates import read_text_arrays
    folder, db = sys.argv[1:]
    paths = {name: f"{folder}/{name}.npy" for name in ("activations", "embeddings", "text_embeddings")}
    def told(do):
        try:
            return f"no error: {do()}"
        except CspIndexError as exc:
            return str(exc)
    import csp_index.indexing.import_arrays
    index = open_index(db)
    texts = read_text_arrays(paths["text_embeddings"], f"{folder}/texts.txt")
    index.label("m/l/0", vocabulary=texts, keep=False)  # load every library while its files may be read
    if os.geteuid() == 0:
        os.setgroups([]), os.setgid(65534), os.setuid(65534)
    print(index.status()["images"], index.status()["writing"], len(index.activations("m/l/0")))
    print(told(lambda: index.import_arrays(paths["activations"], "m/other")))
    print(told(lambda: index.label("m/l", vocabulary=texts)))
    new = open_index(folder + "/new")
    print(told(lambda: new.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])))
    print(index.label("m/l/0", vocabulary=texts, keep=False)[0].state)
"""


def test_without_write_permission_reading_works_and_writing_is_refused_in_one_line():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        paths = write_arrays(folder)
        open_index(folder / "db").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
        root = os.geteuid() == 0
        places = [folder, folder / "db", *(p for p in (folder / "db").rglob("*") if p.is_dir())]
        for place in places:
            place.chmod(0o555)
        if not root:
            for file in (folder / "db").rglob("*"):
                if file.is_file():
                    file.chmod(0o444)
        before = snapshot(folder)
        try:
            done = run_python(READ_ONLY, folder, folder / "db")
        finally:
            for place in places:
                place.chmod(0o755)
        assert done.returncode == 0, done.stderr
        read, layer, label, new, unkept = done.stdout.splitlines()
        assert read == "60 False 60"
        assert layer.startswith("no permission to write")
        assert label.startswith("no permission to write")
        assert new.startswith("no permission to create")
        assert unkept == "labelled"
        assert snapshot(folder) == before
        assert not (folder / "new").exists()
