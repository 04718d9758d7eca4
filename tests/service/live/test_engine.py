"""The engine: there at once, loaded in the background, shared by threads."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from PIL import Image
from planted import CONCEPTS, PLANTED, WORDS, make_arrays, make_planted

from csp_index.errors import BusyError, LabelError, ModelError, NotFoundError, StoreError
from csp_index.index import Index, open_index
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.documents.search import SearchQuery, search_document
from csp_index.service.live.engine import Engine
from csp_index.service.live.live_models import LiveModels
from csp_index.service.live.queries import LabelQuery
from csp_index.service.snapshot import Snapshot

LAYER, NET = LayerKey.parse(PLANTED), LayerKey.parse(CONCEPTS)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(make_planted(tmp_path_factory.mktemp("engine")))


@pytest.fixture(scope="module")
def engine(index: Index) -> Engine:
    return Engine(Snapshot(index.uri), ServiceSettings())


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return Engine(Snapshot(make_arrays(tmp_path_factory.mktemp("arrays"))), ServiceSettings())


def picture(shade: int = 200) -> Image.Image:
    return Image.new("RGB", (20, 30), (shade, 30, 40))


def test_importing_and_making_one_loads_no_torch(index: Index) -> None:
    program = (
        "import sys; from csp_index.service.live.engine import Engine\n"
        "from csp_index.service.live.queries import LabelQuery\n"
        "from csp_index.service.snapshot import Snapshot; from csp_index.service.config import ServiceSettings\n"
        "from csp_index.records import NeuronKey\n"
        f"engine = Engine(Snapshot({index.uri!r}), ServiceSettings())\n"
        "LabelQuery((NeuronKey('m', 'l', 0),)).options\n"
        "print(engine.ready, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_it_is_ready_when_loaded_and_starts_once(index: Index) -> None:
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    assert not engine.ready
    assert not engine.failed
    for _ in range(3):
        engine.start()
    assert sum(thread.name == "engine" for thread in threading.enumerate()) <= 1
    engine.models(60)
    assert engine.ready


def test_who_waits_too_long_is_told(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(LiveModels, "__init__", lambda *given: go_on.wait(30) and None)
    engine = Engine(Snapshot(index.uri), ServiceSettings(timeout=0.01))
    try:
        for _ in range(2):
            with pytest.raises(BusyError, match="still loading"):
                engine.models().embed_text("red")
    finally:
        go_on.set()
    engine.models(30)


def test_who_asks_for_a_text_is_told_that_the_encoder_loads(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(LiveModels, "load_encoder", lambda *given: go_on.wait(30) and None)
    snapshot, settings = Snapshot(index.uri), ServiceSettings(timeout=0.05)
    engine = Engine(snapshot, settings)
    engine.models(30)
    try:
        with pytest.raises(BusyError, match="the encoder is loading, for 0 s so far: ask again in a few seconds"):
            search_document(snapshot, engine, SearchQuery("something quite new"))
        assert search_document(snapshot, engine, SearchQuery(WORDS[2]))["means"]  # its vector is at hand
    finally:
        go_on.set()
    assert engine._encoder_done.wait(30)
    assert search_document(snapshot, engine, SearchQuery("something quite new"))["means"]


@pytest.mark.parametrize(("failure", "kind"), [(ModelError("no scale"), ModelError), (OSError(2, "gone"), StoreError)])
def test_a_failure_to_load_is_told_to_everyone_who_asks(
    index: Index, monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type[Exception]
) -> None:
    def fail(*given: Any) -> None:
        raise failure

    monkeypatch.setattr(LiveModels, "__init__", fail)
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    for _ in range(2):
        with pytest.raises(kind, match=r"could not load what this needs: (no scale|gone)"):
            engine.models().embed_text("red")
    assert engine.failed
    assert not engine.ready


def test_concepts_are_those_of_the_last_csp_run_over_the_whole_layer(engine: Engine) -> None:
    found = engine.concepts(LAYER)
    assert found.method == "csp"
    assert found.vectors.shape == (7, fakes.WIDTH)
    assert found.alive.tolist() == [True] * 6 + [False]
    np.testing.assert_allclose(np.linalg.norm(found.vectors[found.alive], axis=1), 1.0, atol=1e-5)
    assert engine.concepts(LAYER) is found


def test_a_layer_that_is_not_labelled_whole_has_centred_means(engine: Engine, index: Index) -> None:
    found = engine.concepts(NET)
    assert found.method == "mean-centred"
    assert found.vectors.shape == (fakes.NEURONS, fakes.WIDTH)
    query = engine.models().embed_text("moon")
    best = index.search("moon", layer=CONCEPTS, top=1).rows()[0]
    scores = np.where(found.alive, found.vectors @ query, -np.inf)
    assert best["neuron"] == f"{CONCEPTS}/{scores.argmax()}"
    assert best["score"] == pytest.approx(float(scores.max()), abs=1e-5)


def test_texts_and_pictures_become_unit_vectors(engine: Engine) -> None:
    vector = engine.models().embed_text("striped")
    expected = fakes.encoder().embed_texts(["striped"]).numpy()[0]  # the templates used last: none
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-6)
    np.testing.assert_array_equal(engine.models().embed_text("striped"), vector)
    seen = engine.models().embed_image(picture().convert("RGBA"))
    pixels = fakes.encoder().preprocess(picture())[None]
    np.testing.assert_allclose(seen, fakes.encoder().embed_images(pixels)[0].numpy(), atol=1e-6)


def test_a_text_is_embedded_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.models().embed_text("embedded once")
    monkeypatch.setattr(fakes.FakeEncoder, "embed_texts", None)
    engine.models().embed_text("embedded once")
    with pytest.raises(TypeError):
        engine.models().embed_text("not embedded yet")


def test_a_picture_excites_neurons_by_their_own_measure(engine: Engine, index: Index) -> None:
    found = engine.models().excited(picture(), 4)
    assert found
    assert len(found) <= 4
    network = fakes.network()
    row = network(network.preprocess(picture())[None])[0].detach().numpy()
    for neuron, activation, quantile, heat in found:
        assert heat is None  # a vector has no places
        key = NeuronKey.parse(neuron)
        assert key.layer_key == NET  # the other layer came as arrays
        assert activation == pytest.approx(row[key.neuron], rel=1e-5)
        usual = index.activations(neuron)
        assert 0.0 <= quantile <= 1.0
        assert quantile == pytest.approx((usual < activation).mean(), abs=0.15)
    assert [one.quantile for one in found] == sorted((one.quantile for one in found), reverse=True)


def test_without_a_network_nothing_is_said_of_what_is_excited(arrays: Engine) -> None:
    assert arrays.models().excited(picture(), 3) is None


def test_a_network_that_is_another_by_now_is_left_out(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = fakes.network

    def changed() -> fakes.FakeNetwork:
        made = original()
        made.head.bias.data += 1
        return made

    monkeypatch.setattr(fakes, "network", changed)
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    assert engine.models().excited(picture(), 3) is None
    assert engine.models().excited(picture(), 3) is None
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["no picture runs through net"]


@pytest.mark.parametrize("ask", [lambda e: e.models().embed_text("red"), lambda e: e.models().embed_image(picture())])
def test_an_encoder_that_came_as_arrays_embeds_nothing(arrays: Engine, ask: Callable[[Engine], Any]) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match="came as arrays and reads neither texts nor pictures"):
            ask(arrays)


def test_an_encoder_that_is_another_by_now_is_told_each_time(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SEED", "5")
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    for _ in range(2):
        with pytest.raises(ModelError, match="is not the encoder the index was built with"):
            engine.models().embed_text("quite new")
    assert engine.models().embed_text("red").shape == (fakes.WIDTH,)  # it is in the vocabulary
    with pytest.raises(LabelError, match="'quite new' is not in the vocabulary"):
        engine.models().relabel(LabelQuery((NeuronKey("planted", "words", 0),), candidates=("moon", "quite new")))
    (found,) = engine.models().relabel(LabelQuery((NeuronKey("planted", "words", 0),), candidates=("moon", "striped")))
    assert found["labels"][0]["text"] == "striped"


def test_what_needs_no_encoder_works_on_arrays(arrays: Engine) -> None:
    found = arrays.concepts(LayerKey("m", "l"))
    assert found.method == "mean-centred"
    assert found.alive.tolist() == [True, True, True, False, True, True, True, True]
    assert arrays.models().activations(NeuronKey("m", "l", 3)).max() == 0
    assert arrays.models().vectors_of([5, 0]).shape == (2, 12)


def test_activations_and_vectors_are_those_of_the_index(engine: Engine, index: Index) -> None:
    key = NeuronKey("planted", "words", 2)
    values = engine.models().activations(key)
    np.testing.assert_array_equal(values, index.activations(str(key)))
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 1
    vectors = engine.models().vectors_of([7, 3, 7])
    np.testing.assert_array_equal(vectors[0], vectors[2])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert engine.models().vectors_of([]).shape == (0, fakes.WIDTH)


def test_the_nearest_images_are_those_of_highest_cosine(engine: Engine) -> None:
    everything = engine.models().vectors_of(range(40))
    query = everything[11]
    found = engine.models().nearest_images(query, 5)
    order = sorted(range(40), key=lambda image: (-float(everything[image] @ query), image))
    assert [image for image, _ in found] == order[:5]
    assert found[0] == (11, pytest.approx(1.0, abs=1e-5))
    assert len(engine.models().nearest_images(query, 1000)) == 40


@pytest.mark.parametrize(
    "ask",
    [
        lambda e: e.concepts(LayerKey("net", "none")),
        lambda e: e.models().activations(NeuronKey("net", "none", 0)),
        lambda e: e.models().activations(NeuronKey("net", "concepts", 10)),
        lambda e: e.models().vectors_of([0, 40]),
        lambda e: e.models().vectors_of([-1]),
    ],
)
def test_what_is_not_there_is_missing(engine: Engine, ask: Callable[[Engine], Any]) -> None:
    with pytest.raises(NotFoundError):
        ask(engine)


def test_threads_that_ask_at_once_get_what_one_gets_alone(engine: Engine, index: Index) -> None:
    questions: list[Callable[[Engine], Any]] = [
        lambda e: e.models().embed_text("together").tolist(),
        lambda e: e.models().embed_image(picture(90)).tolist(),
        lambda e: e.models().excited(picture(90), 3),
        lambda e: e.models().activations(NeuronKey("net", "concepts", 1)).tolist(),
        lambda e: e.concepts(NET).vectors.tolist(),
        lambda e: e.models().relabel(LabelQuery((NeuronKey("planted", "words", 1),), "csp", gamma=0.5)),
    ]
    alone = [question(engine) for question in questions]
    fresh = Engine(Snapshot(index.uri), ServiceSettings())
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda question: question(fresh), questions * 6)) == alone * 6


def test_words_of_the_vocabulary_are_candidates_without_the_encoder(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csp_index.models.index_models.Models.held_encoder", None)
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    (found,) = engine.models().relabel(LabelQuery((NeuronKey("planted", "words", 3),), candidates=tuple(WORDS[2:5])))
    assert found["labels"][0]["text"] == "blue"


def test_the_engine_writes_no_file(index: Index, engine: Engine) -> None:
    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path(index.uri).rglob("*") if path.is_file()}

    before = files()
    engine.models().relabel(LabelQuery((NeuronKey("planted", "words", 4),), examples=6))
    engine.models().embed_text("something nobody asked for")
    assert files() == before
