"""Neurons that a picture excites: where in it, which class they push; of a picture sent, and of an indexed image."""

from __future__ import annotations

import io
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from csp_index import NetworkSource, open_index
from csp_index.records import LayerKey, NeuronKey
from csp_index.service import ServiceSettings, make_app
from csp_index.service.documents import excited
from csp_index.service.documents.excited import own_picture, pushed_class
from csp_index.studies.effects.stored_effects import EffectClass, LayerEffects

LAYER = "net/conv"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("excited")
    fakes.write_images(folder / "images", 30)
    index = open_index(folder / "db")
    network = NetworkSource("python:fakes:network", ("conv", "concepts"), name="net")
    index.add_images(folder / "images", encoders=["python:fakes:encoder"], networks=[network])
    index.label(f"{LAYER}/0", "csp", vocabulary=["red", "green", "blue"], templates="none")
    return folder / "db"


@pytest.fixture(scope="module")
def client(db: Path) -> Iterator[TestClient]:
    with TestClient(make_app(db, ServiceSettings(trust=True)), "http://127.0.0.1:8000") as found:
        yield found


def sent(picture: Image.Image) -> dict[str, tuple[str, bytes, str]]:
    data = io.BytesIO()
    picture.save(data, "PNG")
    return {"file": ("own.png", data.getvalue(), "image/png")}


def half_red() -> Image.Image:
    picture = Image.new("RGB", (64, 64), "black")
    picture.paste((255, 40, 0), (0, 0, 64, 32))
    return picture


def test_a_picture_sent_says_where_its_neurons_fire(client):
    reply = client.post("/api/v1/search/image?limit=30", files=sent(half_red()))
    assert reply.status_code == 200, reply.text
    rows = [row for row in reply.json()["excites"] if row["neuron"].startswith(LAYER)]
    assert rows
    network = fakes.network()
    image = network.preprocess(half_red())[None]
    for row in rows:
        where = row["where"]
        assert where is not None and not row["mapped"]
        levels = np.frombuffer(b64decode(where["map"]), np.uint8).reshape(where["height"], where["width"])
        assert levels.max() == 255 and where["box"] == pytest.approx([0, 0, 1, 1], abs=0.02)
        halves = levels[: where["height"] // 2].mean(), levels[where["height"] // 2 :].mean()
        assert halves[0] != pytest.approx(halves[1], rel=0.01)  # the halves of the picture differ, so does the map
        values = network.conv(image)[0, NeuronKey.parse(row["neuron"]).neuron].clamp(min=0).detach()
        assert where["scale"] == pytest.approx(float(values.max()), rel=1e-4)
        assert np.allclose(levels * where["scale"] / 255, values.numpy(), atol=where["scale"] / 250)
    others = [row for row in reply.json()["excites"] if row["neuron"].startswith("net/concepts")]
    assert all(row["where"] is None for row in others)  # a vector has no places


def test_the_page_shows_the_picture_under_its_veils(client):
    page = client.post("/search", files=sent(half_red())).text
    assert 'src="data:image/jpeg;base64,' in page and 'class="veil" src="data:image/png;base64,' in page
    assert "at least as high as on" in page and 'id="veils"' in page


def test_an_indexed_image_says_which_neurons_have_a_map_of_it(client):
    document = client.get("/api/v1/images/3").json()
    conv = [row for row in document["excites"] if row["neuron"].startswith(LAYER)]
    assert conv and all(row["mapped"] and row["where"] is None for row in conv)
    page = client.get("/images/3").text
    assert '/maps/3"' in page
    labels = [row["label"] is not None for row in document["excites"]]
    assert labels == sorted(labels, reverse=True)


def test_a_neuron_pushes_the_class_it_raises_most(monkeypatch):
    classes = tuple(EffectClass(index, name, 5, 0.0, 0.0) for index, name in enumerate(("cat", None, "dog")))
    values = np.array([[0.1, 0.5, np.nan], [-1, -2, -0.5], [np.nan] * 3], np.float32)
    made = LayerEffects(
        LayerKey("m", "l"), "zero", "", 9, None, classes, np.array([0, 2, 3]), np.zeros(3), *[values] * 5
    )
    monkeypatch.setattr(excited, "stored_effects", lambda snapshot, key: made if key.layer == "l" else None)
    pushes = [pushed_class(None, NeuronKey("m", "l", neuron)) for neuron in range(4)]
    assert pushes == [{"class_name": "class 1", "effect": 0.5}, None, None, None]  # 1 is not among them, 2 lowers all
    assert pushed_class(None, NeuronKey("m", "other", 0)) is None


def test_a_small_copy_of_a_picture_is_shown_and_not_enlarged():
    own = own_picture(Image.new("RGBA", (2000, 500)))
    assert own["size"] == (excited.OWN_SIDE, 64)
    assert own_picture(Image.new("RGB", (20, 30)))["size"] == (20, 30)
