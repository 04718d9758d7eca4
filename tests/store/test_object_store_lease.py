"""One writer at a time in an object store: the lease, and commits by conditional writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

import lance
import pyarrow as pa
import pytest
from buckets import LEASE, ROWS
from other_process import run_python

from csp_index.errors import LockedError, SettingError, StoreError
from csp_index.store.bucket import BucketLocation
from csp_index.store.connect import check_creatable, claimed, create_store, open_store
from csp_index.store.locks import Lease

pytestmark = pytest.mark.s3
TABLE = "{}/numbers.lance"


def test_a_second_writer_is_told_who_writes_and_readers_do_not_wait(bucket):
    first, second = create_store(bucket.uri), open_store(bucket.uri)
    assert not second.is_locked()
    with first.write_lock():
        first.append("numbers", ROWS)
        assert second.is_locked()
        assert second.count("numbers") == 0, "nothing is seen before it is committed"
        first.commit()
        assert second.count("numbers") == 3
        with (
            pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .* since 20.*ends at 20"),
            second.write_lock(),
        ):
            pass
        assert first.is_locked()
        with pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .* since 20.*ends at 20"):
            check_creatable(bucket.uri)
    assert not second.is_locked()
    check_creatable(bucket.uri)
    with second.write_lock():
        second.append("numbers", ROWS)
    with pytest.raises(ZeroDivisionError), first.write_lock():
        raise ZeroDivisionError
    assert not first.is_locked()
    assert first.count("numbers") == 6
    assert not any(".clock" in name for name in bucket.objects)


@pytest.mark.slow
def test_a_killed_writer_blocks_others_until_its_lease_ends(bucket, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_LEASE_SECONDS", "3600")  # a busy machine may take minutes by itself
    store = create_store(bucket.uri)
    code = """
        import os, signal, sys; from csp_index.store.connect import open_store
        with open_store(sys.argv[1]).write_lock(): os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, bucket.uri).returncode == -9
    assert store.is_locked()
    with pytest.raises(StoreError, match=r"being written by process \d+ on"), store.write_lock():
        pass
    bucket.age(3000)
    with pytest.raises(StoreError, match=r"being written by process \d+ on"), store.write_lock():
        pass
    bucket.age(700)
    assert not store.is_locked()
    with store.write_lock():
        store.append("numbers", ROWS)


SLEEPER = """
    import sys, pyarrow as pa
    from csp_index.store.connect import open_store
    store, rows = open_store(sys.argv[1]), pa.table({"key": pa.array([7])})
    with store.write_lock():
        store.append("numbers", rows)
        print("holds", flush=True)
        input()
        store.append("numbers", rows)
"""


@pytest.mark.slow
def test_a_process_that_was_stopped_past_its_lease_writes_no_more(bucket, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_LEASE_SECONDS", "2")
    monkeypatch.setenv("CSP_INDEX_LEASE_RENEWAL", "1")
    store = create_store(bucket.uri)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SLEEPER), bucket.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as sleeper:
        assert sleeper.stdout.readline() == "holds\n"
        time.sleep(4)  # awake, it renews
        with pytest.raises(StoreError, match=f"being written by process {sleeper.pid}"), store.write_lock():
            pass
        sleeper.send_signal(signal.SIGSTOP)
        for _ in range(30):
            time.sleep(1)
            with suppress(StoreError), store.write_lock():
                store.append("numbers", pa.table({"key": pa.array([8])}))
                break
        sleeper.send_signal(signal.SIGCONT)
        _, told = sleeper.communicate("\n", timeout=60)
    assert sleeper.returncode == 1
    assert "was lost" in told.splitlines()[-1]
    assert store.read("numbers")["key"].to_pylist() == [8]  # what the other process had not committed is undone
    assert not store.is_locked()


@pytest.mark.parametrize("taken", [True, False])
def test_a_writer_that_lost_its_lease_stops_before_it_writes(bucket, taken):
    """It slept past the end of its lease; another writer took over, or somebody deleted the lease."""
    slow, quick = create_store(bucket.uri), open_store(bucket.uri)
    slow.append("numbers", ROWS)
    fragments = slow.write_fragments("numbers", ROWS)
    with ExitStack() as holding:
        holding.enter_context(slow.write_lock())
        slow.append("numbers", ROWS)
        with ExitStack() as other:
            if taken:
                bucket.age()
                other.enter_context(quick.write_lock())
                quick.append("numbers", ROWS)
            else:
                BucketLocation(bucket.uri).remove(LEASE)
            before = bucket.snapshot()
            for write in (
                lambda: slow.append("numbers", ROWS),
                lambda: slow.upsert("numbers", ["key"], ROWS),
                lambda: slow.delete("numbers", "key = 1"),
                lambda: slow.create("more", ROWS.schema),
                lambda: slow.append_fragments("numbers", fragments),
                lambda: slow.replace("numbers", ROWS),
            ):
                with pytest.raises(StoreError, match=r"hold on .* was lost.*stopped before writing"):
                    write()
            with pytest.raises(StoreError, match=r"hold on .* was lost"):
                holding.close()  # commits nothing and gives up nothing, for it has nothing
            assert bucket.snapshot() == before
            if taken:
                quick.append("numbers", ROWS)  # and is not disturbed
        assert not quick.is_locked()
        assert open_store(bucket.uri).count("numbers") == (9 if taken else 3)


def test_a_writer_whose_lease_ended_goes_on_if_nobody_took_it(bucket):
    store = create_store(bucket.uri)
    with store.write_lock():
        bucket.age()
        assert not store.is_locked()
        store.append("numbers", ROWS)
        assert store.is_locked()
    assert store.count("numbers") == 3


def test_a_lease_renews_itself(bucket):
    create_store(bucket.uri)
    enough = threading.Event()

    class Watched(BucketLocation):
        def write(self, name: str, data: bytes, over: Any = None) -> Any | None:
            if json.loads(data).get("renewals", 0) >= 4:
                enough.set()
            return super().write(name, data, over)

    with Lease(Watched(bucket.uri), 10, 0.05).hold():
        assert enough.wait(30)
    assert bucket.lease()["free"]
    with pytest.raises(SettingError, match=r"lease_renewal is 6: expected at most half of lease_seconds .10."):
        Lease(BucketLocation(bucket.uri), 10, 6)


def test_who_took_a_lease_for_ended_does_not_win_over_its_renewal(bucket):
    create_store(bucket.uri)
    location = BucketLocation(bucket.uri)
    lease = Lease(location, 100, 50)
    with lease.hold():
        seen = location.read(LEASE)
        lease.check()
        assert location.write(LEASE, b"{}", seen.version) is None
        lease.check()


def test_a_renewal_whose_answer_got_lost_is_not_a_lost_lease(bucket, monkeypatch):
    create_store(bucket.uri)
    location = BucketLocation(bucket.uri)
    write = BucketLocation.write
    deaf = iter([True, False, True, False])  # both the taking and the renewal arrive twice

    def unheard(self: BucketLocation, name: str, data: bytes, over: Any = None) -> Any | None:
        version = write(self, name, data, over)
        return None if next(deaf, False) else version

    monkeypatch.setattr(BucketLocation, "write", unheard)
    lease = Lease(location, 100, 50)
    with lease.hold():
        lease.check()
        lease.check()
        lease.check()


@pytest.mark.parametrize("state", ["none", "free", "ended"])
def test_of_many_takers_one_wins(bucket, state):
    create_store(bucket.uri)
    if state != "none":
        with Lease(BucketLocation(bucket.uri), 100, 50).hold():
            held = bucket.lease()
        if state == "ended":
            bucket.objects[f"deep/db/{LEASE}"].value = json.dumps(held).encode()
            bucket.age()
    together, tried = threading.Barrier(6), threading.Barrier(6)
    won: list[int] = []
    told: list[str] = []

    def take(number: int) -> None:
        location = BucketLocation(bucket.uri)
        together.wait(30)
        try:
            with Lease(location, 100, 50).hold():
                won.append(number)
                tried.wait(30)
        except StoreError as exc:
            told.append(str(exc))
            tried.wait(30)

    threads = [threading.Thread(target=take, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(told) == 5
    assert all("is being written by process" in message for message in told)


def test_a_lease_nobody_understands_holds_until_it_is_old(bucket):
    store = create_store(bucket.uri)
    location = BucketLocation(bucket.uri)
    location.remove(LEASE)
    location.write(LEASE, b"?")
    assert store.is_locked()
    with pytest.raises(StoreError, match="being written by another process"), store.write_lock():
        pass
    bucket.age()
    with store.write_lock():
        store.append("numbers", ROWS)


def test_lance_commits_by_conditional_writes_so_that_no_commit_is_lost(bucket):
    """Even without the lock: two programs that append at the same time both get their rows in."""
    lance.write_dataset(ROWS, TABLE.format(bucket.uri), storage_options={"allow_http": "true"})
    bucket.server.requests.clear()

    def append() -> None:
        for _ in range(4):
            options = {"allow_http": "true"}
            lance.write_dataset(ROWS, TABLE.format(bucket.uri), mode="append", storage_options=options)

    threads = [threading.Thread(target=append) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lance.dataset(TABLE.format(bucket.uri), storage_options={"allow_http": "true"}).count_rows() == 27
    commits = [wanted for method, asked, wanted in bucket.server.requests if method == "PUT" and ".manifest" in asked]
    assert len(commits) >= 8
    assert set(commits) == {"*"}


def test_fragments_of_several_writers_are_appended_in_order(bucket):
    store = create_store(bucket.uri)
    store.create("numbers", ROWS.schema)
    parts = [open_store(bucket.uri).write_fragments("numbers", ROWS.slice(row, 1)) for row in range(3)]
    assert store.count("numbers") == 0
    with store.write_lock():
        store.append_fragments("numbers", [fragment for part in parts[::-1] for fragment in part])
    assert open_store(bucket.uri).read("numbers")["key"].to_pylist() == [3, 2, 1]


def test_two_that_create_an_index_at_once_make_one(bucket):
    made: list[Any] = []
    refused: list[str] = []
    together = threading.Barrier(3)

    def create() -> None:
        together.wait(30)
        try:
            made.append(create_store(bucket.uri))
        except StoreError as exc:
            refused.append(str(exc))

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made and len(made) + len(refused) == 3
    assert [store.table_names() for store in made] == [["runs"]] * len(made)
    assert all("is being written by" in message or "is being taken by" in message for message in refused), refused
    assert open_store(bucket.uri).log.latest().number == 1


def test_a_place_that_is_claimed_while_models_load_is_refused_to_others_and_left_empty(bucket):
    with claimed(bucket.uri) as store:
        assert store is None
        with pytest.raises(LockedError, match="is being written by process"):
            check_creatable(bucket.uri)
        with pytest.raises(StoreError, match="another process is making it"):
            open_store(bucket.uri)
    assert not BucketLocation(bucket.uri).exists()
    create_store(bucket.uri)
    with claimed(bucket.uri) as store:
        assert store is not None
        check_creatable(bucket.uri)  # an index that is there is not held
