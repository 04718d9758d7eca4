"""The command line: help with examples, each command on a small index, exit status."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import fakes
import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_world import ENCODER, NETWORK, environment, make_world
from other_process import run_python
from PIL import Image

from csp_index import __version__, open_index
from csp_index import cli as commands
from csp_index.cli import cli


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("cli"))


def every_command() -> list[str]:
    return sorted(cli.commands)


def test_the_commands_are_those_of_the_design():
    wanted = {"demo", "index", "import", "layers", "label", "show", "search", "sql", "export", "prefer", "status"}
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


@pytest.mark.parametrize("name", [name for name in every_command() if name != "mcp"])  # it speaks nothing else
def test_every_command_speaks_json(name):
    assert any("--json" in parameter.opts for parameter in cli.commands[name].params)


def test_version_and_help_do_not_wait_for_torch():
    code = "import sys; from csp_index.cli import cli; cli(['--version'], standalone_mode=False); "
    code += "print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["csp-index,", "version", __version__, "False"]


def test_data_frames_can_be_made_where_arrow_was_loaded_without_pandas():
    done = run_python("""
        import sys
        from csp_index.arrow_alone import load_arrow_alone
        load_arrow_alone()
        import pyarrow as pa
        import pyarrow.dataset
        assert pa.array([None, 1.0]).null_count == 1
        assert "pandas" not in sys.modules
        assert not [finder for finder in sys.meta_path if "arrow_alone" in type(finder).__module__]
        frame = pa.table({"score": [1.0, None]}).to_pandas()
        assert frame["score"].isna().tolist() == [False, True]
        assert pa.array(frame["score"]).null_count == 1
        load_arrow_alone()  # what is loaded stays
        assert "pandas" in sys.modules
    """)
    assert done.returncode == 0, done.stderr


HEAVY = {
    "torch",
    "pandas",
    "torchvision",
    "transformers",
    "open_clip",
    "timm",
    "scipy",
    "matplotlib",
    "lancedb",
    "fastapi",
}
RUN_EACH = """
import json, sys
from csp_index.cli import cli
for arguments in json.loads(sys.argv[1]):
    cli(arguments, standalone_mode=False)
    print("loaded:", *arguments[:1], *sys.modules, file=sys.stderr)
"""


def test_what_computes_little_loads_no_heavy_library(world, tmp_path):
    shutil.copytree(world / "db", tmp_path / "db")
    label = ["label", "db", "--layer", "net/concepts", "--neurons", "0,2"]
    read = [["status", "db"], label, ["show", "db", "net/concepts/2"], ["search", "db", "red"]]
    read.append(["prefer", "db", "none"])  # it writes, without lancedb
    read.append([*label[:-1], "0-7", "--method", "csp", "--gamma", "0.5"])  # it computes and writes, without torch
    queried = [["export", "db"], ["sql", "db", "SELECT count(*) FROM labels"], ["concept", "db", "red"]]
    command = [sys.executable, "-c", RUN_EACH, json.dumps(read + queried)]
    done = subprocess.run(command, env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("loaded:")]
    assert [name for name, *_ in loaded] == [command[0] for command in read + queried]
    for name, *modules in loaded:
        assert not HEAVY & set(modules), name
        assert ("duckdb" in modules) == (name in ("export", "sql", "concept")), name
    assert "PIL" not in loaded[0]  # of `status`: what shows no picture does not wait for it
    assert "net/concepts/2" in done.stdout


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
        (["candidates", "db", "--layer", "m/l", "--neighbours", "--contrast", "nonsense"], "several joined by +"),
        (
            ["label", "db", "--layer", "m/l", "--texts", "t", "--text-embeddings", "e", "--vocabulary", "v"],
            "one of them",
        ),
        (["search", "db"], "one of them"),
        (["search", "db", "red", "--image", "x.png"], "one of them"),
        (["sql", "db", "SELECT 1", "--format", "xml"], "'xml' is not one of"),
        (["index", "db", "images", "--network", "python:fakes:network"], "expected one --layers per --network"),
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
    assert f"layer net/concepts is ready: csp-index label {tmp_path / 'db'} --layer net/concepts" in said.out
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
        added = {"state", "note", "confidence", "uncertain", "rivals", "null_percentile", "prediction_set"}
        added |= {"terms", "bias", "probability", "crop"}
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
    assert said.out.startswith(f"net/concepts/0: {label.text}   ({label.method})\n")
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
    assert said.out.startswith("db: 23 images, 1 in `failures`, 10 labels\n")
    assert f"layer net/concepts: 10 neurons ({10 - len(alive('db'))} dead), pool none, 23 images, ready" in said.out
    (found,) = run("status", "db", "--json").rows
    assert found["writing"] is False
    assert [r["command"] for r in found["runs"]] == ["index", "label"]


def test_index_counts_what_it_passes_over_and_strict_refuses_it(tmp_path, run):
    fakes.write_images(tmp_path / "images", 3)
    (tmp_path / "images" / "notes.md").write_text("text")
    (tmp_path / "images" / "clip.mp4").write_text("text")
    (tmp_path / "images" / "unnamed").write_bytes((tmp_path / "images/b/img00000.png").read_bytes())
    models = ["--encoder", ENCODER, *NETWORK]
    strict = run("index", tmp_path / "db", tmp_path / "images", "--strict", *models)
    assert (strict.status, strict.out) == (1, "")
    assert "passed over 2 files: 1 .mp4, 1 .md: --strict allows none" in strict.err
    assert not (tmp_path / "db").exists()
    done = run("index", tmp_path / "db", tmp_path / "images", *models)
    assert done.status == 0 and done.err.startswith("Warning: passed over 2 files: 1 .mp4, 1 .md\n")
    assert "4 images added" in done.out
    again = json.loads(run("index", tmp_path / "db", tmp_path / "images", *models, "--json").out)
    assert again["passed_over"] == {".md": 1, ".mp4": 1} and again["added"] == 0


@pytest.mark.parametrize(("rows", "prefix"), [(6, ""), (5, "Warning: ")])
def test_what_of_a_table_joined_is_said_and_warned_of_only_if_it_is_not_all(run, tmp_path, rows, prefix):
    fakes.write_images(tmp_path / "images", 6)
    lines = [f"img{number:05d},{number}\n" for number in range(rows)]
    (tmp_path / "t.csv").write_text("id,n\n" + "".join(lines))
    said = run("index", tmp_path / "db", tmp_path / "images", "--metadata", tmp_path / "t.csv", "--encoder", ENCODER)
    assert said.status == 0, said.err
    assert (
        f"{prefix}t.csv: {rows} of {rows} rows joined to {rows} of 6 images by column 'id'" in said.err.splitlines()[0]
    )
    assert said.err.startswith(prefix + "t.csv")
