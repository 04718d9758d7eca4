"""An index in an object store: every command against an S3 server on loopback, errors told, few requests."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import fakes
import pyarrow as pa
import pytest
from buckets import ENCODER, NETWORK, ROWS, SECRET, Bucket, contents
from few import few
from moto import settings as moto_settings
from moto.core.responses import ActionAuthenticatorMixin
from other_process import run_python

from csp_index import NetworkSource, open_index
from csp_index.errors import StoreError
from csp_index.proposers.answer_store import JOURNAL
from csp_index.store import schema
from csp_index.store.bucket import BucketLocation
from csp_index.store.connect import check_creatable, create_store, find_store, open_store
from csp_index.store.tables import Store

pytestmark = pytest.mark.s3


# Commands


@pytest.mark.slow
def test_every_command_takes_a_bucket(bucket, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fakes.write_images(tmp_path / "images", 23)
    (tmp_path / "words.txt").write_text("red\ngreen\nblue\nstriped\n")
    neurons = ["--layer", "net/concepts", "--vocabulary", "words.txt", "--templates", "none"]
    said: dict[str, list[Any]] = {}
    for location in (bucket.uri, str(tmp_path / "db")):
        assert run("index", location, "images", "--encoder", ENCODER, *NETWORK, "--shard-size", 10).status == 0
        said[location] = [
            run("label", location, *neurons, "--json").out,
            run("show", location, "net/concepts/1", "--json").out,
            run("search", location, "striped", "--json").out,
            run("sql", location, "SELECT * FROM activations('net/concepts/1') ORDER BY image_id", "--json").out,
            run("sql", location, "SELECT uri, width FROM images WHERE image_id > 20 ORDER BY 1", "--json").out,
            run("export", location, "--format", "csv").out,
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


@pytest.mark.slow
def test_arrays_and_their_labels_equal_those_of_a_directory(bucket, run, tmp_path):
    paths = fakes.write_arrays(tmp_path)
    texts = ["--text-embeddings", paths["text_embeddings"], "--texts", paths["texts"], "--json"]
    found = []
    for location in (bucket.uri + "/", tmp_path / "db"):
        arrays = ["--embeddings", paths["embeddings"], "--activations", paths["activations"], "--layer", "m/l"]
        assert run("import", location, *arrays, "--shard-size", 25).status == 0
        found.append(run("label", location, "--layer", "m/l", *texts).rows)
    assert found[0] == found[1]
    assert len(found[0]) == 8
    assert contents(bucket.uri) == contents(tmp_path / "db")
    index = open_index(bucket.uri)
    assert repr(index) == f"Index({bucket.uri!r}: 60 images, m/l)"
    assert index.activations("m/l/1").tolist() == open_index(tmp_path / "db").activations("m/l/1").tolist()
    assert index.sql("SELECT count(*) AS n FROM images").rows() == [{"n": 60}]


KILLED = """
    import os, signal, sys
    from csp_index import NetworkSource, open_index
    from csp_index.store import schema
    from csp_index.store.tables import Store
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
    assert (status["images"], status["writing"], status["runs"][0]["state"]) == (0, True, "running")
    refused = run(*command)
    assert refused.status == 1
    assert re.search(r"being written by process \d+ on .* since 20.*ends at 20.* unless", refused.err)
    bucket.age()
    status = json.loads(run("status", bucket.uri, "--json").out)
    assert (status["writing"], status["runs"][0]["state"]) == (False, "interrupted")
    assert run(*command).status == 0
    assert run("index", tmp_path / "db", *command[2:]).status == 0
    assert_equal(bucket.uri, tmp_path / "db")


@pytest.mark.slow
def test_an_interrupted_pass_is_resumed_and_equals_an_undisturbed_one(bucket, tmp_path, monkeypatch):
    images = fakes.write_images(tmp_path / "images", 23)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    append, marks = Store.append, []

    def stopping(self: Store, name: str, rows: pa.Table) -> None:
        marks.extend([name] * (name == schema.SHARDS))
        if len(marks) == 2:
            raise KeyboardInterrupt
        append(self, name, rows)

    def index(location: str | Path) -> None:
        open_index(location).add_images(images, encoders=[ENCODER], networks=[network], shard_size=10)

    monkeypatch.setattr(Store, "append", stopping)
    with pytest.raises(KeyboardInterrupt):
        index(bucket.uri)
    assert open_index(bucket.uri).status()["images"] == 10
    monkeypatch.setattr(Store, "append", append)
    index(bucket.uri)
    index(tmp_path / "db")
    assert_equal(bucket.uri, tmp_path / "db")


# Errors


def test_a_missing_index_and_a_foreign_prefix_are_refused_and_left_alone(bucket):
    with pytest.raises(StoreError, match=rf"no index at {bucket.uri}: make one with"):
        open_store(bucket.uri)
    check_creatable(bucket.uri)
    BucketLocation(bucket.uri).write("notes.txt", b"mine")
    before = bucket.snapshot()
    for use in (open_store, create_store, check_creatable):
        with pytest.raises(StoreError, match="is not a csp_index database"):
            use(bucket.uri)
    assert find_store(bucket.uri) is None
    assert bucket.snapshot() == before


@pytest.mark.parametrize("inside", few(["", "/", "/a b/ü"], 1))
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
    assert open_store(bucket.uri).table_names() == ["runs"], "what was not committed is not there"


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
    assert [(method, ".manifest" in asked) for method, asked, _ in bucket.server.requests] == [("HEAD", False)]
    store.upsert("numbers", ["key"], pa.table({"key": pa.array([2]), "text": ["B"]}))
    assert sorted(reader.read("numbers")["text"].to_pylist()) == ["B", "a", "c"]


@pytest.mark.slow
def test_candidates_of_models_are_kept_without_a_journal(bucket, tmp_path):
    images = fakes.write_images(tmp_path / "images", 12)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    index = open_index(bucket.uri)
    index.add_images(images, encoders=[ENCODER], networks=[network])
    (first,) = index.propose("net/concepts", vlm="python:namers:namer")
    (second,) = index.propose("net/concepts", vlm="python:namers:namer")
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
    assert len(manifests) <= 3 * len(set(manifests))
