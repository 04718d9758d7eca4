"""Effects in the explorer: a neuron's section, the gallery's order, the page of a layer's classes, the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakes
import numpy as np
import pytest
from pydantic import TypeAdapter
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index import NetworkSource, open_index
from csp_index.service import ServiceSettings, make_app
from csp_index.service.documents.studies.effect_shapes import EffectsDocument, NeuronEffects
from csp_index.studies.effects.stored_effects import LayerEffects

LAYER = "net/conv"
NAMES = ["<b>plain</b>", *(f"n{number}" for number in range(1, 4))]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("effects")
    index = open_index(folder / "db", device="cpu")
    source = NetworkSource("python:ablated:colors", ("conv", "concepts"), name="net")
    photos = fakes.write_images(folder / "photos", 24)
    index.add_images(photos, encoders=["python:fakes:encoder"], networks=[source])
    index.effects([f"{LAYER}/{neuron}" for neuron in range(5)], head="head", class_names=NAMES)
    return folder / "db"


@pytest.fixture(scope="module")
def effects(db: Path) -> LayerEffects:
    return open_index(db).effects([f"{LAYER}/{neuron}" for neuron in range(5)], head="head")


@pytest.fixture(scope="module")
def client(db: Path) -> Iterator[TestClient]:
    yield TestClient(
        make_app(db, ServiceSettings()), base_url="http://localhost"
    )  # not started: it loads models only when asked for what needs them


def test_a_neurons_page_shows_its_effects(client: TestClient, effects: LayerEffects) -> None:
    page_at(client, f"/neurons/{LAYER}/2")
    page = client.get(f"/neurons/{LAYER}/2")
    assert (
        "Effect on the output" in page.text
        and "<b>plain" not in page.text
        and "exact: the weights of head" in page.text
    )
    document = client.get(f"/neurons/{LAYER}/2.json").json()["effects"]
    assert document["exact"] and document["neuron"] == f"{LAYER}/2"
    assert [row["class_index"] for row in document["effects"]] == effects.strongest(2, 10)
    assert client.get(f"/neurons/{LAYER}/5.json").json()["effects"] is None
    assert "Effect on the output" not in client.get(f"/neurons/{LAYER}/5").text


def test_the_gallery_is_sorted_by_the_largest_effect(client: TestClient, effects: LayerEffects) -> None:
    document = client.get(f"/layers/{LAYER}.json", params={"sort": "effect", "order": "desc"}).json()
    values, classes = effects.peaks()
    order = np.argsort(-np.abs(values), kind="stable").tolist()
    assert [row["index"] for row in document["neurons"]] == [*order, 5]
    first = document["neurons"][0]
    assert first["effect"] == pytest.approx(values[order[0]]) and first["effect_on"] == NAMES[classes[order[0]]]
    assert document["neurons"][-1]["effect"] is None and document["has_effects"]
    page_at(client, f"/layers/{LAYER}")
    page = client.get(f"/layers/{LAYER}").text
    assert f"/effects/{LAYER}" in page
    assert "/effects/net/concepts" not in client.get("/layers/net/concepts").text


def test_the_page_of_a_layers_effects_and_its_twin(client: TestClient, effects: LayerEffects) -> None:
    page_at(client, f"/effects/{LAYER}")
    page = client.get(f"/effects/{LAYER}")
    assert "&lt;b&gt;plain" in page.text
    twin = client.get(f"/effects/{LAYER}.json").json()
    TypeAdapter(EffectsDocument).validate_python(twin)
    assert (twin["total"], twin["neurons"], len(twin["classes"])) == (4, 5, 4)
    present = next(one for one in twin["classes"] if one["images"])
    column = effects.effects[:, present["class_index"]]
    raising = [f"{LAYER}/{neuron}" for neuron in np.argsort(-column, kind="stable") if column[neuron] > 0]
    assert [row["neuron"] for row in present["raises"]] == raising
    assert {row["neuron"] for row in present["lowers"]} == {f"{LAYER}/{n}" for n in range(5)} - set(raising)
    alone = client.get(f"/effects/{LAYER}.json", params={"class_index": 3}).json()
    assert [one["class_index"] for one in alone["classes"]] == [3]
    page_at(client, f"/effects/{LAYER}?start=1&limit=1")
    some = client.get(f"/effects/{LAYER}", params={"start": 1, "limit": 1}).text
    assert "limit=1&amp;start=2" in some and 'rel="prev" href="/effects/net/conv?limit=1"' in some


def test_the_api(client: TestClient) -> None:
    found = client.get(f"/api/v1/neurons/{LAYER}/1/effects").json()
    TypeAdapter(NeuronEffects).validate_python(found)
    assert found["classes"] == 4
    TypeAdapter(EffectsDocument).validate_python(client.get(f"/api/v1/effects/{LAYER}").json())
    for address in (f"/api/v1/neurons/{LAYER}/5/effects", "/api/v1/effects/net/concepts", "/effects/net/concepts"):
        answer = client.get(address)
        assert answer.status_code == 404 and "csp-index effects DB --layer" in answer.text
    missing = client.get(f"/api/v1/effects/{LAYER}", params={"class_index": 4})
    assert missing.status_code == 404 and "class 4 is not among the 4 logits of net" in missing.text
