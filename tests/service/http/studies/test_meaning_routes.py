"""The page of a layer's meanings, its twin, the API; facets and formula on the page of a neuron."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from meant import LAYER, LOOKS, OBJECTS, TWO, make_meant, texts
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    index = make_meant(tmp_path_factory.mktemp("meant"))
    index.label(LAYER, "csp", vocabulary=texts(), bootstrap=0)
    index.facets(LAYER, vocabulary=texts())
    index.formulas(LAYER, vocabulary=texts())
    with TestClient(make_app(index.uri, ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def test_the_page_lists_neurons_that_one_label_does_not_tell(client: TestClient) -> None:
    seen = page_at(client, f"/meanings/{LAYER}")
    document = client.get(f"/meanings/{LAYER}.json").json()
    assert document == client.get(f"/api/v1/meanings/{LAYER}?limit=20").json()
    assert (document["several"], document["divided"], document["kept"]) == (len(TWO), 10, len(TWO))
    numbers = {f"{LAYER}/{number}" for number in range(len(OBJECTS), len(OBJECTS) + len(TWO))}
    assert {one["neuron"] for one in document["neurons"]} == {one["neuron"] for one in document["formulas"]} == numbers
    assert document["made_of"] in "".join(seen.text) and "@" not in document["made_of"]
    links = [link["href"] for link in seen.all("a")]
    assert {f"/neurons/{number}" for number in numbers} <= set(links)
    facet = document["neurons"][0]["facets"][0]
    assert facet["label"] in OBJECTS and len(facet["images"]) == 6 and facet["images"][0]["name"].endswith(".png")
    assert f"/meanings/{LAYER}" in [link["href"] for link in page_at(client, f"/layers/{LAYER}").all("a")]


def test_it_begins_with_how_many_of_which_kind(client: TestClient) -> None:
    words = " ".join("".join(page_at(client, f"/meanings/{LAYER}").text).split())
    kinds = f"{len(TWO)} of 10 neurons respond to several things; logical labels tell {len(TWO)} of 10 better than one"
    assert kinds in words and words.count("below each image is its activation") == 1


def test_they_come_page_by_page(client: TestClient) -> None:
    first = page_at(client, f"/meanings/{LAYER}?limit=2")
    following = next(link["href"] for link in first.all("a") if link.get("rel") == "next")
    rest = client.get(following.replace("?", ".json?")).json()
    assert len(rest["neurons"]) == len(rest["formulas"]) == 1


def test_a_neurons_page_has_its_facets_and_formula(client: TestClient) -> None:
    document = client.get(f"/api/v1/neurons/{LAYER}/6").json()
    assert document["facets_stored"] and document["facets_note"] == ""
    assert {one["label"] for one in document["facets"]} == {"ant", "bee"}
    assert document["formula"]["kept"] and set(document["formula"]["terms"]) == {"ant", "bee"}
    seen = page_at(client, f"/neurons/{LAYER}/6")
    assert f"Concepts are {document['formula']['made_of']}." in "".join(seen.text)
    assert f"/meanings/{LAYER}" in [link["href"] for link in seen.all("a")]
    single = client.get(f"/api/v1/neurons/{LAYER}/0").json()
    assert len(single["facets"]) == 1 and single["facets"][0]["label"] == single["label"]
    dead = client.get(f"/api/v1/neurons/{LAYER}/9").json()
    assert dead["facets"] == [] and dead["facets_stored"] and dead["formula"] is None
    page_at(client, f"/neurons/{LAYER}/9")


def test_what_is_not_there(client: TestClient, tmp_path_factory: pytest.TempPathFactory) -> None:
    page_at(client, "/meanings/m/other", 404)
    assert client.get(f"/api/v1/meanings/{LAYER}?start=-1").status_code == 422
    bare = make_meant(tmp_path_factory.mktemp("bare"))
    with TestClient(make_app(bare.uri, ServiceSettings()), base_url="http://127.0.0.1") as other:
        assert (
            "run `csp-index facets DB --layer m/l`" in other.get(f"/api/v1/meanings/{LAYER}").json()["error"]["message"]
        )
        assert not other.get(f"/api/v1/neurons/{LAYER}/6").json()["facets_stored"]
    assert not set(LOOKS) & {one["formula"] for one in client.get(f"/meanings/{LAYER}.json").json()["formulas"]}
