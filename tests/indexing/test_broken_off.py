"""A pass over images that is killed or fails: whole shards alone are shown, and the next pass goes on from there."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import fakes
import lance
import pytest
from checkout import python_path
from indexed import ENCODER, add, contents
from killing import killed_at

from csp_index import CspIndexError, NetworkSource, open_index
from csp_index.errors import StoreError
from csp_index.store import column_tables, schema
from csp_index.store.tables import Store


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return fakes.write_images(tmp_path / "images", 23)


def run_index(db: Path, images: Path, seconds: float = 0.0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from csp_index.cli import main; main()", "index", str(db), str(images)]
    command += ["--encoder", ENCODER, "--network", "python:fakes:network", "--layers", "conv,concepts", "--name", "net"]
    environment = os.environ | {"PYTHONPATH": python_path(), "FAKE_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
    with open(db.with_suffix(".log"), "a") as log:
        return subprocess.Popen([*command, "--shard-size", "8"], env=environment, stderr=log, stdout=log)


def kill_and_compare(tmp_path: Path, kills: int, images: int) -> None:
    """Kill the command `kills` times while it works, each time going on; the tables must equal an undisturbed run's."""
    source = fakes.write_images(tmp_path / "images", images)
    (source / "c.png").write_bytes(b"broken")
    add(tmp_path / "whole", source, shard_size=8)
    chance = random.Random(0)
    killed = 0
    for _ in range(kills):
        process = run_index(tmp_path / "db", source, 0.05)
        while process.poll() is None and not (tmp_path / "db" / f"{schema.SHARDS}.lance").exists():
            time.sleep(0.01)  # until the first shard the kill would only interrupt imports
        if killed:
            started = time.monotonic()
            while (
                process.poll() is None
                and not (tmp_path / "db" / ".writer.json").exists()
                and time.monotonic() - started < 60
            ):
                time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL if killed % 3 else signal.SIGINT)
        killed += process.wait(60) != 0
    assert killed >= kills // 2
    add(tmp_path / "db", source, shard_size=8)
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")
    states = [row["state"] for row in open_index(tmp_path / "db").status()["runs"]]
    assert states[-1] == "done"
    assert set(states[:-1]) <= {"interrupted", "done"}


def test_trap_1_a_killed_pass_is_resumed_and_never_read_as_zeros(images, tmp_path):
    (images / "c.png").write_bytes(b"broken")
    with killed_at(10**6) as whole:
        add(tmp_path / "whole", images, shard_size=8)
    steps = 10**6 - whole.left
    for step in (steps * 2 // 3, steps // 3):
        with killed_at(step) as kill:
            add(tmp_path / "db", images, shard_size=8)
        assert kill.done
        assert open_index(tmp_path / "db").status()["images"] in (0, 8, 16), "whole shards alone are shown"
    with killed_at(10**6) as rest:
        add(tmp_path / "db", images, shard_size=8)
    assert 10**6 - rest.left < steps, "it goes on where it stopped"
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")
    states = [row["state"] for row in open_index(tmp_path / "db").status()["runs"]]
    assert states == ["interrupted", "interrupted", "done"]


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "pictures"), [(1, 80), (10, 400)])
def test_processes_that_are_killed(tmp_path, kills, pictures):
    kill_and_compare(tmp_path, kills, pictures)


def test_a_writer_that_fails_ends_the_pass_with_its_own_error(images, tmp_path, monkeypatch):
    real, appended = Store.append, []

    def full(store, name, rows):
        appended.append(name)
        if name == column_tables.embeddings_table(ENCODER) and appended.count(name) == 2:
            raise StoreError("no space is left")
        real(store, name, rows)

    monkeypatch.setattr(Store, "append", full)
    with pytest.raises(CspIndexError, match="no space is left"):
        add(tmp_path / "db", images)
    monkeypatch.setattr(Store, "append", real)
    assert open_index(tmp_path / "db").status()["images"] == 10, "the first shard is whole"
    add(tmp_path / "db", images)
    add(tmp_path / "whole", images)
    assert contents(tmp_path / "db") == contents(tmp_path / "whole")


def test_rows_without_a_mark_do_not_exist(images, tmp_path):
    add(tmp_path / "db", images)
    index = open_index(tmp_path / "db")
    before = contents(tmp_path / "db")
    rows = index.store.read(column_tables.embeddings_table(ENCODER), where="shard = 2")
    shifted = rows.set_column(rows.schema.get_field_index("shard"), "shard", [[3] * rows.num_rows])
    table = str(tmp_path / "db" / f"{column_tables.embeddings_table(ENCODER)}.lance")
    lance.write_dataset(shifted.cast(rows.schema), table, mode="append")  # as a kill before the mark leaves it
    labels = index.label("net/concepts", vocabulary=["red", "blue"], templates="none")
    assert labels[9].state == "dead"
    add(tmp_path / "db", images)
    after = contents(tmp_path / "db")
    assert {name: after[name] for name in before} | {"labels": [], "examples": []} == before | {
        "labels": [],
        "examples": [],
    }


def test_a_model_that_fails_leaves_no_trace_of_itself(images, tmp_path, monkeypatch):
    only = NetworkSource("python:fakes:network", ("concepts",), name="net")
    add(tmp_path / "db", images, networks=[only])
    before = contents(tmp_path / "db")
    calls = []

    def fail(self, pixels):
        calls.append(len(pixels))
        if len(calls) > 6:  # the first passes, over pictures of its own, are those of loading
            raise RuntimeError("out of luck")
        return real(self, pixels)

    real = fakes.FakeNetwork.forward
    monkeypatch.setattr(fakes.FakeNetwork, "forward", fail)
    with pytest.raises(CspIndexError, match="out of luck"):
        add(tmp_path / "db", None, networks=[NetworkSource("python:fakes:network", ("conv",), name="other")])
    monkeypatch.setattr(fakes.FakeNetwork, "forward", real)
    index = open_index(tmp_path / "db")
    assert [layer["layer"] for layer in index.status()["layers"]] == ["net/concepts"]
    assert index.add_images(images).added == 0  # with the models of the index: the failed one is not among them
    other = NetworkSource("python:fakes:network", ("conv",), name="other")
    add(tmp_path / "db", None, networks=[other], dtype="float16")  # and may come again, otherwise
    after = contents(tmp_path / "db")
    assert {n: after[n] for n in before if n.startswith("activations")} == {
        n: before[n] for n in before if n.startswith("activations")
    }
