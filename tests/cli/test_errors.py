"""The command line on bad input: one line for each, and nothing changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_world import ENCODER, NETWORK, make_world

from csp_index import open_index


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("cli"))


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
    "a device that is none where no model runs": (["verify", "db", "--device", "abacus"], "abacus"),
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
        ["search", "db", "a text that the index does not hold"],
    ):
        said = run(*arguments)
        assert (said.status, said.out) == (1, ""), arguments
        assert "projection 0" in said.err
        assert "projection 1" in said.err
        assert said.err.count("\n") == 1
    assert open_index("db").store.versions() == before


def test_an_index_of_no_image_is_an_error_that_says_why(run, world, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pointers").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "pointers" / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    result = run("index", "new", "pointers", "--encoder", ENCODER, *NETWORK)
    assert result.status == 1 and "is ready" not in result.out
    assert "Error: no image was indexed: the first is" in result.err and "git lfs pull" in result.err
