"""Constant neurons and ties: no sure label rests on the order of the images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from csp_index import open_index
from csp_index.index import Index

IMAGES, CLASSES, EXAMPLES = 120, 3, 30
NEURONS = ["constant", "alike on all classes", "saturated on one", "graded", "dead", "mostly tied", "few tied"]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Images sorted by class, 40 of each; the neurons of NEURONS."""
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(CLASSES), IMAGES // CLASSES)
    directions = np.eye(8)[:CLASSES]
    embeddings = directions[kind] + 0.1 * rng.standard_normal((IMAGES, 8))
    graded = np.where(kind == 1, 1 + rng.random(IMAGES), 0)
    values = np.zeros((IMAGES, len(NEURONS)))
    values[:, 0] = 2.5
    values[rng.permutation(IMAGES)[:90], 1] = 6
    values[kind == 2, 2] = 6
    values[:, 3] = graded
    values[:, 5] = np.minimum(graded, 1.2)
    values[:, 6] = np.where(np.arange(IMAGES) % 40 < 26, 1 + graded, np.where(kind == 1, 0.5, 0))
    np.save(tmp_path / "e.npy", embeddings.astype(np.float32))
    np.save(tmp_path / "a.npy", values.astype(np.float32))
    np.save(tmp_path / "t.npy", directions.astype(np.float32))
    (tmp_path / "t.txt").write_text("alpha\nbeta\ngamma\n")
    index = open_index(tmp_path / "db")
    index.import_arrays(tmp_path / "a.npy", "m/l", embeddings=tmp_path / "e.npy", logit_scale=20.0)
    return index


@pytest.fixture
def texts(tmp_path: Path) -> list[str]:
    return ["--text-embeddings", str(tmp_path / "t.npy"), "--texts", str(tmp_path / "t.txt")]


@pytest.mark.parametrize("method", ["semanticlens", "mean-centred", "csp", "contrastive-pmi"])
def test_states_and_doubt(index, run, texts, method):
    said = run("label", index.uri, "--layer", "m/l", "--method", method, "--json", *texts)
    rows = dict(zip(NEURONS, said.rows, strict=True))
    assert rows["constant"]["state"] == "constant" and rows["constant"]["labels"] == []
    assert "same activation on every image" in rows["constant"]["note"]
    assert rows["dead"]["state"] == "dead"
    alike = rows["alike on all classes"]
    assert (
        alike["uncertain"] and f"{EXAMPLES} of its {EXAMPLES} activating images were taken among more" in alike["note"]
    )
    assert rows["saturated on one"]["uncertain"], "which 30 of the 40 images count is the order of the images"
    assert rows["mostly tied"]["uncertain"] and "taken among more of the same activation" in rows["mostly tied"]["note"]
    graded = rows["graded"]
    assert (graded["labels"][0]["text"], graded["uncertain"]) == ("beta", False) and "same activation" not in graded[
        "note"
    ]


def test_a_label_that_is_stable_and_uncertain_says_that_another_reason_makes_it_so(index, run, texts):
    lines = run("label", index.uri, "--layer", "m/l", "--method", "semanticlens", *texts).out.splitlines()
    said = dict(zip(NEURONS, lines, strict=True))
    why = "30 of its 30 activating images were taken among more of the same activation, by the order of the images"
    assert said["saturated on one"].endswith(
        f"[{why}; uncertain for this reason, though stable in 100 of 100 resamples]"
    )
    assert not any("uncertain: stable in 100" in line for line in lines)


def test_what_was_said_is_stored(index, run, texts):
    first = run("label", index.uri, "--layer", "m/l", "--method", "semanticlens", "--json", *texts)
    again = run("label", index.uri, "--layer", "m/l", "--method", "semanticlens", "--json", *texts)
    assert again.out == first.out
    rows = index.sql("SELECT neuron, state, uncertain FROM labels WHERE rank <= 0 ORDER BY neuron").rows()
    assert [row["state"] for row in rows][:2] == ["constant", "labelled"] and rows[1]["uncertain"]


def test_a_neuron_above_zero_on_every_image_does_not_fire_on_them(index, tmp_path, run, texts):
    values = np.load(tmp_path / "a.npy")
    np.save(tmp_path / "b.npy", values[:, 3:4] + 1)
    index.import_arrays(tmp_path / "b.npy", "m/shifted", embeddings=tmp_path / "e.npy")
    run("label", index.uri, "--layer", "m/shifted", "--method", "semanticlens", *texts)
    shown = run("show", index.uri, "m/shifted/0").out
    assert re.search(r"above 0 on 100.0%, which says little; above its mean on about (2|3|4)\d%", shown)
    run("label", index.uri, "--layer", "m/l", "--method", "semanticlens", *texts)
    assert "fires on 33.3%" in run("show", index.uri, "m/l/3").out
