"""Vectors that are stored: the same as by the models, while these are not there."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from planted import CONCEPTS, DERIVED, PLANTED, make_planted

from csp_index.errors import NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.documents.image import image_document
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.live.engine import Engine
from csp_index.service.live.live_models import LiveModels
from csp_index.service.live.stored_vectors import StoredVectors
from csp_index.service.snapshot import Snapshot


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_planted(tmp_path_factory.mktemp("stored")))


def test_they_are_those_of_the_models(uri: str) -> None:
    snapshot = Snapshot(uri)
    stored, engine = StoredVectors(snapshot, 2**20), Engine(snapshot, ServiceSettings())
    for ids in ([7, 3, 7], [], [DERIVED, 0, DERIVED]):
        np.testing.assert_allclose(stored.vectors_of(ids), engine.models().vectors_of(ids), atol=1e-6)
    query = stored.vectors_of([11])[0]
    for count in (5, 1000):
        near, expected = stored.nearest_images(query, count), engine.models().nearest_images(query, count)
        assert [image for image, _ in near] == [image for image, _ in expected]
        assert [cosine for _, cosine in near] == pytest.approx([cosine for _, cosine in expected], abs=1e-6)


def test_what_is_not_there_is_missing(uri: str) -> None:
    stored = StoredVectors(Snapshot(uri), 2**20)
    for ids in ([0, 40], [-1]):
        with pytest.raises(NotFoundError, match="does not exist"):
            stored.vectors_of(ids)
    with pytest.raises(NotFoundError):
        stored.concepts(LayerKey("net", "none"))


def test_pages_wait_for_no_model(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(LiveModels, "__init__", lambda *given: go_on.wait(60) and None)
    snapshot = Snapshot(uri)
    engine = Engine(snapshot, ServiceSettings(timeout=30))
    engine.start()
    try:
        for key in (f"{PLANTED}/1", f"{CONCEPTS}/2"):
            assert neuron_document(snapshot, engine, NeuronKey.parse(key))["facets"]
        assert image_document(snapshot, engine, 3)["neighbours"]
        assert not engine.ready
    finally:
        go_on.set()


def test_a_neurons_page_loads_no_torch(uri: str) -> None:
    program = (
        "import sys; from csp_index.service.live.engine import Engine\n"
        "from csp_index.service.snapshot import Snapshot; from csp_index.service.config import ServiceSettings\n"
        "from csp_index.service.documents.neuron import neuron_document; from csp_index.records import NeuronKey\n"
        f"snapshot = Snapshot({uri!r}); engine = Engine(snapshot, ServiceSettings())\n"
        f"page = neuron_document(snapshot, engine, NeuronKey.parse({f'{PLANTED}/1'!r}))\n"
        "print(len(page['facets']) > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "False"], done.stderr
