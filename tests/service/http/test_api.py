"""The API's routes: documents are what the OpenAPI says, pages follow each other, wrong requests are told so."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter
from starlette.testclient import TestClient

from csp_index import open_index
from csp_index.service import ServiceSettings, make_app
from csp_index.service.documents import manual, map_shapes, neuron_shapes, shapes
from csp_index.service.documents.concepts import concept_shapes
from csp_index.service.documents.layers import overview_shapes
from csp_index.service.documents.studies import class_shapes
from csp_index.service.http.addresses import concept_href

LAYER = "cnn/concepts"


@pytest.fixture(scope="module")
def client(served_db: Path) -> Iterator[TestClient]:
    app = make_app(served_db, ServiceSettings(upload_pixels=10_000))
    with TestClient(app, "http://localhost", raise_server_exceptions=False) as found:
        yield found


def picture(side: int = 64, kind: str = "PNG") -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(made, kind)
    return made.getvalue()


def strip(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def held_to(shape: Any, reply: Any) -> Any:
    """Return a document that has a shape, key by key: nothing of another type, nothing more, nothing left out."""
    assert reply.status_code == 200, reply.text
    adapter = TypeAdapter(shape)
    checked = adapter.validate_json(reply.content, strict=True)
    assert json.loads(adapter.dump_json(checked)) == reply.json()
    return reply.json()


def test_the_index_and_its_layers(client):
    home = held_to(shapes.HomeDocument, client.get("/api/v1/index"))
    assert (home["name"], home["networks"]) == ("served.db", ["cnn"]) and home["images"] > 200
    layers = held_to(shapes.LayersDocument, client.get("/api/v1/layers"))["layers"]
    assert layers == home["layers"]
    assert [(layer["layer"], layer["methods"]) for layer in layers] == [(LAYER, ["consensus", "csp"])]


def test_the_twins_of_pages_have_their_shapes(client):
    layer = held_to(shapes.LayerDocument, client.get(f"/layers/{LAYER}.json", params={"sort": "score", "limit": 5}))
    assert layer["query"]["sort"] == "score" and len(layer["neurons"]) == 5
    held_to(shapes.MapDocument, client.get(f"/layers/{LAYER}/map.json"))
    held_to(overview_shapes.GroupsDocument, client.get(f"/layers/{LAYER}/labels.json"))
    compared = {"neurons": [f"{LAYER}/1", f"{LAYER}/2"]}
    assert len(held_to(neuron_shapes.CompareDocument, client.get("/compare.json", params=compared))["own"]) == 2
    held_to(manual.ManualDocument, client.get("/docs/methods.json"))
    adapter = TypeAdapter(shapes.SqlSchemaDocument)
    twin = client.get("/sql.json").json()
    assert adapter.validate_python(twin, strict=True) | {"enabled": True} == twin
    for query in ({"image_id": 3}, {"neuron": f"{LAYER}/3"}):
        held_to(shapes.SearchDocument, client.get("/search.json", params=query))


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_every_neuron_has_a_document_of_one_form(client, step):
    count = client.get("/api/v1/layers").json()["layers"][0]["neurons"]
    states = set()
    for number in range(0, count, step):
        told = held_to(neuron_shapes.NeuronDocument, client.get(f"/api/v1/neurons/{LAYER}/{number}"))
        assert told["neuron"] == f"{LAYER}/{number}"
        states.add(told["state"])
    assert {"labelled", "dead"} <= states


def test_where_a_neuron_looks(client):
    place = f"/api/v1/neurons/{LAYER}/3/maps"
    told = held_to(map_shapes.ComputedMapsDocument, client.post(place, json={"images": [5, 2]}))
    assert told["made"] == "gradients" and [row["image_id"] for row in told["images"]] == [5, 2]
    assert client.get(place).status_code == 404  # nothing was stored
    for wrong in ([], list(range(17)), [-1], [True], ["2"]):
        assert client.post(place, json={"images": wrong}).status_code == 422
    assert client.post(place, json={"images": [999_999]}).status_code == 404


def test_a_word_and_the_neurons_that_answer_to_it(client):
    labels = held_to(concept_shapes.WordsDocument, client.get("/concepts.json"))
    word = labels["words"][0]["text"]
    told = held_to(concept_shapes.ConceptDocument, client.get("/api/v1/concepts", params={"q": word, "limit": 3}))
    assert told == client.get(concept_href(word, ".json"), params={"limit": 3}).json()
    assert told == client.get("/concepts.json", params={"q": word, "limit": 3}).json()
    assert {row["label"] for row in told["labeled"]} == {word} and len(told["labeled"]) <= 3
    assert told["layers"][0]["labeled"] == labels["words"][0]["neurons"]
    for wrong in ("", "x" * 301, " "):
        assert client.get("/api/v1/concepts", params={"q": wrong}).status_code in (400, 422)


def test_classes_and_their_neurons(client):
    every = held_to(class_shapes.ClassesDocument, client.get(f"/api/v1/classes/{LAYER}"))
    assert every == client.get(f"/classes/{LAYER}.json", params={"by": "concepts"}).json()
    row = max((row for row in every["classes"] if row["names_class"]), key=lambda row: row["auroc"])
    asked = {"name": row["class_name"], "by": "concepts", "limit": 3}
    one = held_to(class_shapes.ClassDocument, client.get(f"/api/v1/class/{LAYER}", params=asked))
    assert 1 <= len(one["neurons"]) <= 3 and one["neurons"][0]["neuron"]["neuron"] == row["best"]
    assert one["neurons"][0]["auroc"] == row["auroc"] > 0.9 and row["best"] in [n["neuron"] for n in one["saying"]]
    of_one = held_to(class_shapes.NeuronClassesDocument, client.get(f"/api/v1/neurons/{row['best']}/classes"))
    assert of_one["classes"][0]["class_name"] == row["class_name"] and len(of_one["classes"]) == len(every["classes"])
    page = client.get(f"/api/v1/neurons/{row['best']}").json()
    assert page["classes"][0]["best"][0] == of_one["classes"][0]
    sorted_by = {"layer": LAYER, "sort": "auroc", "order": "desc", "class_name": row["class_name"], "by": "concepts"}
    listed = client.get("/api/v1/neurons", params=sorted_by).json()["neurons"]
    assert listed[0]["neuron"] == row["best"] and listed[0]["auroc"] == row["auroc"]
    assert [one["auroc"] for one in listed] == sorted((one["auroc"] for one in listed), reverse=True)
    highest = client.get("/api/v1/neurons", params={"layer": LAYER, "sort": "auroc", "order": "desc"}).json()["neurons"]
    assert highest[0]["auroc"] == max(row["auroc"] for row in every["classes"]) and highest[0]["auroc_on"]
    assert client.get("/api/v1/neurons", params=sorted_by | {"class_name": "no such"}).status_code == 404
    for address, wrong in (("classes", {"by": "kind"}), ("class", {"name": "no such"}), ("class", {})):
        assert client.get(f"/api/v1/{address}/{LAYER}", params=wrong).status_code in (404, 422)


def test_a_neuron_by_another_method(client, served_db):
    stored = open_index(served_db).labels(LAYER, method="csp").rows()
    told = client.get(f"/api/v1/neurons/{stored[0]['neuron']}", params={"method": "csp"}).json()
    assert (told["label"], told["method"]) == (stored[0]["text"], "csp")
    assert client.get(f"/api/v1/neurons/{LAYER}/3?method=no-such").status_code in (400, 404)


@pytest.mark.parametrize(
    "sort",
    [
        "index",
        "label",
        "score",
        "lead",
        "confidence",
        "probability",
        "firing_rate",
        "clarity",
        "effect",
        "auroc",
        "max",
    ],
)
def test_pages_of_neurons_follow_each_other(client, sort):
    everything = held_to(shapes.NeuronsDocument, client.get("/api/v1/neurons", params={"layer": LAYER, "limit": 200}))
    found, cursor = [], None
    for _ in range(20):
        asked = {"layer": LAYER, "sort": sort, "order": "desc", "limit": 7} | ({"cursor": cursor} if cursor else {})
        page = held_to(shapes.NeuronsDocument, client.get("/api/v1/neurons", params=asked))
        found += [row["neuron"] for row in page["neurons"]]
        if (cursor := page["next"]) is None:
            break
    assert len(found) == len(set(found)) == everything["total"] == page["total"]
    assert set(found) == {row["neuron"] for row in everything["neurons"]}


def test_neurons_are_filtered(client):
    for state in ("labelled", "unlabelled", "dead", "uncertain"):
        held_to(shapes.NeuronsDocument, client.get("/api/v1/neurons", params={"layer": LAYER, "state": state}))
    row = client.get("/api/v1/neurons", params={"layer": LAYER, "state": "labelled"}).json()["neurons"][0]
    found = client.get("/api/v1/neurons", params={"layer": LAYER, "q": row["label"].upper()}).json()
    assert row["neuron"] in [one["neuron"] for one in found["neurons"]]


def test_search_by_text_and_by_picture(client):
    found = held_to(shapes.SearchDocument, client.get("/api/v1/search", params={"q": "red", "limit": 3}))
    assert found["query"]["kind"] == "text" and len(found["means"]) == 3
    reply = client.post("/api/v1/search/image?limit=3", files={"file": ("a.png", picture(), "image/png")})
    found = held_to(shapes.SearchDocument, reply)
    assert found["query"]["kind"] == "upload" and len(found["means"]) == 3 >= len(found["excites"]) > 0


def test_an_image_and_its_thumbnail(client):
    assert held_to(shapes.ImageDocument, client.get("/api/v1/images/3"))["image_id"] == 3
    reply = client.get("/api/v1/images/3/thumbnail")
    assert Image.open(io.BytesIO(reply.content)).format == "JPEG"


@pytest.mark.parametrize("method", ["csp", "consensus"])
def test_labels_anew_are_those_that_the_index_makes(client, served_db, method):
    neurons = [f"{LAYER}/3", f"{LAYER}/0"]
    asked = {"neurons": neurons, "method": method, "examples": 10, "contrast": "nearest"}
    told = held_to(neuron_shapes.LabelDocument, client.post("/api/v1/label", json=asked))
    assert [one["neuron"] for one in told["results"]] == neurons
    copy = open_index(served_db).labels(LAYER, method=method).rows()
    stored = {row["neuron"]: row["text"] for row in copy[:8]}
    again = client.post("/api/v1/label", json={"neurons": list(stored), "method": method, "top": 1}).json()["results"]
    assert {one["neuron"]: one["labels"][0]["text"] for one in again} == stored


def test_own_candidates(client):
    asked = {"neurons": [f"{LAYER}/3"], "candidates": ["a red thing", "something else"]}
    told = held_to(neuron_shapes.LabelDocument, client.post("/api/v1/label", json=asked))
    assert {one["text"] for one in told["results"][0]["labels"]} == set(asked["candidates"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"neurons": []},
        {"neurons": ["cnn/concepts"]},
        {"neurons": [f"{LAYER}/3"] * 1000},
        {"neurons": [f"{LAYER}/3"], "method": "guess"},
        {"neurons": [f"{LAYER}/3"], "gamma": 2},
        {"neurons": [f"{LAYER}/3"], "gamma": "much"},
        {"neurons": [f"{LAYER}/3"], "examples": 0},
        {"neurons": [f"{LAYER}/3"], "examples": True},
        {"neurons": [f"{LAYER}/3"], "examples": "5"},
        {"neurons": [f"{LAYER}/3"], "contrast": "telepathy"},
        {"neurons": [f"{LAYER}/3"], "threshold": "low"},
        {"neurons": [f"{LAYER}/3"], "candidates": []},
        {"neurons": [f"{LAYER}/3"], "candidates": ["x" * 5000]},
        {"neurons": [f"{LAYER}/3"], "candidates": ["same", "same"], "top": 0},
        {"neurons": [f"{LAYER}/3"], "colour": "red"},
    ],
)
def test_labels_that_cannot_be_made_are_told_so(client, wrong):
    reply = client.post("/api/v1/label", json=wrong)
    assert reply.status_code in (400, 422), reply.text
    assert reply.json()["error"]["message"]


def test_derived_contrast_that_the_index_does_not_hold_is_not_made(client):
    reply = client.post("/api/v1/label", json={"neurons": [f"{LAYER}/3"], "contrast": "synthetic"})
    assert reply.status_code == 400 and reply.json()["error"]["type"] in ("label", "setting")


def test_sql(client):
    asked = {"sql": "SELECT model, count(*) AS neurons, 1e308 * 10 AS endless FROM neurons GROUP BY model"}
    told = held_to(shapes.SqlDocument, client.post("/api/v1/sql", json=asked))
    assert told["columns"] == ["model", "neurons", "endless"]
    assert told["rows"][0][0] == "cnn" and told["rows"][0][2] is None
    reply = client.post("/api/v1/sql", json={"sql": "SELECT * FROM read_csv('/etc/passwd')"})
    assert reply.status_code == 400 and "root:" not in reply.text


@pytest.mark.parametrize(
    "data",
    [b"", b"no picture", b"<svg xmlns='http://www.w3.org/2000/svg'/>", picture()[:60], picture(101), strip(9_999, 1)],
)
def test_what_is_no_picture_or_too_large_is_told_so(client, data):
    reply = client.post("/api/v1/search/image", files={"file": ("a.png", data, "image/png")})
    assert (reply.status_code, reply.json()["error"]["type"]) == (400, "picture")


def test_the_openapi_tells_every_route_with_examples(client):
    told = client.get("/openapi.json").json()
    studies = {"audit", "classes", "class", "effects", "evolution", "hierarchy", "matches", "meanings"}
    studies |= {"notes", "rate", "ratings", "review"}
    others = {path for path in told["paths"] if path.removeprefix("/api/v1/").split("/")[0] not in studies}
    assert others == {
        "/api/v1/concepts",
        "/api/v1/index",
        "/api/v1/layers",
        "/api/v1/layers/{model}/{layer}/map",
        "/api/v1/neurons",
        "/api/v1/neurons/{model}/{layer}/{index}",
        "/api/v1/neurons/{model}/{layer}/{index}/classes",
        "/api/v1/neurons/{model}/{layer}/{index}/effects",
        "/api/v1/neurons/{model}/{layer}/{index}/maps",
        "/api/v1/neurons/{model}/{layer}/{index}/maps/{image_id}",
        "/api/v1/search",
        "/api/v1/search/image",
        "/api/v1/images/{image_id}",
        "/api/v1/images/{image_id}/thumbnail",
        "/images/{image_id}/original",
        "/api/v1/label",
        "/api/v1/sql",
        "/api/v1/version",
        "/healthz",
        "/readyz",
    }
    assert {path.removeprefix("/api/v1/").split("/")[0] for path in set(told["paths"]) - others} == studies
    schemas = told["components"]["schemas"]
    for name in ("LabelBody", "SqlBody", "SqlDocument", "Problem"):
        assert "examples" in json.dumps(schemas[name])
    for path, route in told["paths"].items():
        for call in route.values():
            answers = call["responses"]
            assert path.startswith(("/healthz", "/readyz")) or answers["503"]["content"]["application/json"]
            assert "HTTPValidationError" not in json.dumps(call)
