"""The command line: help with examples, each command on a small index, one line for each bad input, exit status."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import fakes
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from csp_index import __version__, open_index
from csp_index import cli as commands
from csp_index.cli import cli, main

ENCODER = "python:fakes:encoder"
NETWORK = ["--network", "python:fakes:network", "--layers", "conv,concepts", "--name", "net"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, an index of them with labels (`db`), and one of arrays (`arrays`); nobody writes to it."""
    folder = tmp_path_factory.mktemp("cli")
    fakes.write_images(folder / "images", 23)
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    (folder / "words.txt").write_text("red\ngreen\nblue\nstriped\n")
    patch = pytest.MonkeyPatch()
    for arguments in (
        ["index", "db", "images", "--encoder", ENCODER, *NETWORK, "--shard-size", "10"],
        ["label", "db", "--layer", "net/concepts", "--vocabulary", "words.txt", "--templates", "none"],
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["csp-index", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    patch.undo()
    paths = fakes.write_arrays(folder / "made")
    open_index(folder / "arrays").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return folder


def every_command() -> list[str]:
    return sorted(cli.commands)


def test_the_commands_are_those_of_the_design():
    wanted = {"demo", "index", "import", "layers", "label", "show", "search", "sql", "export", "status"}
    assert wanted <= set(every_command())
    assert commands.__doc__


@pytest.mark.parametrize("name", every_command())
def test_every_command_has_help_with_an_example(name, run):
    said = run(name, "--help")
    assert said.status == 0
    assert f"\n  csp-index {name}" in said.out
    assert said.err == ""
    short = run(name, "-h")
    assert short.out == said.out


@pytest.mark.parametrize("name", every_command())
def test_every_option_says_what_it_means(name):
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.mark.parametrize("name", every_command())
def test_every_command_speaks_json(name):
    assert any("--json" in parameter.opts for parameter in cli.commands[name].params)


def test_version_and_help_do_not_wait_for_torch():
    code = "import sys; from csp_index.cli import cli; cli(['--version'], standalone_mode=False); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["csp-index,", "version", __version__, "False"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command"),
        (["label", "db"], "Missing option '--layer'"),
        (["label"], "Missing argument 'DB'"),
        (["label", "db", "--layer", "m/l", "--gamma", "much"], "'much' is not a valid float"),
        (["label", "db", "--layer", "m/l", "--top", "0"], "range"),
        (["label", "db", "--layer", "m/l", "--contrast", "nearest+far"], "several joined by +"),
        (["label", "db", "--layer", "m/l", "--texts", "t.txt"], "go together"),
        (
            ["label", "db", "--layer", "m/l", "--texts", "t", "--text-embeddings", "e", "--vocabulary", "v"],
            "one of them",
        ),
        (["search", "db"], "one of them"),
        (["search", "db", "red", "--image", "x.png"], "one of them"),
        (["sql", "db", "SELECT 1", "--format", "xml"], "'xml' is not one of"),
        (["index", "db", "images", "--network", "python:fakes:network"], "expected one --layers for each --network"),
        (["index", "db", "images", "--name", "net"], "--name is given 1 times for 0 --network"),
        (["index", "db", "images", "--shard-size", "0"], "range"),
        (["status", "db", "more"], "unexpected extra argument"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_wrong_usage_exits_with_2(run, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    said = run(*arguments)
    assert said.status == 2
    assert told in said.err
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_index_tells_a_summary_and_goes_on(run, tmp_path):
    source = fakes.write_images(tmp_path / "images", 9)
    said = run("index", tmp_path / "db", source, "--encoder", ENCODER, *NETWORK)
    assert said.status == 0, said.err
    assert said.out.startswith("9 images added; the index holds 9 (")
    assert "layer net/concepts is ready: csp-index label DB --layer net/concepts" in said.out
    fakes.write_images(source, 2, start=9)
    (source / "broken.png").write_bytes(b"")
    again = run("index", tmp_path / "db", source, "--json")
    (summary,) = again.rows
    assert (summary["images"], summary["added"], summary["failed"]) == (11, 2, 1)
    assert summary["layers"] == ["net/conv", "net/concepts"]
    assert summary["encoders"] == [ENCODER]


def test_import_then_label_with_the_arrays_of_the_design(run, tmp_path):
    paths = fakes.write_arrays(tmp_path)
    given = ["--embeddings", paths["embeddings"], "--activations", paths["activations"], "--layer", "m/l"]
    said = run("import", tmp_path / "db", *given)
    assert said.status == 0, said.err
    assert said.out.startswith("60 images added; the index holds 60")
    made = ["--text-embeddings", paths["text_embeddings"], "--texts", paths["texts"], "--no-renormalise-text"]
    asked = [
        "label",
        tmp_path / "db",
        "--layer",
        "m/l",
        *made,
        "--gamma",
        "1",
        "--examples",
        "30",
        "--top",
        "5",
        "--json",
    ]
    found = run(*asked, "--neurons", "all", "--method", "csp")
    assert found.status == 0, found.err
    assert found.err == ""
    assert [row["neuron"] for row in found.rows] == [f"m/l/{n}" for n in range(8)]
    activations = np.load(paths["activations"])
    for n, row in enumerate(found.rows):
        added = {"state", "note", "confidence", "uncertain", "rivals"}
        assert set(row) - added == {"neuron", "method", "labels", "activating", "contrastive"}
        assert row["method"] == "csp"
        if n == 3:
            assert (row["labels"], row["activating"], row["contrastive"]) == ([], [], [])
            assert row["state"] == "dead"
            assert row["note"]
            continue
        assert len(row["labels"]) == 5
        assert all(set(score) == {"text", "score", "low", "high"} for score in row["labels"])
        assert all(type(score["score"]) is float for score in row["labels"])
        assert 0 <= row["confidence"] <= 1 and type(row["uncertain"]) is bool
        assert all(set(rival) == {"text", "share"} for rival in row["rivals"])
        assert len(row["activating"]) == len(row["contrastive"]) == min(30, int((activations[:, n] > 0).sum()))
        assert all(type(image) is int for image in row["activating"] + row["contrastive"])
    some = run(*asked, "--neurons", "0,5-7")
    assert [row["neuron"] for row in some.rows] == ["m/l/0", "m/l/5", "m/l/6", "m/l/7"]
    plain = run(*asked[:-1], "--neurons", "3,4")
    assert plain.out.startswith("m/l/3\t(dead)\t[never fires")
    assert "\nm/l/4\ttext " in plain.out
    for method in ("pmi", "contrastive-pmi"):
        assert run(*asked, "--method", method, "--logit-scale", "50").rows[0]["method"] == method


def test_label_words_for_people_and_machines(run, world, monkeypatch):
    monkeypatch.chdir(world)
    before = open_index("db").store.versions()
    said = run("label", "db", "--layer", "net/concepts", "--neurons", "0,9")  # vocabulary and templates used last
    assert said.status == 0, said.err
    first, dead = said.out.splitlines()
    assert first.startswith("net/concepts/0\t")
    assert dead.startswith("net/concepts/9\t(dead)")
    assert open_index("db").store.versions() == before  # read, not made again


def test_layers_lists_names_shapes_and_neurons(run):
    said = run("layers", "python:fakes:network")
    assert said.status == 0, said.err
    assert "conv\tConv2d\t6 x 8 x 8\t6 neurons" in said.out
    assert {"layer": "concepts", "kind": "ReLU", "shape": [10], "neurons": 10} in run(
        "layers", "python:fakes:network", "--json"
    ).rows


def test_show_tells_a_neuron_and_draws_its_card(run, world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    label = open_index("db").label("net/concepts/0")[0]
    said = run("show", "db", "net/concepts/0", "--card", tmp_path / "card.png")
    assert said.status == 0, said.err
    assert said.out.startswith(f"net/concepts/0: {label.text}   (csp)\n")
    assert "rival: " in said.out
    assert "over 23 images: mean" in said.out
    assert said.out.endswith(f"card: {tmp_path / 'card.png'}\n")
    with Image.open(tmp_path / "card.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 100
    (found,) = run("show", "db", "net/concepts/0", "--json").rows
    assert found["labels"][0]["text"] == label.text
    assert found["statistics"]["images"] == 23
    assert found["pairs"][0]["image_id"] == label.pairs[0].image_id
    assert found["images"][str(label.pairs[0].image_id)].endswith(".png")
    assert run("show", "db", "net/concepts/9").out.startswith("net/concepts/9: dead")


def test_search_by_text_and_by_picture(run, world, monkeypatch):
    monkeypatch.chdir(world)
    said = run("search", "db", "striped", "--layer", "net/concepts")
    assert said.status == 0, said.err
    assert "net/concepts/" in said.out
    rows = json.loads(run("search", "db", "striped", "--json", "--top", "3", "--layer", "net/concepts").out)
    assert len(rows) == 3
    assert set(rows[0]) == {"neuron", "score", "method", "label", "labelled_by"}
    assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)
    picture = next((world / "images").rglob("img*.png"))
    assert len(json.loads(run("search", "db", "--image", picture, "--json", "--top", "6").out)) == 6


def alive(db: str) -> list[int]:
    """The neurons of net/concepts that fire."""
    return [n for n in range(10) if open_index(db).activations(f"net/concepts/{n}").max() > 0]


STATEMENT = "SELECT neuron, text, score FROM labels WHERE layer = 'concepts' AND rank = 0 ORDER BY neuron"


def test_sql_in_four_formats(run, world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    expected = open_index("db").sql(STATEMENT).rows()
    assert [row["neuron"] for row in expected] == alive("db")
    table = run("sql", "db", STATEMENT)
    assert table.status == 0, table.err
    assert "neuron" in table.out
    assert f"{len(expected)} rows" in table.out
    assert json.loads(run("sql", "db", STATEMENT, "--format", "json").out) == expected
    assert run("sql", "db", STATEMENT, "--json").out == run("sql", "db", STATEMENT, "--format", "json").out
    lines = list(csv.DictReader(io.StringIO(run("sql", "db", STATEMENT, "--format", "csv").out)))
    assert [row["text"] for row in lines] == [row["text"] for row in expected]
    out = tmp_path / "rows.parquet"
    assert run("sql", "db", STATEMENT, "--format", "parquet", "--out", out).out == ""
    assert pq.read_table(out).to_pylist() == expected


def test_export(run, world, tmp_path, monkeypatch):
    monkeypatch.chdir(world)
    lines = list(csv.DictReader(io.StringIO(run("export", "db").out)))
    assert [row["neuron"] for row in lines] == [f"net/concepts/{n}" for n in range(10)]
    assert lines[9]["state"] == "dead"
    assert len(json.loads(run("export", "db", "--json", "--top", "2").out)) == 10 + len(alive("db"))
    assert (
        run("export", "db", "--layer", "net/concepts", "--format", "parquet", "--out", tmp_path / "l.parquet").status
        == 0
    )
    assert pq.read_table(tmp_path / "l.parquet").num_rows == 10
    assert json.loads(run("export", "db", "--json", "--method", "pmi").out) == []


def test_status(run, world, monkeypatch):
    monkeypatch.chdir(world)
    said = run("status", "db")
    assert said.status == 0, said.err
    assert said.out.startswith("db: 23 images, 1 unreadable, 10 labels\n")
    assert f"layer net/concepts: 10 neurons ({10 - len(alive('db'))} dead), pool none, 23 images, ready" in said.out
    (found,) = run("status", "db", "--json").rows
    assert found["writing"] is False
    assert [r["command"] for r in found["runs"]] == ["index", "label"]


def tree(folder: Path) -> dict[str, float]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}


BAD = {
    "a folder without images": (["index", "new", "empty", "--encoder", ENCODER, *NETWORK], "holds no image"),
    "a folder that is not there": (["index", "new", "nowhere", "--encoder", ENCODER, *NETWORK], "nowhere"),
    "an unknown layer to index": (
        ["index", "new", "images", "--encoder", ENCODER, "--network", "python:fakes:network", "--layers", "layer5"],
        "concepts",
    ),
    "an unknown library": (["index", "new", "images", "--encoder", "clap:x", *NETWORK], "clap"),
    "a new index without an encoder": (["index", "new", "images", *NETWORK], "needs an encoder"),
    "an unknown layer to label": (
        ["label", "db", "--layer", "net/layer5", "--vocabulary", "words.txt"],
        "has: net/conv, net/concepts",
    ),
    "a neuron out of range": (["label", "db", "--layer", "net/concepts", "--neurons", "3,10"], "neurons 0 to 9"),
    "neurons that are no numbers": (
        ["label", "db", "--layer", "net/concepts", "--neurons", "²"],
        "write all, 0,5,9 or 10-20",
    ),
    "a range backwards": (["label", "db", "--layer", "net/concepts", "--neurons", "5-2"], "write all, 0,5,9 or 10-20"),
    "an empty vocabulary": (["label", "db", "--layer", "net/conv", "--vocabulary", "empty.txt"], "is empty"),
    "no such vocabulary": (
        ["label", "db", "--layer", "net/conv", "--vocabulary", "none.txt"],
        "neither a file nor built in",
    ),
    "an unknown method": (["label", "db", "--layer", "net/conv", "--method", "csq"], "has: csp, csp-difference"),
    "gamma out of range": (["label", "db", "--layer", "net/conv", "--gamma", "2"], "gamma is 2.0"),
    "an encoder the index lacks": (["label", "db", "--layer", "net/conv", "--encoder", "clip"], f"has: {ENCODER}"),
    "arrays without a reader of texts": (
        ["label", "arrays", "--layer", "m/l", "--vocabulary", "words.txt"],
        "--text-embeddings",
    ),
    "arrays of different length": (
        ["import", "new", "--activations", "short.npy", "--embeddings", "made/embeddings.npy", "--layer", "m/l"],
        "have 60 rows and activations 59",
    ),
    "arrays with NaN": (
        ["import", "new", "--activations", "nan.npy", "--embeddings", "made/embeddings.npy", "--layer", "m/l"],
        "NaN or infinity, first in row 7",
    ),
    "arrays of another length than the index": (
        ["import", "arrays", "--activations", "short.npy", "--layer", "m/other"],
        "59 rows but the index holds 60 images",
    ),
    "a new index without embeddings": (
        ["import", "new", "--activations", "made/activations.npy", "--layer", "m/l"],
        "give --embeddings",
    ),
    "texts that are fewer than their embeddings": (
        ["label", "arrays", "--layer", "m/l", "--text-embeddings", "made/text_embeddings.npy", "--texts", "words.txt"],
        "texts have 4 lines and text embeddings 20 rows",
    ),
    "a database made by something else": (
        ["index", "foreign", "images", "--encoder", ENCODER, *NETWORK],
        "not a csp_index database",
    ),
    "another's database to import into": (
        [
            "import",
            "foreign",
            "--activations",
            "made/activations.npy",
            "--embeddings",
            "made/embeddings.npy",
            "--layer",
            "m/l",
        ],
        "not a csp_index database",
    ),
    "status of another's database": (["status", "foreign"], "not a csp_index database"),
    "status of nothing": (["status", "new"], "no index at new"),
    "a neuron that is no address": (["show", "db", "net/concepts"], "write MODEL/LAYER/INDEX"),
    "a neuron to show out of range": (["show", "db", "net/concepts/10"], "neurons 0 to 9"),
    "a card that cannot be written": (
        ["show", "db", "net/concepts/0", "--card", "nowhere/card.png"],
        "cannot be written",
    ),
    "an empty text to search": (["search", "db", " "], "is empty"),
    "a picture that is none": (["search", "db", "--image", "words.txt"], "words.txt"),
    "SQL that writes": (["sql", "db", "DROP TABLE images"], "only reads"),
    "SQL that is wrong": (["sql", "db", "SELECT nonsense FROM labels"], "nonsense"),
    "a view that is not there": (["sql", "db", "SELECT * FROM picture"], "views: images"),
    "a result that cannot be written": (
        ["sql", "db", "SELECT 1", "--format", "csv", "--out", "nowhere/x.csv"],
        "cannot be written",
    ),
    "layers of nothing": (["layers", "python:fakes:nothing"], "nothing"),
    "a device that is none": (
        ["label", "db", "--layer", "net/concepts", "--device", "abacus", "--recompute"],
        "abacus",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_changes_nothing(run, world, monkeypatch, name):
    monkeypatch.chdir(world)
    (world / "empty").mkdir(exist_ok=True)
    (world / "empty.txt").write_text("")
    (world / "foreign").mkdir(exist_ok=True)
    (world / "foreign" / "notes.txt").write_text("mine")
    activations = np.load(world / "made" / "activations.npy")
    np.save(world / "short.npy", activations[:-1])
    activations[7, 2] = np.nan
    np.save(world / "nan.npy", activations)
    arguments, told = BAD[name]
    before = tree(world)
    said = run(*arguments)
    assert said.status == 1
    assert told in said.err
    assert said.err.startswith("Error: ")
    assert said.err.count("\n") == 1
    assert said.out == ""
    after = tree(world)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    # The lock's file is opened by every writer, and a directory's time moves with the note of its owner.
    assert changed <= {f"{db}{file}" for db in ("db", "arrays") for file in ("", "/.writer.lock")}


def test_another_encoder_than_the_index_s_is_refused(run, world, monkeypatch):
    monkeypatch.chdir(world)
    monkeypatch.setenv("FAKE_SEED", "1")
    before = open_index("db").store.versions()
    for arguments in (
        ["index", "db", "images", "--encoder", ENCODER, *NETWORK],
        ["index", "db", "images"],
        ["label", "db", "--layer", "net/conv", "--vocabulary", "imagenet1k"],
        ["search", "db", "red"],
    ):
        said = run(*arguments)
        assert (said.status, said.out) == (1, ""), arguments
        assert "projection 0" in said.err
        assert "projection 1" in said.err
        assert said.err.count("\n") == 1
    assert open_index("db").store.versions() == before


def environment(**more: str) -> dict[str, str]:
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | more


NO_PERMISSION = """
import os, sys
from csp_index.cli import main
def run(*arguments):
    sys.argv = ["csp-index", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code
imported = ["--activations", "made/activations.npy", "--embeddings", "made/embeddings.npy"]
texts = ["--text-embeddings", "made/text_embeddings.npy", "--texts", "made/texts.txt", "--json"]
run("label", "db", "--layer", "m/l", *texts)  # load every library while its files may be read
os.chmod("db", 0o555), os.chmod(".", 0o555)
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for arguments in (
    ["import", "new", *imported, "--layer", "m/l"],
    ["import", "db", *imported, "--layer", "m/other"],
    ["label", "db", "--layer", "m/l", "--gamma", "0.5", *texts],
):
    print(run(*arguments), file=sys.stderr)
print("read", run("label", "db", "--layer", "m/l", "--neurons", "0", *texts))
"""


def test_without_write_permission():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        folder = Path(name)
        paths = fakes.write_arrays(folder / "made")
        open_index(folder / "db").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
        before = {path for path in folder.rglob("*") if not path.name.startswith(".writer")}
        try:
            done = subprocess.run(
                [sys.executable, "-c", NO_PERMISSION],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            folder.chmod(0o755), (folder / "db").chmod(0o755)
        lines = done.stderr.splitlines()
        assert [lines[i] for i in (1, 3, 5)] == ["1", "1", "1"], done.stderr
        assert len(lines) == 6
        assert lines[0].startswith("Error: no permission to create new")
        assert lines[2].startswith("Error: no permission to write db")
        assert lines[4].startswith("Error: no permission to write db")
        assert done.stdout.splitlines()[-1] == "read 0"
        assert not (folder / "new").exists()
        made = {path for path in folder.rglob("*") if not path.name.startswith(".writer")} - before
        written = ("labels.lance", "examples.lance", "concepts", "neighbours", "runs.lance")
        assert all(any(name in str(path) for name in written) for path in made)


def test_a_second_writer_is_refused_in_one_line(run, tmp_path):
    source = fakes.write_images(tmp_path / "images", 4)
    assert run("index", tmp_path / "db", source, "--encoder", ENCODER, *NETWORK).status == 0
    with open_index(tmp_path / "db").store.write_lock():
        said = run("index", tmp_path / "db", source)
        assert said.status == 1
        assert f"being written by process {os.getpid()}" in said.err
        assert said.err.count("\n") == 1
        assert run("status", tmp_path / "db", "--json").rows[0]["writing"] is True


def test_ctrl_c_says_that_nothing_is_lost(tmp_path):
    source = fakes.write_images(tmp_path / "images", 240)
    code = "from csp_index.cli import main; main()"
    arguments = ["index", tmp_path / "db", source, "--encoder", ENCODER, *NETWORK, "--shard-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(FAKE_SECONDS="0.3"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = time.monotonic()
    marks = tmp_path / "db" / "shards.lance" / "_versions"
    # The table's first version is empty; the second holds the first shard's marks.
    while len(list(marks.glob("*.manifest"))) < 2 and process.poll() is None and time.monotonic() - started < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=6)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # Python loses a Ctrl-C that comes while it frees an object
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    told = "Interrupted: what is finished is kept; the same command goes on where this one stopped."
    assert err.strip().splitlines()[-1] == told
    assert out == ""
    index = open_index(tmp_path / "db")
    assert [r["state"] for r in index.status()["runs"]] == ["interrupted"]
    assert 0 < index.status()["images"] < 240
    assert index.add_images(source).images == 240


def test_a_closed_pipe_is_not_an_error(world):
    code = "from csp_index.cli import main; main()"
    statement = "SELECT a.image_id FROM images a, images b, images c, images d LIMIT 200000"
    command = [sys.executable, "-c", code, "sql", str(world / "db"), statement, "--format", "csv"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "image_id\n"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in err
    assert err == ""
