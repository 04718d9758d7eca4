"""Errors by meaning: the class that a user meets through the Python interface, the command line and HTTP."""

from __future__ import annotations

import ast
import inspect
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
import torch
from starlette.testclient import TestClient

import csp_index
from csp_index import Index, NetworkSource, errors, open_index
from csp_index.service import ServiceSettings, make_app
from csp_index.service.http.api import fault_of
from csp_index.store import catalog

LAYER = "network/concepts"
WORDS = ["red", "blue"]
FAMILY = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
NETWORK = NetworkSource("python:fakes:network", ("concepts",))


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("errors")
    images = fakes.write_images(folder / "images", 12)
    made = open_index(folder / "db")
    made.add_images(images, encoders=["python:fakes:encoder"], networks=[NETWORK])
    made.label(LAYER, vocabulary=WORDS, templates="none", examples=3, bootstrap=0)
    return folder / "db"


@pytest.fixture
def index(uri: Path) -> Index:
    return open_index(uri)


def label(index: Index, neurons: str, method: str = "csp", **options: Any) -> object:
    given = {"vocabulary": WORDS, "templates": "none", "examples": 3, "bootstrap": 0} | options
    return index.label(neurons, method, **given)


def vary(index: Index, generator: str) -> object:
    return label(index, LAYER, contrast="synthetic", generator=generator, variants=2)


# the family


def test_every_error_is_public_and_a_child_of_one_base() -> None:
    children = {name for name, kind in FAMILY.items() if issubclass(kind, errors.CspIndexError)}
    assert children == set(FAMILY) and children <= set(csp_index.__all__)
    assert all(getattr(csp_index, name) is kind and kind.__doc__ for name, kind in FAMILY.items())
    assert pickle.loads(pickle.dumps(csp_index.NotFoundError("gone"))).args == ("gone",)  # workers send them


def test_no_class_of_the_family_is_unused() -> None:
    package = Path(errors.__file__).parent
    made: set[str] = set()
    for file in package.rglob("*.py"):
        calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        made |= {
            call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "") for call in calls
        }
    assert set(FAMILY) - made == {"CspIndexError"}, "the base itself is never raised"


# what the user names


@pytest.mark.parametrize("address", ["network", "network/concepts/-1", "network/concepts/one", "a/b/c/4", ""])
def test_a_text_that_is_no_address(index: Index, address: str) -> None:
    with pytest.raises(csp_index.AddressError, match="write MODEL/LAYER"):
        index.view(address)
    with pytest.raises(csp_index.AddressError, match="write MODEL/LAYER"):
        label(index, address)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("network/none/0", f"layer network/none is not in the index (has: {LAYER})"),
        (f"{LAYER}/10", f"neuron {LAYER}/10 does not exist: {LAYER} has neurons 0 to 9"),
    ],
)
def test_a_layer_or_neuron_that_is_not_there_is_one_message_everywhere(
    uri: Path, index: Index, address: str, message: str
) -> None:
    ask: list[Callable[[], object]] = [
        lambda: label(index, address),
        lambda: index.view(address),
        lambda: index.activations(address),
        lambda: index.sql(f"FROM activations('{address}')"),
        lambda: index.propose(address, vlm="python:namers:namer"),
    ]
    for question in ask:
        with pytest.raises(csp_index.NotFoundError) as caught:
            question()
        assert str(caught.value) == message
    with TestClient(make_app(uri, ServiceSettings()), "http://localhost") as client:
        page = client.get(f"/api/v1/neurons/{address}")
        relabelled = client.post("/api/v1/label", json={"neurons": [address]})
    for reply in (page, relabelled):
        assert reply.status_code == 404 and reply.json()["error"]["type"] == "missing"
        assert reply.json()["error"]["message"] == message


def test_an_encoder_that_is_not_there(index: Index) -> None:
    with pytest.raises(
        csp_index.NotFoundError, match=r"encoder 'clip' is not in the index \(has: python:fakes:encoder\)"
    ):
        catalog.encoder(index.store, "clip")


def test_the_rest_of_the_family_by_meaning(index: Index, tmp_path: Path) -> None:
    nowhere, images = tmp_path / "nowhere", fakes.write_images(tmp_path / "images", 2)
    cases: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (csp_index.LabelError, "is unknown", lambda: label(index, LAYER, "guess")),
        (csp_index.SettingError, "option 'exmples' is unknown", lambda: label(index, LAYER, exmples=3)),
        (csp_index.SettingError, "top is 0", lambda: label(index, LAYER, top=0)),
        (
            csp_index.SettingError,
            "device 'gpu' is unknown",
            lambda: open_index(tmp_path / "db", device="gpu").add_images(
                images, encoders=["python:fakes:encoder"], networks=[NETWORK]
            ),
        ),
        (csp_index.SourceError, "does not exist", lambda: index.add_images(nowhere)),
        (csp_index.ArrayError, "does not exist", lambda: index.import_arrays(nowhere / "a.npy", "m/l")),
        (csp_index.StoreError, "no index at", lambda: open_index(nowhere).labels()),
        (csp_index.QueryError, "is refused", lambda: index.sql("DROP TABLE images")),
        (csp_index.ProposerError, "names no model", lambda: index.propose(LAYER, vlm="nothing")),
        (
            csp_index.EvaluationError,
            "held-out share is 2",
            lambda: index.evaluate(LAYER, csp_index.EvaluationOptions(held_out=2)),
        ),
    ]
    for kind, message, question in cases:
        with pytest.raises(kind, match=message) as caught:
            question()
        assert type(caught.value) is kind, message


# models and generators


@pytest.mark.parametrize("broken", ["encoder", "network"])
def test_a_model_that_returns_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    model: Any = getattr(fakes, broken)()
    weights = model._projection if broken == "encoder" else model.head.bias.data
    weights[:] = torch.nan
    monkeypatch.setattr(fakes, broken, lambda: model)
    images = fakes.write_images(tmp_path / "images", 4)
    with pytest.raises(csp_index.ModelError, match=r"gave values that are not finite, first near .*\.png: check"):
        open_index(tmp_path / "db").add_images(images, encoders=["python:fakes:encoder"], networks=[NETWORK])


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    images = fakes.write_images(tmp_path / "images", 4)
    for encoder, network in (
        ("python:fakes:nothing", NETWORK),
        ("python:fakes:encoder", NetworkSource("resnet", ("x",))),
    ):
        with pytest.raises(csp_index.ModelError):
            open_index(tmp_path / "db").add_images(images, encoders=[encoder], networks=[network])


def test_labelling_with_a_generator_never_ends_in_an_evaluation_error(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    for generator in ("sd15", "python:fakes:network", "python:fakes:painter", "diffusers:./nowhere"):
        with pytest.raises(csp_index.GeneratorError):
            vary(index, generator)
    monkeypatch.setattr(fakes.Shader, "variants", lambda *_: 1 / 0)
    with pytest.raises(csp_index.GeneratorError, match=r"the generator shader fails on image .*: ZeroDivisionError"):
        vary(index, "python:fakes:shader")


def test_a_model_that_returns_nan_on_variants(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fakes.FakeEncoder.embed_images
    monkeypatch.setattr(fakes.FakeEncoder, "embed_images", lambda self, pixels: plain(self, pixels) * torch.nan)
    with pytest.raises(csp_index.ModelError, match="not finite on variants: check the models"):
        vary(index, "python:fakes:shader")


# command line and HTTP


@pytest.mark.parametrize(
    ("layer", "neurons", "message"),
    [
        ("network", "all", "layer 'network' is not an address: write MODEL/LAYER, for example resnet50/layer4"),
        ("network/none", "all", f"layer network/none is not in the index (has: {LAYER})"),
        (LAYER, "10", f"neuron {LAYER}/10 does not exist: {LAYER} has neurons 0 to 9"),
        (LAYER, "ten", "neurons 'ten' are not understood: write all, 0,5,9 or 10-20"),
    ],
)
def test_the_command_line_exits_with_one_line(run: Any, uri: Path, layer: str, neurons: str, message: str) -> None:
    said = run("label", uri, "--layer", layer, "--neurons", neurons)
    assert (said.status, said.out, said.err) == (1, "", f"Error: {message}\n")


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (csp_index.NotFoundError, 404),
        (csp_index.AddressError, 400),
        (csp_index.SettingError, 400),
        (csp_index.LabelError, 400),
        (csp_index.QueryError, 400),
        (csp_index.SourceError, 400),
        (csp_index.ModelError, 400),
        (csp_index.StudyError, 400),
        (csp_index.BusyError, 503),
        (csp_index.StoppedError, 503),
        (csp_index.StoreError, 503),
        (csp_index.ArrayError, 503),
    ],
)
def test_the_class_decides_the_http_status(kind: type[Exception], status: int) -> None:
    fault = fault_of(kind("what went wrong"))
    assert fault.status == status
    assert (fault.message == "what went wrong") == (kind not in (csp_index.StoreError, csp_index.ArrayError))
