"""The page of labels by broader words, its twin, and the API."""

from __future__ import annotations

from collections.abc import Iterator

import families
import pytest
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings

PAGE = "/hierarchy/net/pooled"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("families")
    index = families.make_families(folder)
    index.hierarchy(families.LAYER, families.write_table(folder / "<b>animals.csv"), vocabulary=families.words())
    with TestClient(make_app(index.uri, ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def test_the_layer_leads_to_its_words(client: TestClient) -> None:
    assert PAGE in [link["href"] for link in page_at(client, "/layers/net/pooled").all("a")]
    document = client.get(f"{PAGE}.json").json()
    assert document == client.get("/api/v1/hierarchy/net/pooled").json()
    assert document["word"] is None and not document["stale"]
    (group,) = document["groups"]
    assert (group["title"], group["neurons"], group["narrower"]) == ("animal", 4, ["dog"])
    assert [row["label"] for row in document["neurons"]] == ["tractor"], "outside the hierarchy"
    assert document["states"] == {"climbed": 2, "kept": 1, "unexplained": 1, "unknown": 1, "unlabelled": 0}
    links = [link["href"] for link in page_at(client, PAGE).all("a")]
    assert f"{PAGE}?word={group['word']}" in links and "/neurons/net/pooled/4" in links


def test_a_word_has_its_groups_and_neurons(client: TestClient) -> None:
    (animal,) = client.get(f"{PAGE}.json").json()["groups"]
    (dog,) = client.get(f"{PAGE}.json?word={animal['word']}").json()["groups"]
    document = client.get(f"{PAGE}.json?word={dog['word']}").json()
    assert [one["title"] for one in document["broader"]] == ["animal"]
    assert [one["title"] for one in document["groups"]] == ["beagle", "poodle"]
    (row,) = document["neurons"]
    assert (row["neuron"], row["label"], row["steps"], row["ended_at"]) == ("net/pooled/0", "poodle", 1, "animal")
    assert row["level_correlation"] > row["correlation"]
    seen = page_at(client, f"{PAGE}?word={dog['word']}")
    assert f"{PAGE}?word={animal['word']}" in [link["href"] for link in seen.all("a")]


def test_what_is_not_there(client: TestClient) -> None:
    page_at(client, f"{PAGE}?word=99", 404)
    page_at(client, f"{PAGE}?word=-1", 422)
    page_at(client, "/hierarchy/net/other", 404)
