"""The paper's protocol end to end at toy size, on made stand-ins for each of its inputs; killed and gone on with."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from checkout import ROOT, python_path
from paper_models import Squares
from PIL import Image
from safetensors.torch import save_file

from csp_index import open_index
from csp_index.images.sources import open_source
from csp_index.models.networks import load_network

SCRIPT = ROOT / "scripts" / "paper" / "reproduce_paper.py"
METHODS = ("semanticlens", "clip-dissect-mean", "csp:gamma=1", "csp:gamma=0.5", "contrastive-pmi")
SUBJECTS = ("resnet50", "resnet101", "sae-topk", "sae-vanilla")
COLOURS = ("red", "green", "blue")
WORDS = ("nothing", "a/b: c?", *(f"{shade} {colour}" for shade in ("dark", "pale") for colour in COLOURS))
PICTURES, CONTROLS = 3, 7


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the arguments that stand for ImageNet, COCO, the vocabulary, the models and the autoencoders."""
    folder = tmp_path_factory.mktemp("inputs")
    fakes.write_images(folder / "imagenet", 40)
    fakes.write_images(folder / "coco", 12, seed=5)
    (folder / "words.txt").write_text("\n".join(WORDS))
    for name, seed in (("topk", 0), ("vanilla", 1)):
        weights = torch.Generator().manual_seed(seed)
        tensors = {"W_enc": torch.randn(6, 14, generator=weights), "b_enc": torch.randn(14, generator=weights)}
        save_file(tensors, folder / f"{name}.safetensors")
    return [
        *("--images", f"{folder}/imagenet", "--controls", f"{folder}/coco", "--vocabulary", f"{folder}/words.txt"),
        *("--encoder", "python:fakes:encoder", "--generator", "python:paper_models:generator"),
        *(
            "--subject",
            "resnet50=python:fakes:network@conv",
            "--subject",
            "resnet101=python:paper_models:small@layer4",
        ),
        *("--sae-topk", f"{folder}/topk.safetensors:topk=3", "--sae-vanilla", f"{folder}/vanilla.safetensors"),
        *("--neurons", "4", "--top-mean", "5", "--overly-active", "1.1", "--examples", "5", "--device", "cpu"),
        *("--pictures", str(PICTURES), "--control-images", str(CONTROLS)),
        *(part for method in METHODS for part in ("--method", method)),
    ]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import reproduce_paper

    return reproduce_paper.main([str(argument) for argument in arguments])


def _drawn(log: Path) -> Counter[str]:
    return Counter(json.loads(line) for line in log.read_text().splitlines()) if log.exists() else Counter()


@pytest.fixture(scope="module")
def finished(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of a run that was stopped after a stage, killed in the next, and then went on to its end."""
    out, log = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("log") / "drawn"
    with pytest.MonkeyPatch.context() as patch:
        assert _run(patch, out, *inputs, "--until", "label") == 0
        assert not log.exists() and not (out / "scores").exists()
        environment = {**os.environ, "DRAWN": str(log), "DRAW_SECONDS": "0.4"}
        environment["PYTHONPATH"] = python_path()
        command = [sys.executable, str(SCRIPT), str(out), *inputs]
        killed = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT)
        while killed.poll() is None and sum(_drawn(log).values()) < 2:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        patch.setenv("DRAWN", str(log))
        assert _run(patch, out, *inputs) == 0
    return out, log


@pytest.mark.slow
def test_a_killed_run_goes_on_and_draws_only_what_is_missing(finished: tuple[Path, Path]) -> None:
    _, log = finished
    again = {text: times - 1 for text, times in _drawn(log).items() if times > 1 and text != "nothing"}
    assert len(again) <= 1  # the picture in hand when it was killed
    assert set(_drawn(log)) <= set(WORDS)


@pytest.mark.slow
def test_a_second_run_changes_nothing(
    finished: tuple[Path, Path], inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, log = finished
    monkeypatch.setenv("DRAWN", str(log))
    before = _drawn(log)
    kept = {path: path.stat().st_mtime_ns for path in (out / "scores").iterdir()}
    runs = len(open_index(out / "index.db").sql("SELECT run_id FROM runs").to_arrow())
    assert _run(monkeypatch, out, *inputs) == 0
    assert _drawn(log) == before
    assert {path: path.stat().st_mtime_ns for path in (out / "scores").iterdir()} == kept
    assert len(open_index(out / "index.db").sql("SELECT run_id FROM runs").to_arrow()) == runs


@pytest.mark.slow
def test_the_table_holds_every_cell_and_the_published_figures(finished: tuple[Path, Path]) -> None:
    out, _ = finished
    table = json.loads((out / "table.json").read_text())
    rows = {(row["subject"], row["method"], row["metric"]): row for row in table["rows"]}
    assert len(rows) == len(SUBJECTS) * len(METHODS) * 4
    assert all((row["ours"] is None) == (row["neurons"] == 0) for row in rows.values())
    assert all(row["neurons"] > 0 for row in rows.values() if row["metric"] == "simulation")
    assert any(row["neurons"] > 1 for row in rows.values() if row["metric"] == "MAD")
    known = rows["resnet50", "csp:gamma=1", "DMA"]
    assert known["published"] == 0.35 and known["source"] in table["sources"]
    assert rows["sae-topk", "csp:gamma=1", "AUC"]["published"] is None
    assert all(0 <= row["ours"] <= 1 for row in rows.values() if row["metric"] == "AUC" and row["neurons"])
    with (out / "table.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    text = (out / "table.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| csp:gamma=1 |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[2] == "0.350" and cells[4] == "not found" and len(cells) == 10
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(SUBJECTS)


@pytest.mark.slow
def test_scores_are_the_formulas_on_the_labels_own_pictures(finished: tuple[Path, Path], inputs: list[str]) -> None:
    out, _ = finished
    network = load_network("python:fakes:network", layers=["conv"], device="cpu")

    def activations(pictures: list[Image.Image]) -> np.ndarray:
        return network.activations(torch.stack([network.preprocess(p) for p in pictures]))["conv"].double().numpy()

    names = [ref.uri for ref in open_source(inputs[3]).refs()]
    sample = np.sort(np.random.default_rng(0).choice(len(names), CONTROLS, replace=False))
    controls = activations([Image.open(names[place]).convert("RGB") for place in sample])
    index = open_index(out / "index.db")
    embeddings = np.stack([np.asarray(e) for e in _embeddings(index)])
    for file in (out / "scores").glob("resnet50-csp-gamma-1-*.json"):
        for row in json.loads(file.read_text()):
            if row["label"] == "nothing":
                assert row["DMA"] is row["AUC"] is row["MAD"] is None
                continue
            held = index.activations(f"network/conv/{row['neuron']}")
            made = activations(Squares().generate(row["label"], PICTURES, 0))[:, row["neuron"]]
            assert row["DMA"] == pytest.approx(made.mean() / held.max(), rel=1e-4)
            control = controls[:, row["neuron"]]
            above, level = (made[:, None] > control).mean(), (made[:, None] == control).mean()
            assert row["AUC"] == pytest.approx(above + level / 2)
            assert row["MAD"] == pytest.approx((made.mean() - control.mean()) / control.std(), rel=1e-4)
            vector = fakes.encoder().embed_texts([row["label"]])[0].numpy()
            expected = np.corrcoef(held, embeddings @ vector)[0, 1]
            assert row["simulation"] == pytest.approx(expected, abs=1e-4)


def _embeddings(index: object) -> list[list[float]]:
    from csp_index.store import catalog

    store = index.store  # type: ignore[attr-defined]
    info = catalog.encoder(store)
    return store.read(info.table).sort_by("image_id")["embedding"].to_pylist()


@pytest.mark.slow
def test_the_neurons_are_those_with_the_highest_tops(finished: tuple[Path, Path]) -> None:
    out, _ = finished
    index = open_index(out / "index.db")
    values = np.stack([index.activations(f"network/conv/{k}") for k in range(6)])
    tops = np.sort(values, axis=1)[:, -5:].mean(1)
    tops[(values > 0).sum(1) < 5] = -np.inf
    chosen = [row["neuron"] for row in json.loads(next((out / "scores").glob("resnet50-*.json")).read_text())]
    assert chosen == np.argsort(-tops)[: min(4, int(np.isfinite(tops).sum()))].tolist()


@pytest.mark.slow
def test_another_setting_makes_other_scores_and_keeps_the_old(
    finished: tuple[Path, Path], inputs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = finished
    before = set((out / "scores").iterdir())
    changed = [*inputs, "--control-images", "5", "--until", "score"]
    assert _run(monkeypatch, out, *changed) == 0
    after = set((out / "scores").iterdir())
    assert before < after and len(after) == 2 * len(before)


def test_what_is_wrong_is_told_in_one_line(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, tmp_path, *inputs, "--subject", "resnet50") == 1
    assert capsys.readouterr().err.startswith("Error: subject 'resnet50' cannot be read: write NAME=SPEC@LAYER")
    assert _run(monkeypatch, tmp_path, *inputs, "--images", tmp_path / "none") == 1
    assert "does not exist" in capsys.readouterr().err
