"""One command from pictures to labels: what it chooses, what it says, how it goes on."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import fakes
import pytest
from cli_world import ENCODER

from csp_index import open_index
from csp_index.cli import serve, start
from csp_index.cli.output import say_labelled
from csp_index.errors import LockedError, ModelError
from csp_index.labelling.label_summary import LabelSummary
from csp_index.labelling.labels import READ
from csp_index.store.connect import check_creatable, claimed, open_store

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
    assert "csp-index label" not in said.out
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


@pytest.fixture
def no_model(monkeypatch):
    """Fail where a network is loaded."""
    monkeypatch.setattr("csp_index.cli.start._last_layers", lambda network: pytest.fail("a network was loaded"))


def test_a_source_without_images_makes_no_index_and_loads_no_model(run, no_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.doc").write_text("no picture")
    for folder in ("empty", "texts"):
        said = run("start", folder, *MODELS)
        assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
        assert f"{folder} holds no images" in said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "texts"]


def test_a_table_that_fits_no_image_is_refused_before_a_model_is_loaded(run, no_model, pictures):
    with open("photos/metadata.csv", "w") as file:
        file.write("file_name,label\nother.png,bird\n")
    said = run("start", pictures, *MODELS)
    assert said.status == 1
    assert "metadata.csv" in said.err.splitlines()[-1]


def test_what_the_table_joined_and_what_failed_is_said_once(run, pictures):
    with open("photos/metadata.csv", "w") as file:
        file.write("file_name,bird\n" + "".join(f"{'ba'[n % 2]}/img{n:05d}.png,{n}\n" for n in range(12)))
    with open("photos/broken.png", "w") as file:
        file.write("no picture")
    said = run("start", pictures, *MODELS, "--vocabulary", "metadata:nothing")
    assert said.err.count("metadata.csv: ") == 1
    assert "the first of 1: " in said.err and "photos/broken.png: not an image that Pillow can read; all: " in said.err
    assert "csp-index sql photos.db 'SELECT uri, reason FROM failures'\n" in said.err
    assert said.err.splitlines()[-1].startswith("Error: no image has the metadata column 'nothing'")


@pytest.mark.parametrize("wish", [("--vocabulary", "nowhere.txt"), ("--method", "magic"), ("--encoder", "clip")])
def test_what_is_needed_only_after_the_pass_is_checked_before(run, no_model, pictures, wish):
    said = run("start", pictures, *MODELS, *wish)
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert wish[1] in said.err
    assert not said.out


def test_a_place_that_is_taken_is_refused_before_a_model_is_loaded(run, no_model, pictures, tmp_path):
    (tmp_path / "photos.db").mkdir()
    (tmp_path / "photos.db" / "notes.txt").write_text("mine")
    said = run("start", pictures, *MODELS)
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "photos.db is not a csp_index database and not empty" in said.err


def test_an_index_given_as_images_is_said_to_be_one(run, no_model, pictures, tmp_path):
    arrays = fakes.write_arrays(tmp_path / "made")
    open_index("my birds.db").import_arrays(arrays["activations"], "m/l", embeddings=arrays["embeddings"])
    said = run("start", "my birds.db")
    assert said.status == 1
    assert said.err == "Error: my birds.db is an index, expected images: csp-index serve 'my birds.db' shows it\n"


def test_the_usual_port_is_replaced_where_it_is_taken_and_a_named_one_refused(run, no_model, pictures, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("CSP_INDEX_SERVE_PORT", str(port))
        choices = start._Choices(silent=True)
        assert start._port(None, choices) == 0
        assert choices.made == {"port": "any that is free"}
        said = run("start", pictures, "other.db", *MODELS, "--port", str(port))
    assert (said.status, said.err.count("\n")) == (1, 1)
    assert "give another --port" in said.err
    assert start._port(None, choices) is None


def test_commands_to_type_next_can_be_copied(capsys):
    say_labelled(LabelSummary("csp", "", 3, 3, 0, (), None), "my birds.db", by_default=False)
    assert capsys.readouterr().err.endswith("; next: csp-index serve 'my birds.db'\n")
    say_labelled(LabelSummary("csp", "", 3, 3, 0, (), None), "my birds.db", by_default=False, served=True)
    assert capsys.readouterr().err.endswith("; later: csp-index serve 'my birds.db'\n")


def test_labels_of_an_earlier_start_are_said_to_be_read(capsys):
    start._say_if_read(f"6 {READ}")
    start._say_if_read("contrastive images by exact products")
    assert capsys.readouterr().err == f"6 {READ}\n"


def test_a_source_that_is_not_there_makes_no_index_and_loads_no_model(run, no_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "does not exist" in run("start", "https://pictures.example/a.zip", *MODELS).err
    said = run("start", "nowhere", *MODELS)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "nowhere" in said.err
    assert not (tmp_path / "nowhere.db").exists()


def test_an_index_that_another_process_writes_is_said_before_a_model_is_loaded(run, no_model, pictures, tmp_path):
    arrays = fakes.write_arrays(tmp_path / "made")
    open_index("photos.db").import_arrays(arrays["activations"], "m/l", embeddings=arrays["embeddings"])
    with open_store("photos.db").write_lock():
        for command in (["start", pictures, *MODELS], ["index", "photos.db", pictures, "--encoder", "open_clip:none"]):
            said = run(*command)
            assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
            assert f"photos.db is being written by process {os.getpid()} on " in said.err


def test_a_place_where_another_process_makes_an_index_is_said_before_a_model_is_loaded(run, no_model, pictures):
    with claimed("new/photos.db") as store:
        assert store is None
        for command in (["start", pictures, "new/photos.db"], ["index", "new/photos.db", pictures]):
            said = run(*command, "--encoder", "open_clip:none")
            assert (said.status, said.out, said.err.count("\n")) == (1, "", 1)
            assert f"new/photos.db is being written by process {os.getpid()} on " in said.err
        assert "no index yet: another process is making it" in run("status", "new/photos.db").err
    assert not os.path.exists("new")


@pytest.mark.parametrize("command", ["start", "index"])
def test_a_place_is_claimed_while_models_load_and_left_as_it_was_if_they_do_not(run, pictures, monkeypatch, command):
    def fails(*_, **__):
        with pytest.raises(LockedError, match="is being written by process"):
            check_creatable("photos.db")
        raise ModelError("it does not load")

    loads = "cli.start._models" if command == "start" else "models.index_models.Models.to_run"
    monkeypatch.setattr(f"csp_index.{loads}", fails)
    said = run("start", pictures) if command == "start" else run("index", "photos.db", pictures, *MODELS[:2])
    assert said.err.splitlines()[-1] == "Error: it does not load"
    assert not os.path.exists("photos.db")


def test_what_a_command_that_was_cut_off_has_left_stays_for_the_next_one(run, pictures):
    Path("photos.db/commits").mkdir(parents=True)
    Path("photos.db/commits/BEGUN").touch()
    with claimed("photos.db"):
        pass
    assert os.listdir("photos.db/commits") == ["BEGUN"]


def test_without_a_connection_a_missing_encoder_is_said_before_a_network_is_built(run, no_model, pictures, monkeypatch):
    monkeypatch.setattr("csp_index.models.hub.is_alone", lambda: True)
    monkeypatch.setattr("csp_index.models.index_models.load_encoder", missing)
    said = run("start", pictures, "--network", "python:fakes:network")
    assert (said.status, said.err) == (1, f"Error: no {start._ENCODER} here\n")


def test_random_weights_are_said(run, no_model, pictures, monkeypatch):
    monkeypatch.setattr("csp_index.models.hub.is_alone", lambda: True)
    monkeypatch.setattr("csp_index.models.index_models.load_encoder", missing)
    told = "random weights, which have learned nothing"
    assert told in run("start", pictures, "--network", "torchvision:resnet18/none").out
    assert told not in run("start", pictures, "--network", "python:fakes:network").out


def missing(spec, device):
    raise ModelError(f"no {spec} here")
