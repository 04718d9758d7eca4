"""Snippets: what a neuron's page tells to copy runs, and gives the very label that the page shows."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from few import few
from made_evidence import evidence, score
from planted import CONCEPTS, PLANTED, serve_planted
from starlette.testclient import TestClient

from csp_index import Index, Label, open_index
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.methods import METHODS, methods_with
from csp_index.query.reader import Reader
from csp_index.records import NeuronKey, ScoringOptions
from csp_index.service import make_app
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.documents.snippets import snippets

NEURON = "net/concepts/3"
WORDS = ["striped", "red", "moon", "it's blue", "dotted", 'ring "o"', "a, b; c", "$HOME `x`"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("snippets")
    fakes.write_images(folder / "images", 40)
    network = ("python:fakes:network", ("concepts",), "net")
    from csp_index import NetworkSource

    index = open_index(folder / "my db")
    index.add_images(
        folder / "images",
        encoders=["python:fakes:encoder"],
        networks=[NetworkSource(network[0], network[1], name=network[2])],
        shard_size=20,
    )
    return folder


@pytest.fixture
def index(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    shutil.copytree(made / "my db", tmp_path / "my db")
    monkeypatch.chdir(tmp_path)
    return open_index("my db")


def told(index: Index, label: Label) -> dict[str, Any]:
    """As much of the neuron's document as the snippets read."""
    rows = index.sql(f"SELECT run_id, command, settings FROM runs WHERE run_id = '{label.run_id}'").rows()
    run = rows[0] | {"settings": json.loads(rows[0]["settings"])}
    return page(run) | {"neuron": str(label.neuron), "method": label.method}


def run_python(text: str) -> Label:
    scope: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(text, scope)
    found: Label = scope["label"]
    return found


def run_cli(run: Any, text: str) -> list[dict[str, Any]]:
    """Run the commands of a text, each on a line of its own; return the last one's rows."""
    rows = []
    words = shlex.split(text)
    starts = [at for at, word in enumerate(words) if word == "csp-index"]
    for start, end in zip(starts, [*starts[1:], len(words)], strict=True):
        command = words[start + 1 : end]
        said = run(*command, *(["--json"] if command[0] == "label" else []))
        assert said.status == 0, said.err
        rows = said.rows if command[0] == "label" else rows
    return rows


def page(run: dict[str, Any] | None) -> dict[str, Any]:
    """Return what snippets read of a neuron's document."""
    return {"neuron": NEURON, "method": "csp", "provenance": {"run": run, "encoder": {"logit_scale": None}}}


def said(label: Label) -> list[tuple[str, float]]:
    return [(score.text, round(score.score, 4)) for score in label.labels]


def said_rows(rows: list[dict[str, Any]], neuron: str) -> list[tuple[str, float]]:
    (row,) = [row for row in rows if row["neuron"] == neuron]
    return [(one["text"], round(one["score"], 4)) for one in row["labels"]]


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "all by default": (NEURON, {}),
    "every knob of csp": (
        "net/concepts",
        {
            "method": "csp",
            "gamma": 0.35,
            "examples": 7,
            "contrast": "nearest+random",
            "neighbours": 2,
            "threshold": "quantile:0.5",
            "floor": 0.01,
            "reuse": False,
            "min_similarity": -0.5,
            "near_duplicate": 0.999,
            "bootstrap": 20,
            "seed": 3,
        },
    ),
    "other templates": (NEURON, {"templates": "none", "examples": 5}),
    "a method over the neurons of the run": (
        ["net/concepts/1", "net/concepts/3", "net/concepts/4", "net/concepts/5"],
        {"method": "clip-dissect", "bootstrap": 0},
    ),
    "own scale": (NEURON, {"method": "pmi", "logit_scale": 7.0, "renormalise_text": False}),
    "many neighbours": (NEURON, {"method": "consensus"}),
    "more labels than are kept": (NEURON, {"top": 25}),
}


@pytest.mark.parametrize("neurons, options", few(ASKED.values(), 2), ids=ASKED)
def test_python_and_the_command_line_give_the_label_again(index: Index, run, neurons, options):
    texts = [*WORDS, *(f"word {number}" for number in range(30))]
    label = next(one for one in index.label(neurons, vocabulary=texts, **options) if str(one.neuron) == NEURON)
    index.label("net/concepts/0", vocabulary=["another", "vocabulary", "since"], examples=5)  # it is the last one used
    found = snippets(told(index, label), "my db")
    before = len(index.store.read("runs"))
    again = run_python(found["python"])
    assert (again.run_id, again.labels[: len(label.labels)]) == (label.run_id, label.labels)
    assert len(index.store.read("runs")) == before  # the very same question: its answer is read
    rows = run_cli(run, found["cli"])
    assert said_rows(rows, NEURON)[:5] == said(label)[:5]


def test_the_command_line_overwrites_no_file_of_the_reader(index: Index, run):
    mine = Path("vocabulary.csv")
    mine.write_text("text\nmine\n")
    label = index.label(NEURON, vocabulary=WORDS)[0]
    before = set(Path().iterdir())
    command = snippets(told(index, label), "my db")["cli"]
    assert said_rows(run_cli(run, command), NEURON) == said(label)
    (written,) = set(Path().iterdir()) - before
    assert written.name in command and re.fullmatch(r"vocabulary-[0-9a-f]{12}\.csv", written.name)
    assert mine.read_text() == "text\nmine\n"


def test_an_encoder_is_named_unless_it_is_a_folder_of_somebody():
    for encoder, named in (
        ("open_clip:ViT-B-32/laion2b", True),
        ("python:fakes:encoder", True),
        ("open_clip:x", False),
    ):
        run = {"run_id": "r", "settings": {"encoder": encoder, "candidates": "", "examples": {}, "scoring": {}}}
        found = snippets(page(run), "db")
        assert (f"encoder={encoder!r}" in found["python"], f"--encoder {encoder}" in found["cli"]) == (named, named)


def test_a_built_in_vocabulary_and_one_of_the_metadata_are_named(index: Index, run):
    document = page({"run_id": "r", "settings": {}})
    for name in ("imagenet1k", "metadata:my column"):
        settings = {"candidates": f"{name}@0123456789ab csp@ba9876543210", "examples": {"examples": 30}, "scoring": {}}
        document["provenance"]["run"]["settings"] = settings
        found = snippets(document, "my db")
        assert f"vocabulary={name!r}" in found["python"]
        assert shlex.join(["--vocabulary", name, "--templates", "csp"]) in found["cli"]


def test_candidates_of_models_are_asked_for_by_kind():
    hashed = "0123456789ab"
    for key, kinds, pooled in (
        (f"my words@{hashed} csp@{hashed} + vlm+captioner@{hashed} pooled", "vocabulary,vlm,captioner", True),
        (f"none@{hashed} + neighbours@{hashed}", "neighbours", False),
    ):
        settings = {"candidates": key, "examples": {}, "scoring": {}}
        run = {"run_id": "r", "settings": settings}
        found = snippets(page(run), "db")
        assert f"candidates={kinds!r}" in found["python"]
        assert ("pool_candidates=True" in found["python"]) is pooled
        assert (f"--candidates {kinds}" in found["cli"], "--pool-candidates" in found["cli"]) == (True, pooled)
        assert ("my words@" in found["cli"]) is pooled


def test_of_arrays_the_files_are_named_as_ones_to_put_there(tmp_path, monkeypatch, run):
    paths = fakes.write_arrays(tmp_path)
    monkeypatch.chdir(tmp_path)
    index = open_index("db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], logit_scale=30.0)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    label = index.label("m/l/2", "csp", vocabulary=texts, examples=9)[0]
    paths["text_embeddings"].rename("T.npy")
    paths["texts"].rename("T.txt")
    found = snippets(told(index, label), "db")
    assert run_python(found["python"]) == label
    assert said_rows(run_cli(run, found["cli"]), "m/l/2") == said(label)
    assert "/api/v1/neurons/m/l/2?method=csp" in found["curl"]


def test_curl_gives_the_label_of_the_page_or_makes_one(tmp_path_factory):
    snapshot, engine = serve_planted(tmp_path_factory)
    with TestClient(make_app(snapshot.store.uri), "http://127.0.0.1:8000") as client:
        for key, method in ((f"{PLANTED}/0", "csp"), (f"{PLANTED}/1", "semanticlens"), (f"{CONCEPTS}/7", None)):
            document = neuron_document(snapshot, engine, NeuronKey.parse(key), method)
            words = shlex.split(document["queries"]["curl"])
            address = next(word for word in words if word.startswith("http"))
            if method:
                assert client.get(address).json()["labels"] == document["labels"] != []
            else:
                reply = client.post(address, content=words[-1], headers=dict([words[-3].split(": ")]))
                assert reply.json()["results"][0]["state"] == "labelled"


def test_sql_gives_the_labels_of_that_run(index: Index):
    for gamma in (0.2, 0.8):
        label = index.label(NEURON, method="csp", vocabulary=WORDS, gamma=gamma)[0]
        rows = Reader("my db").sql(snippets(told(index, label), "my db")["sql"]).rows()
        assert [(row["text"], round(row["score"], 4)) for row in rows][:5] == said(label)


def test_a_neuron_without_label_gets_commands_that_make_one(index: Index, run):
    document = page(None) | {"method": None}
    index.label("net/concepts/0", vocabulary=WORDS)
    found = snippets(document, "my db")
    label = run_python(found["python"])
    assert label.state == "labelled"
    assert said_rows(run_cli(run, found["cli"]), NEURON) == said(label)
    assert len(Reader("my db").sql(found["sql"]).rows()) == 1
    words = shlex.split(found["curl"])
    assert json.loads(words[words.index("-d") + 1]) == {"neurons": [NEURON], "method": "csp"}


@pytest.mark.parametrize("name", few(["-rf", 'a b\'s "db"', "$(touch x)`y`;z", "ünï©ode", "{0}%s"], 2))
def test_hostile_names_stay_names(name, tmp_path, monkeypatch, run):
    """Model, layer and database may be called anything that is no slash."""
    paths = fakes.write_arrays(tmp_path / "arrays")
    monkeypatch.chdir(tmp_path)
    model = f"x{name}".strip()
    index = open_index(f"./{name}")
    index.import_arrays(paths["activations"], f"{model}/l'\"$(x)", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    label = index.label(f"{model}/l'\"$(x)/2", vocabulary=texts, examples=9)[0]
    shutil.copy(paths["text_embeddings"], "T.npy")
    shutil.copy(paths["texts"], "T.txt")
    found = snippets(told(index, label), name)
    assert run_python(found["python"]) == label
    assert said_rows(run_cli(run, found["cli"]), str(label.neuron)) == said(label)
    assert len(Reader(f"./{name}").sql(found["sql"]).rows()) == 20
    address = shlex.split(found["curl"])[2]
    assert address.isascii() and not set(address) & set(" \"'`$\n")
    assert not Path("x").exists()


def test_values_are_numbers_of_json_and_python(index: Index):
    label = index.label(NEURON, "csp", vocabulary=WORDS, gamma=np.float64(0.25).item())[0]
    assert "gamma=0.25" in snippets(told(index, label), "db")["python"]


def test_gamma_stands_with_the_methods_that_look_at_it():
    def scores(method: str, gamma: float) -> torch.Tensor:
        return score(method, evidence(), ScoringOptions(gamma=gamma, logit_scale=30.0))

    by_examples = [name for name, info in METHODS.items() if not info.needs_correlation]
    looking = {name for name in by_examples if not torch.equal(scores(name, 0.2), scores(name, 0.9))}
    assert set(methods_with("gamma")) == looking
