"""Tables that lie elsewhere, links, and names, numbers and JSON that no csp_index wrote are refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakes
import lance
import pytest
from few import few
from hostile_index import overwrite
from indexed import ENCODER, NETWORK, WORDS
from odd_files import ODD, in_time

from csp_index import open_index
from csp_index.errors import CspIndexError, StoreError
from csp_index.proposers.answer_store import JOURNAL
from csp_index.store import column_tables, schema
from csp_index.store.stored_json import parse_json, read_object

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
READING = (
    ["status"],
    ["label", "--layer", "net/concepts"],
    ["show", "net/concepts/0"],
    ["export"],
    ["sql", "SELECT count(*) FROM images"],
    ["search", "red", "--encoder", ENCODER],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 23), encoders=[ENCODER], networks=[NETWORK])
    index.label("net/concepts", vocabulary=WORDS, templates="none", examples=5)
    return folder


@pytest.fixture
def db(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "db", tmp_path / "db"))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield the requests that arrive at what the environment says is the object store."""
    requests: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    visitor, _ = server.accept()
                except OSError:
                    return
                with visitor:
                    requests.append(visitor.recv(1000).decode(errors="replace"))
                    visitor.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.getsockname()[1]}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "mine",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield requests
        server.close()


def put_elsewhere(db: Path, table: str) -> None:
    """Replace a table by a clone whose data lie in a bucket, as a shallow clone of Lance's may."""
    root = db.parent
    source = root / "owner.lance"
    shutil.move(db / f"{table}.lance", source)
    here = Path.cwd()
    os.chdir(root)
    try:
        dataset = lance.dataset("owner.lance")
        dataset.shallow_clone(str(db / f"{table}.lance"), dataset.version)
    finally:
        os.chdir(here)
    for manifest in (db / f"{table}.lance" / "_versions").glob("*.manifest"):
        manifest.write_bytes(manifest.read_bytes().replace(b"owner.lance", b"s3://bkt/aa"))
        digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    version = lance.dataset(db / f"{table}.lance").version
    entry = tables_of(db)[table] | {"version": version, "manifest": digest}
    sign(db, tables_of(db) | {table: entry})


def sign(db: Path, tables: dict[str, Any]) -> None:
    """Make the commit name these tables, with all digests right, as its maker can."""
    head = json.loads((db / "commits" / "HEAD").read_text())
    for which in ("commit", "latest"):
        record = db / "commits" / f"{head[which]:08d}.json"
        fields = json.loads(record.read_text())
        fields["tables"] = tables
        record.write_text(json.dumps(fields))
        head[f"{which}_digest"] = hashlib.sha256(record.read_bytes()).hexdigest()
    (db / "commits" / "HEAD").write_text(json.dumps(head))


def tables_of(db: Path) -> dict[str, Any]:
    """Return the tables of the last commit."""
    head = json.loads((db / "commits" / "HEAD").read_text())
    tables: dict[str, Any] = json.loads((db / "commits" / f"{head['commit']:08d}.json").read_text())["tables"]
    return tables


@pytest.mark.parametrize("table", [schema.IMAGES, schema.RUNS, schema.LABELS, column_tables.embeddings_table(ENCODER)])
def test_no_request_goes_where_a_manifest_says(
    table: str, db: Path, run: Callable[..., Any], bucket: list[str]
) -> None:
    put_elsewhere(db, table)
    assert lance.dataset(db / f"{table}.lance").base_paths()
    refused = 0
    for command in (*READING, ["label", "--layer", "net/concepts", "--recompute"], ["optimize"], ["index"]):
        said = run(command[0], db, *command[1:])
        assert said.status in (0, 1), said.err
        if said.status:
            assert f"table {table} of {db} names data outside the index (s3://bkt/aa)" in said.err
            assert said.err.count("\n") == 1
            refused += 1
    assert refused >= 3
    assert not bucket


def test_a_table_names_no_model_that_writing_would_load(
    db: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lancedb.embeddings import EmbeddingFunctionRegistry

    created: list[str] = []

    class Evil:
        @staticmethod
        def create(**options: Any) -> None:
            created.append(str(options))
            raise RuntimeError("a model of the stranger's choice was loaded")

    monkeypatch.setattr(EmbeddingFunctionRegistry, "get", lambda self, name: Evil)
    table = schema.LABELS
    store = open_index(db).store
    rows = store.read(table)
    named = [{"name": "open-clip", "model": {"name": "hf-hub:e/v"}, "vector_column": "vector", "source_column": "text"}]
    folder = db / f"{table}.lance"
    shutil.rmtree(folder)
    said = (rows.schema.metadata or {}) | {b"embedding_functions": json.dumps(named).encode()}
    dataset = lance.write_dataset(rows.replace_schema_metadata(said), folder)
    (manifest,) = (folder / "_versions").glob("*.manifest")
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    sign(db, tables_of(db) | {table: tables_of(db)[table] | {"version": dataset.version, "manifest": digest}})
    got = run("label", db, "--layer", "net/concepts", "--recompute")
    assert not created
    assert (got.status, got.err.count("\n")) == (1, 1)
    assert "names embedding functions of LanceDB, which would load models" in got.err


@pytest.mark.parametrize("name", ["../mine/labels", "labels.lance/../../mine/labels", 'x" AS SELECT 1; --', ""])
def test_a_commit_names_no_table_elsewhere(name: str, db: Path, run: Callable[..., Any]) -> None:
    tables = tables_of(db)
    sign(db, {**tables, name: tables[schema.LABELS]})
    for command in READING:
        said = run(command[0], db, *command[1:])
        assert (said.status, said.err.count("\n")) == (1, 1)
        assert "in a commit, expected letters, digits and _" in said.err


@pytest.mark.parametrize("folder", ["commits", "commits/files", "commits/tags"])
def test_commits_are_not_followed_to_another_place(
    folder: str, db: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    if (db / folder).exists():
        shutil.copytree(db / folder, tmp_path / "mine", dirs_exist_ok=True)
        shutil.rmtree(db / folder)
    os.symlink(tmp_path / "mine", db / folder)
    before = sorted((tmp_path / "mine").rglob("*"))
    for command in (["status"], ["label", "--layer", "net/concepts", "--recompute"], ["optimize"]):
        said = run(command[0], db, *command[1:])
        assert (said.status, said.err.count("\n")) == (1, 1)
        assert "is a link, which is never followed" in said.err
    assert sorted((tmp_path / "mine").rglob("*")) == before


def test_a_record_that_is_a_pipe_or_a_device_is_refused(db: Path, run: Callable[..., Any]) -> None:
    head = json.loads((db / "commits" / "HEAD").read_text())
    record = db / "commits" / f"{head['commit']:08d}.json"
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        record.unlink()
        make(record)
        said = run("status", db)
        assert (said.status, said.err.count("\n")) == (1, 1)
        assert "expected a regular file" in said.err


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ("data", "a pipe"),
        ("data", "a device"),
        ("data", "a link"),
        ("_deletions", "a socket"),
        ("_indices/1", "a pipe"),
    ],
)
def test_a_file_of_a_table_that_is_no_regular_file_is_refused(
    part: str, kind: str, db: Path, run: Callable[..., Any]
) -> None:
    folder = db / f"{schema.IMAGES}.lance" / part
    folder.mkdir(parents=True, exist_ok=True)
    name = next((file.name for file in folder.glob("*") if file.is_file()), "x.lance")
    (folder / name).unlink(missing_ok=True)
    if kind == "a link":
        os.symlink(next((db / f"{schema.LABELS}.lance" / "data").iterdir()), folder / name)
    else:
        ODD[kind](folder / name)
    kind = "a link" if kind == "a device" else kind  # which leads to one
    with in_time():
        for command in (READING[2], READING[4]):  # they read images
            said = run(command[0], db, *command[1:])
            assert (said.status, said.err.count("\n")) == (1, 1), (command, said.out, said.err)
            assert f"images.lance/{part}/{name} of table images in {db} is {kind}, " in said.err
        said = run("verify", db)
    assert said.status == 1 and f"images, {part}/{name}: it is {kind}, expected a regular file" in said.out


@pytest.mark.parametrize("part", ["", "data", "_versions"])
def test_a_table_that_is_a_link_is_refused(part: str, db: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    folder = db / f"{schema.LABELS}.lance" / part
    shutil.move(folder, tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", folder)
    said = run("label", db, "--layer", "net/concepts", "--recompute")
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "is a link, which is never followed" in said.err


@pytest.mark.parametrize(
    ("table", "column", "value", "said"),
    [
        (schema.ENCODERS, "table", "../other.db/embeddings_x", "names the table '../other.db/embeddings_x', expected"),
        (schema.ENCODERS, "table", "x\" AS SELECT 1; SET memory_limit='9TB'; --", "expected 'embeddings_"),
        (schema.LAYERS, "table", "labels", "names the table 'labels', expected 'activations_"),
        (schema.ENCODERS, "width", 2_000_000_000, "has width = 2000000000, expected 1 to 1,048,576"),
        (schema.ENCODERS, "width", None, "has width = None"),
        (schema.LAYERS, "neurons", 2_000_000_000, "has neurons = 2000000000, expected 1 to 67,108,864"),
        (schema.LAYERS, "neurons", -1, "has neurons = -1"),
        (
            schema.ENCODERS,
            "identity",
            DEEP,
            "identity of the table encoders cannot be read as JSON: it is nested",
        ),
        (schema.LAYERS, "identity", DEEP, "identity of the table layers cannot be read as JSON: it is nested"),
        (schema.LAYERS, "identity", "[1]", "it is a list, expected an object"),
        (schema.LAYERS, "identity", "{", "cannot be read as JSON"),
    ],
)
def test_what_no_csp_index_wrote_is_one_line(
    table: str, column: str, value: object, said: str, db: Path, run: Callable[..., Any]
) -> None:
    overwrite(open_index(db).store, table, **{column: value})
    started = time.monotonic()
    for command in READING:
        got = run(command[0], db, *command[1:])
        if got.status == 0 and table == schema.LAYERS and command[0] in ("export", "sql"):  # they read no layer
            continue
        assert (got.status, got.err.count("\n")) == (1, 1), (command, got.err)
        assert said in got.err.replace("\\'", "'")
    assert time.monotonic() - started < 60


def test_a_layer_has_no_more_neurons_than_its_activations(db: Path, run: Callable[..., Any]) -> None:
    overwrite(open_index(db).store, schema.LAYERS, neurons=2**26)
    for command in (["label", "--layer", "net/concepts", "--recompute"], ["show", "net/concepts/0"]):
        said = run(command[0], db, *command[1:])
        assert (said.status, said.err.count("\n")) == (1, 1)
        assert "has 67,108,864 neurons and 1 shards, its activations have 10 rows, expected one per" in said.err
    assert "rows, 67,108,864 are marked" in run("verify", db).out


@pytest.mark.parametrize("text", [DEEP, "[" * 70 + "]" * 70, '"a"', "{", '{"method": "{x} \' OR 1"}'])
def test_settings_of_runs_break_no_command(text: str, db: Path, run: Callable[..., Any]) -> None:
    store = open_index(db).store
    assert run("prefer", db, "csp").status == 0
    overwrite(store, schema.RUNS, settings=text, models=text, versions=text)
    for command in READING:
        got = run(command[0], db, *command[1:])
        assert got.status in (0, 1) and got.err.count("\n") <= 2, (command, got.err)
        if got.status:
            assert "the column settings of the table runs cannot be read as JSON" in got.err


@pytest.mark.parametrize("text", few([DEEP, "[[1]]", "{", '{"label": NaN}'], 1))
def test_metadata_breaks_no_command(text: str, db: Path, run: Callable[..., Any]) -> None:
    overwrite(open_index(db).store, schema.IMAGES, metadata=text)
    for command in (*READING, ["label", "--layer", "net/concepts", "--vocabulary", "metadata:label"]):
        got = run(command[0], db, *command[1:])
        assert got.status in (0, 1) and got.err.count("\n") <= 1, (command, got.err)


def test_the_writers_note_is_never_written_through_a_link(db: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    for link in (os.symlink, os.link):
        mine = tmp_path / f"mine-{link.__name__}"
        mine.write_text("my thesis")
        link(mine, db / ".writer.json")
        assert run("label", db, "--layer", "net/concepts", "--recompute").status == 0
        assert mine.read_text() == "my thesis"
        assert not (db / ".writer.json").exists()


def test_a_lock_that_is_a_link_or_a_pipe_is_refused(db: Path, run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("my thesis")
    for make in (lambda path: os.symlink(tmp_path / "mine", path), os.mkfifo):
        (db / ".writer.lock").unlink(missing_ok=True)
        make(db / ".writer.lock")
        said = run("label", db, "--layer", "net/concepts", "--recompute")
        assert (said.status, said.err.count("\n")) == (1, 1)
        assert "is no regular file, expected the lock of the index: remove it" in said.err
        assert run("status", db).status == 0
    assert (tmp_path / "mine").read_text() == "my thesis"


def test_a_journal_that_is_a_link_or_a_pipe_is_neither_read_nor_written(
    db: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("my thesis")
    for make in (lambda path: os.symlink(tmp_path / "mine", path), os.mkfifo):
        make(db / JOURNAL)
        said = run("candidates", db, "--layer", "net/concepts", "--neurons", "0", "--vlm", "python:namers:namer")
        assert said.status == 0, said.err
        assert not os.path.lexists(db / JOURNAL)
    assert (tmp_path / "mine").read_text() == "my thesis"


def test_arguments_that_are_no_text_are_wrong_usage(db: Path, run: Callable[..., Any]) -> None:
    said = run("label", db, "--layer", "net/\udcff")
    assert said.status == 2
    assert "the argument net/\\udcff is not UTF-8 text" in said.err


def test_json_is_read_within_bounds() -> None:
    assert parse_json("[" * 64 + "]" * 64) is not None
    assert parse_json(json.dumps([{"a": i} for i in range(1000)]))[999] == {"a": 999}
    assert parse_json(json.dumps("[" * 1000)) == "[" * 1000
    for text in ("[" * 66 + "]" * 66, DEEP, "[" * 2_000_000):
        with pytest.raises(ValueError, match="nested too deep"):
            parse_json(text)
    assert read_object(None, "runs", "settings") == read_object("", "runs", "settings") == {}
    with pytest.raises(StoreError, match="the column settings of the table runs"):
        read_object(DEEP, "runs", "settings")
    assert issubclass(StoreError, CspIndexError)
