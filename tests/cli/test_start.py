"""One command from pictures to labels: what it chooses, what it says, how it goes on."""

from __future__ import annotations

import json

import fakes
import pytest
from cli_world import ENCODER

from csp_index import open_index
from csp_index.cli import serve

MODELS = ["--encoder", ENCODER, "--network", "python:fakes:network"]


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fakes.write_images(tmp_path / "photos", 12)
    return "photos"


def test_pictures_become_labels_and_each_choice_is_said(run, pictures, tmp_path):
    said = run("start", pictures, *MODELS, "--no-serve")
    assert said.status == 0, said.err
    chosen = {line.split()[0]: line for line in said.out.splitlines()}
    assert chosen["index"].startswith("index      photos.db  (after the images")
    assert chosen["encoder"] == f"encoder    {ENCODER}"
    assert chosen["layers"].startswith("layers     conv  (the ends of the last stages; --layers")
    assert chosen["vocabulary"].startswith("vocabulary imagenet1k  (the images' column label has only 2 texts")
    assert chosen["method"] == "method     firing-contrast  (recommended; --method)"
    assert said.err.endswith("; next: csp-index serve photos.db\n")
    again = run("start", pictures, "--no-serve", "--trust", "--json", "--vocabulary", "metadata:label")
    document = json.loads(again.out)
    assert document["choices"]["models"] == f"{ENCODER}, network/conv"
    assert document["choices"]["vocabulary"] == "metadata:label"
    assert document["labels"]["candidates"] == "vocabulary metadata:label"
    assert document["layers"] == ["network/conv"]
    assert len(open_index("photos.db").sql("SELECT * FROM images").rows()) == 12


def test_it_ends_in_the_browser(run, pictures, monkeypatch):
    shown = []
    monkeypatch.setattr(serve, "_serve", lambda db, as_json, options: shown.append((db, options["port"])))
    said = run("start", pictures, "named.db", *MODELS, "--layers", "concepts", "--method", "csp", "--port", "0")
    assert said.status == 0, said.err
    assert shown == [("named.db", 0)]
    assert "index      named.db\n" in said.out
    assert "layers     concepts\n" in said.out


def test_a_source_that_is_not_there_makes_no_index_and_loads_no_model(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("csp_index.cli.start._last_layers", lambda network: pytest.fail("a network was loaded"))
    said = run("start", "nowhere", *MODELS)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "nowhere" in said.err
    assert not (tmp_path / "nowhere.db").exists()
