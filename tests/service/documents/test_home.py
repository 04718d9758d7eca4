"""The document of the home page, and a random neuron."""

from __future__ import annotations

import json
import random

import fakes
import pytest
from indexed import ENCODER

from csp_index import open_index
from csp_index.errors import NotFoundError
from csp_index.records import LayerKey
from csp_index.service.documents.home import home_document, random_neuron
from csp_index.service.snapshot import Snapshot


def test_home_tells_what_is_indexed(snapshot):
    home = home_document(snapshot)
    assert home["name"] == "db" and home["images"] == 41 and home["networks"] == ["net"]
    assert home["encoders"] == [{"encoder": ENCODER, "width": fakes.WIDTH, "images": 41}]
    concepts, conv = home["layers"]
    assert concepts["methods"] == ["csp", "mean-centred"] and conv["methods"] == []
    assert concepts["layer"] == "net/concepts" and concepts["ready"] and conv["labelled"] == 0
    dead = int(snapshot.layer(LayerKey("net", "concepts")).dead.sum())
    assert concepts["dead"] == dead >= 1 and concepts["labelled"] == concepts["neurons"] - dead
    assert [run["command"] for run in home["runs"]] == ["label", "label", "index"]
    assert home["labels"] == 2 * fakes.NEURONS
    json.dumps(home, allow_nan=False)


def test_a_random_neuron_fires(snapshot, squares, tmp_path):
    rng = random.Random(0)
    drawn = {random_neuron(snapshot, rng) for _ in range(200)}
    assert {key.layer for key in drawn} == {"conv", "concepts"}
    assert all(not snapshot.neuron_row(key)["dead"] for key in drawn)
    empty = open_index(tmp_path / "empty")
    empty.add_images(squares / "images", encoders=[ENCODER])
    with pytest.raises(NotFoundError, match="no neuron that fires"):
        random_neuron(Snapshot(tmp_path / "empty"), rng)
