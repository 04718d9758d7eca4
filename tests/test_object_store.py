"""An index in an object store: every command against an S3 server on loopback, one writer at a time, errors told."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fakes
import pyarrow as pa
import pytest
from moto import settings as moto_settings
from moto.core.responses import ActionAuthenticatorMixin
from moto.s3.models import s3_backends
from moto.server import DomainDispatcherApplication, ThreadedMotoServer

from csp_index import NetworkSource, open_index, schema
from csp_index.errors import SettingError, StoreError
from csp_index.locking import Lease
from csp_index.opening import check_creatable, create_store, find_store, open_store
from csp_index.places import BucketPlace
from csp_index.stage1.answers import JOURNAL
from csp_index.store import Store

pytestmark = pytest.mark.s3

ENCODER = "python:fakes:encoder"
NETWORK = ["--network", "python:fakes:network", "--layers", "concepts", "--name", "net"]
ROWS = pa.table({"key": pa.array([1, 2, 3]), "text": ["a", "b", "c"]})
SECRET = "a-secret-that-must-not-be-told"
LEASE = ".writer.json"
DENIED = b'<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>'


@dataclass
class Server:
    """The S3 server: what it was asked, and whether it refuses."""

    url: str = ""
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path and query, If-None-Match
    refuses: Callable[[str], bool] = lambda method: False
    buckets: int = 0


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made, one_at_a_time = Server(), threading.Lock()
    answer = DomainDispatcherApplication.__call__

    def watched(self: Any, environ: dict[str, Any], start: Any) -> Any:
        method = environ["REQUEST_METHOD"]
        asked = f"{environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}"
        with one_at_a_time:  # conditional writes are atomic in S3, in moto only then
            made.requests.append((method, asked, environ.get("HTTP_IF_NONE_MATCH", "")))
            if made.refuses(method):
                start("403 Forbidden", [("Content-Type", "application/xml")])
                return [DENIED]
            return answer(self, environ, start)

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of every request
    patch = pytest.MonkeyPatch()
    patch.setattr(DomainDispatcherApplication, "__call__", watched)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    made.url = "http://{}:{}".format(*moto.get_host_and_port())
    yield made
    moto.stop()
    patch.undo()


@dataclass
class Bucket:
    """A fresh bucket."""

    server: Server
    name: str

    @property
    def uri(self) -> str:
        return f"s3://{self.name}/deep/db"

    @property
    def objects(self) -> dict[str, Any]:
        """What is in it, as the server holds it."""
        (held,) = [backends["aws"].buckets[self.name] for backends in s3_backends.values()]
        return dict(held.keys.items())

    def snapshot(self) -> dict[str, bytes]:
        return {name: key.value for name, key in self.objects.items()}

    def age(self, seconds: float = 3600) -> None:
        """Let time pass since the lease was renewed."""
        lease = self.objects[f"deep/db/{LEASE}"]
        lease.last_modified -= timedelta(seconds=seconds)

    def lease(self) -> dict[str, Any]:
        found = json.loads(self.objects[f"deep/db/{LEASE}"].value)
        assert isinstance(found, dict)
        return found


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    given = {"ENDPOINT_URL": server.url, "ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": SECRET, "REGION": "us-east-1"}
    given |= {"EC2_METADATA_DISABLED": "true", "CONFIG_FILE": str(tmp_path / "no"), "DEFAULT_REGION": "us-east-1"}
    given |= {"SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    for name, value in given.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    server.buckets += 1
    made = Bucket(server, f"bucket{server.buckets}")
    urlopen(Request(f"{server.url}/{made.name}", method="PUT")).close()
    server.requests.clear()
    yield made
    server.refuses = lambda method: False


def contents(uri: str | Path) -> dict[str, list[Any]]:
    """Every table's rows in a fixed order, without what tells one run from another."""
    store = open_store(uri)
    found = {}
    for name in set(store.table_names()) - {schema.RUNS}:
        rows = store.read(name).to_pylist()
        for row in rows:
            row.pop("run_id", None), row.pop("when", None)
        found[name] = sorted(rows, key=str)
    return found


# Commands


def test_every_command_takes_a_bucket(bucket, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fakes.write_images(tmp_path / "images", 23)
    (tmp_path / "words.txt").write_text("red\ngreen\nblue\nstriped\n")
    neurons = ["--layer", "net/concepts", "--vocabulary", "words.txt", "--templates", "none"]
    said: dict[str, list[Any]] = {}
    for place in (bucket.uri, str(tmp_path / "db")):
        assert run("index", place, "images", "--encoder", ENCODER, *NETWORK, "--shard-size", 10).status == 0
        said[place] = [
            run("label", place, *neurons, "--json").out,
            run("show", place, "net/concepts/1", "--json").out,
            run("search", place, "striped", "--json").out,
            run("sql", place, "SELECT * FROM activations('net/concepts/1') ORDER BY image_id", "--json").out,
            run("sql", place, "SELECT uri, width FROM images WHERE image_id > 20 ORDER BY 1", "--json").out,
            run("export", place, "--format", "csv").out,
        ]
    here, there = ([re.sub(r"\d{8}T\d+-\w+", "RUN", text) for text in texts] for texts in said.values())
    assert here == there
    assert all(here)
    judged = run("evaluate", bucket.uri, "--layer", "net/concepts", "--neurons", "0-1", "--method", "csp", "--json")
    assert judged.status == 0, judged.err
    told = run("status", bucket.uri, "--json")
    status = json.loads(told.out)
    assert (status["index"], status["images"], status["writing"]) == (bucket.uri, 23, False)
    assert [entry["state"] for entry in status["runs"]] == ["done"] * 3
    assert contents(bucket.uri).keys() >= contents(tmp_path / "db").keys()
    assert not any(SECRET.encode() in data for data in bucket.snapshot().values())


def test_arrays_and_their_labels_equal_those_of_a_directory(bucket, run, tmp_path):
    paths = fakes.write_arrays(tmp_path)
    texts = ["--text-embeddings", paths["text_embeddings"], "--texts", paths["texts"], "--json"]
    found = []
    for place in (bucket.uri + "/", tmp_path / "db"):
        arrays = ["--embeddings", paths["embeddings"], "--activations", paths["activations"], "--layer", "m/l"]
        assert run("import", place, *arrays, "--shard-size", 25).status == 0
        found.append(run("label", place, "--layer", "m/l", *texts).rows)
    assert found[0] == found[1]
    assert len(found[0]) == 8
    assert contents(bucket.uri) == contents(tmp_path / "db")
    index = open_index(bucket.uri)
    assert repr(index) == f"Index({bucket.uri!r})"
    assert index.activations("m/l/1").tolist() == open_index(tmp_path / "db").activations("m/l/1").tolist()
    assert index.sql("SELECT count(*) AS n FROM images").rows() == [{"n": 60}]


KILLED = """
    import os, signal, sys
    from csp_index import NetworkSource, open_index, schema
    from csp_index.store import Store
    append, marks = Store.append, []
    def stopping(self, name, rows):
        marks.extend([name] * (name == schema.SHARDS))
        if len(marks) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, name, rows)
    Store.append = stopping
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    db, images = sys.argv[1:]
    open_index(db).add_images(images, encoders=["python:fakes:encoder"], networks=[network], shard_size=10)
"""


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in another process."""
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def assert_equal(uri: str, directory: Path) -> None:
    here, there = contents(uri), contents(directory)
    for row in there["neurons"]:
        row["std"] = pytest.approx(row["std"], rel=1e-12)  # a resumed pass sums in another order
    assert here.keys() == there.keys()
    for name in here:
        assert here[name] == there[name], name


@pytest.mark.slow
def test_a_killed_pass_blocks_until_its_lease_ends_and_is_then_resumed(bucket, run, tmp_path):
    images = fakes.write_images(tmp_path / "images", 23)
    killed = run_python(KILLED, bucket.uri, images)
    assert killed.returncode == -9, killed.stderr
    command = ["index", bucket.uri, images, "--encoder", ENCODER, *NETWORK, "--shard-size", 10]
    status = json.loads(run("status", bucket.uri, "--json").out)
    assert (status["images"], status["writing"], status["runs"][0]["state"]) == (10, True, "running")
    refused = run(*command)
    assert refused.status == 1
    assert re.search(r"being written by process \d+ on .* since 20.*ends at 20.* unless", refused.err)
    bucket.age()
    status = json.loads(run("status", bucket.uri, "--json").out)
    assert (status["writing"], status["runs"][0]["state"]) == (False, "interrupted")
    assert run(*command).status == 0
    assert run("index", tmp_path / "db", *command[2:]).status == 0
    assert_equal(bucket.uri, tmp_path / "db")


def test_an_interrupted_pass_is_resumed_and_equals_an_undisturbed_one(bucket, tmp_path, monkeypatch):
    images = fakes.write_images(tmp_path / "images", 23)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    append, marks = Store.append, []

    def stopping(self: Store, name: str, rows: pa.Table) -> None:
        marks.extend([name] * (name == schema.SHARDS))
        if len(marks) == 2:
            raise KeyboardInterrupt
        append(self, name, rows)

    def index(place: str | Path) -> None:
        open_index(place).add_images(images, encoders=[ENCODER], networks=[network], shard_size=10)

    monkeypatch.setattr(Store, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        index(bucket.uri)
    assert open_index(bucket.uri).status()["images"] == 10
    monkeypatch.setattr(Store, "append", append)
    index(bucket.uri)
    index(tmp_path / "db")
    assert_equal(bucket.uri, tmp_path / "db")


# One writer


def test_a_second_writer_is_told_who_writes_and_readers_do_not_wait(bucket):
    first, second = create_store(bucket.uri), open_store(bucket.uri)
    assert not second.is_locked()
    with first.write_lock():
        first.append("numbers", ROWS)
        assert second.is_locked()
        assert second.count("numbers") == 3
        with (
            pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .* since 20.*ends at 20"),
            second.write_lock(),
        ):
            pass
        assert first.is_locked()
    assert not second.is_locked()
    with second.write_lock():
        second.append("numbers", ROWS)
    with pytest.raises(ZeroDivisionError), first.write_lock():
        raise ZeroDivisionError
    assert not first.is_locked()
    assert first.count("numbers") == 6
    assert not any(".clock" in name for name in bucket.objects)


def test_a_killed_writer_blocks_others_until_its_lease_ends(bucket):
    store = create_store(bucket.uri)
    code = """
        import os, signal, sys; from csp_index.opening import open_store
        with open_store(sys.argv[1]).write_lock(): os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, bucket.uri).returncode == -9
    assert store.is_locked()
    with pytest.raises(StoreError, match=r"being written by process \d+ on"), store.write_lock():
        pass
    bucket.age(50)
    with pytest.raises(StoreError, match=r"being written by process \d+ on"), store.write_lock():
        pass
    bucket.age(20)
    assert not store.is_locked()
    with store.write_lock():
        store.append("numbers", ROWS)


SLEEPER = """
    import sys, pyarrow as pa
    from csp_index.opening import open_store
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
    assert store.read("numbers")["key"].to_pylist() == [7, 8]
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
                BucketPlace(bucket.uri).remove(LEASE)
            before = bucket.snapshot()
            for write in (
                lambda: slow.append("numbers", ROWS),
                lambda: slow.upsert("numbers", ["key"], ROWS),
                lambda: slow.delete("numbers", "key = 1"),
                lambda: slow.create("more", ROWS.schema),
                lambda: slow.append_fragments("numbers", fragments),
                lambda: slow.drop("numbers"),
            ):
                with pytest.raises(StoreError, match=r"hold on .* was lost.*stopped before writing"):
                    write()
            holding.close()  # gives up nothing, for it has nothing
            assert bucket.snapshot() == before
            assert slow.count("numbers") == (9 if taken else 6)
            if taken:
                quick.append("numbers", ROWS)  # and is not disturbed
        assert not quick.is_locked()


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

    class Watched(BucketPlace):
        def write(self, name: str, data: bytes, over: Any = None) -> Any | None:
            if json.loads(data).get("renewals", 0) >= 4:
                enough.set()
            return super().write(name, data, over)

    with Lease(Watched(bucket.uri), 10, 0.05).held():
        assert enough.wait(30)
    assert bucket.lease()["free"]
    with pytest.raises(SettingError, match=r"lease_renewal is 6: expected at most half of lease_seconds .10."):
        Lease(BucketPlace(bucket.uri), 10, 6)


def test_who_took_a_lease_for_ended_does_not_win_over_its_renewal(bucket):
    create_store(bucket.uri)
    place = BucketPlace(bucket.uri)
    lease = Lease(place, 100, 50)
    with lease.held():
        seen = place.read(LEASE)
        lease.check()
        assert place.write(LEASE, b"{}", seen.version) is None
        lease.check()


def test_a_renewal_whose_answer_got_lost_is_not_a_lost_lease(bucket, monkeypatch):
    create_store(bucket.uri)
    place = BucketPlace(bucket.uri)
    write = BucketPlace.write
    deaf = iter([True, False, True, False])  # both the taking and the renewal arrive twice

    def unheard(self: BucketPlace, name: str, data: bytes, over: Any = None) -> Any | None:
        version = write(self, name, data, over)
        return None if next(deaf, False) else version

    monkeypatch.setattr(BucketPlace, "write", unheard)
    lease = Lease(place, 100, 50)
    with lease.held():
        lease.check()
        lease.check()
        lease.check()


@pytest.mark.parametrize("state", ["none", "free", "ended"])
def test_of_many_takers_one_wins(bucket, state):
    create_store(bucket.uri)
    if state != "none":
        with Lease(BucketPlace(bucket.uri), 100, 50).held():
            held = bucket.lease()
        if state == "ended":
            bucket.objects[f"deep/db/{LEASE}"].value = json.dumps(held).encode()
            bucket.age()
    together, tried = threading.Barrier(6), threading.Barrier(6)
    won: list[int] = []
    told: list[str] = []

    def take(number: int) -> None:
        place = BucketPlace(bucket.uri)
        together.wait(30)
        try:
            with Lease(place, 100, 50).held():
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
    place = BucketPlace(bucket.uri)
    place.write(LEASE, b"?")
    assert store.is_locked()
    with pytest.raises(StoreError, match="being written by another process"), store.write_lock():
        pass
    bucket.age()
    with store.write_lock():
        store.append("numbers", ROWS)


def test_lance_commits_by_conditional_writes_so_that_no_commit_is_lost(bucket):
    """Even without the lock: two stores that append at the same time both get their rows in."""
    stores = [create_store(bucket.uri), open_store(bucket.uri)]
    stores[0].append("numbers", ROWS)
    bucket.server.requests.clear()

    def append(store: Any) -> None:
        for _ in range(4):
            store.append("numbers", ROWS)

    threads = [threading.Thread(target=append, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert open_store(bucket.uri).count("numbers") == 27
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
    together = threading.Barrier(3)

    def create() -> None:
        together.wait(30)
        made.append(create_store(bucket.uri))

    threads = [threading.Thread(target=create) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [store.table_names() for store in made] == [["runs"]] * 3


# Errors


def test_a_missing_index_and_a_foreign_prefix_are_refused_and_left_alone(bucket):
    with pytest.raises(StoreError, match=rf"no index at {bucket.uri}: make one with"):
        open_store(bucket.uri)
    check_creatable(bucket.uri)
    BucketPlace(bucket.uri).write("notes.txt", b"mine")
    before = bucket.snapshot()
    for use in (open_store, create_store, check_creatable):
        with pytest.raises(StoreError, match="is not a csp_index database"):
            use(bucket.uri)
    assert find_store(bucket.uri) is None
    assert bucket.snapshot() == before


@pytest.mark.parametrize("inside", ["", "/", "/a b/ü"])
def test_the_root_of_a_bucket_and_odd_names_hold_an_index(bucket, inside):
    uri = f"s3://{bucket.name}{inside}"
    create_store(uri).append("numbers", ROWS)
    store = open_store(uri)
    with store.write_lock():
        store.append("numbers", ROWS)
    assert open_store(uri).read("numbers").num_rows == 6
    assert store.table_names() == ["numbers", "runs"]


def break_bucket(bucket: Bucket, how: str, patch: pytest.MonkeyPatch) -> str:
    """Make the bucket unusable; return its address."""
    if how == "unreachable":
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    if how == "no keys":
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.delenv("AWS_SECRET_ACCESS_KEY")
    if how == "wrong key":
        patch.setattr(moto_settings, "INITIAL_NO_AUTH_ACTION_COUNT", 0.0)
        patch.setattr(ActionAuthenticatorMixin, "request_count", 0)
    if how == "no right to write":
        bucket.server.refuses = lambda method: method in ("PUT", "POST", "DELETE")
    if how == "no right at all":
        bucket.server.refuses = lambda method: True
    if how == "no obstore":
        patch.setitem(sys.modules, "obstore.store", None)
    return "s3://no-such-bucket/db" if how == "missing" else bucket.uri


BROKEN = {
    "missing": "cannot be read: the bucket does not exist: make it first",
    "unreachable": "cannot be read: the server does not answer: check AWS_ENDPOINT_URL",
    "no keys": "no keys for s3://.* set AWS_ACCESS_KEY_ID",
    "wrong key": "cannot be read: no permission .InvalidAccessKeyId.: check the keys",
    "no right at all": "cannot be read: no permission .AccessDenied.",
    "no obstore": r"needs obstore: pip install 'csp_index\[storage\]'",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_bucket_that_cannot_be_used_is_one_line(bucket, run, tmp_path, monkeypatch, how):
    paths = fakes.write_arrays(tmp_path)
    arrays = ["--embeddings", paths["embeddings"], "--activations", paths["activations"], "--layer", "m/l"]
    uri = break_bucket(bucket, how, monkeypatch)
    for command in (
        ["status", uri],
        ["import", uri, *arrays],
        ["label", uri, "--layer", "m/l"],
        ["sql", uri, "SELECT 1"],
    ):
        said = run(*command)
        assert said.status == 1
        assert said.err.count("\n") == 1
        assert re.search(BROKEN[how], said.err), said.err
        assert SECRET not in said.err
        assert len(said.err) < 300
    assert bucket.snapshot() == {}


def test_a_bucket_that_may_only_be_read_is_read_and_not_written(bucket, run, tmp_path, monkeypatch):
    paths = fakes.write_arrays(tmp_path)
    arrays = ["--embeddings", paths["embeddings"], "--activations", paths["activations"], "--layer"]
    texts = ["--text-embeddings", paths["text_embeddings"], "--texts", paths["texts"]]
    assert run("import", bucket.uri, *arrays, "m/l").status == 0
    before = bucket.snapshot()
    break_bucket(bucket, "no right to write", monkeypatch)
    assert json.loads(run("status", bucket.uri, "--json").out)["images"] == 60
    assert run("sql", bucket.uri, "SELECT count(*) FROM neurons").status == 0
    for command in (
        ["import", bucket.uri, *arrays, "m/other"],
        ["label", bucket.uri, "--layer", "m/l", *texts],
        ["import", f"s3://{bucket.name}/new", *arrays, "m/l"],
    ):
        said = run(*command)
        assert said.status == 1
        assert re.fullmatch(r"Error: .*cannot be written: no permission .AccessDenied.: check the keys.*\n", said.err)
    assert bucket.snapshot() == before


def test_rights_lost_on_the_way_leave_no_half_shard(bucket, tmp_path):
    store = create_store(bucket.uri)
    with pytest.raises(StoreError, match=r"no permission .AccessDenied."), store.write_lock():
        store.append("numbers", ROWS)
        bucket.server.refuses = lambda method: method == "PUT"
        store.append("numbers", ROWS)
    bucket.server.refuses = lambda method: False
    assert open_store(bucket.uri).count("numbers") == 3


def test_profiles_give_the_keys_too(bucket, tmp_path, monkeypatch):
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.delenv(f"AWS_{name}")
    file = tmp_path / "credentials"
    file.write_text(f"[mine]\naws_access_key_id = me\naws_secret_access_key = {SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    with create_store(bucket.uri).write_lock():
        pass
    assert open_store(bucket.uri).table_names() == ["runs"]


# Requests


def test_a_table_that_did_not_change_is_read_once(bucket):
    store = create_store(bucket.uri)
    store.append("numbers", ROWS)
    reader = open_store(bucket.uri)
    assert reader.read("numbers").equals(ROWS)
    bucket.server.requests.clear()
    assert reader.read("numbers").equals(ROWS)
    assert [(method, ".manifest" in asked) for method, asked, _ in bucket.server.requests] == [("GET", False)]
    store.upsert("numbers", ["key"], pa.table({"key": pa.array([2]), "text": ["B"]}))
    assert sorted(reader.read("numbers")["text"].to_pylist()) == ["B", "a", "c"]


def test_candidates_of_models_are_kept_without_a_journal(bucket, tmp_path):
    images = fakes.write_images(tmp_path / "images", 12)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index = open_index(bucket.uri)
    index.add_images(images, encoders=[ENCODER], networks=[network])
    (first,) = index.propose("net/concepts", vlm="python:test_proposing:namer")
    (second,) = index.propose("net/concepts", vlm="python:test_proposing:namer")
    assert first.answered == second.known > 0 and second.asked == 0
    assert index.sql("SELECT count(*) AS n FROM candidates").rows() == [{"n": 2 * first.answered}]
    assert not any(JOURNAL in name for name in bucket.snapshot())


def test_status_asks_few_questions(bucket, run, tmp_path):
    paths = fakes.write_arrays(tmp_path)
    open_index(bucket.uri).import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    bucket.server.requests.clear()
    assert run("status", bucket.uri).status == 0
    asked = bucket.server.requests
    assert {method for method, _, _ in asked} <= {"GET", "HEAD"}
    assert len(asked) < 60
    manifests = [path for _, path, _ in asked if ".manifest" in path]
    assert len(manifests) <= 2 * len(set(manifests))
