"""The pages of compared layers, their twins, and the API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from compared import make_compared
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    index = make_compared(tmp_path_factory.mktemp("compared"))
    index.compare("a/l", "permuted/l", vocabulary=["red", "blue"])
    index.compare("alone/l", "a/l")
    index.note("a/l/1", "rename", "a name", by="ann")  # after they were compared
    with TestClient(make_app(index.uri, ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def test_the_list_leads_to_each_comparison(client: TestClient) -> None:
    seen = page_at(client, "/matches")
    links = [link["href"] for link in seen.all("a") if (link["href"] or "").startswith("/matches/")]
    assert len(links) == 2
    listed = client.get("/api/v1/matches").json()
    assert listed == client.get("/matches.json").json()
    assert [row["first"] for row in listed["comparisons"]] == ["alone/l", "a/l"]  # the newest first
    assert links == [f"/matches/{row['id']}" for row in listed["comparisons"]]
    assert [way["by"] for way in listed["comparisons"][0]["ways"]] == ["concepts", "activations"]
    assert "/matches" in [link["href"] for link in page_at(client, "/compare").all("a")]


def test_a_page_shows_its_pairs_chart_and_nulls(client: TestClient) -> None:
    name = client.get("/matches.json").json()["comparisons"][1]["id"]
    seen = page_at(client, f"/matches/{name}")
    twin = next(link["href"] for link in seen.all("a") if ".json?" in (link["href"] or ""))
    document = client.get(twin).json()
    assert document == client.get(f"/api/v1/matches/{name}").json()
    assert sum(document["chart"]["counts"]) == document["total"] == len(document["pairs"]) == 11
    assert document["chart"]["counts"][-1] == 11
    held = document["coverage"]
    sentence = (
        f"Of the 2 texts of a list, {held['held']} are labels of neurons in a/l, {held['other_held']} in permuted/l,"
    )
    assert sentence in "".join(seen.text)
    assert seen.all("rect") and len(seen.all("line")) == 1
    assert [row["label"] for row in document["pairs"] if row["neuron"] == 1] == ["a name"]
    row = document["pairs"][0]
    assert f"/neurons/a/l/{row['neuron']}" in [link["href"] for link in seen.all("a")]


def test_pairs_come_page_by_page_and_by_each_measure(client: TestClient) -> None:
    name = client.get("/matches.json").json()["comparisons"][1]["id"]
    first = page_at(client, f"/matches/{name}?by=activations&limit=6")
    following = next(link["href"] for link in first.all("a") if link.get("rel") == "next")
    assert "by=activations" in (following or "") and "start=6" in (following or "")
    rest = client.get((following or "").replace("?", ".json?")).json()
    assert len(rest["pairs"]) == 5 and rest["by"] == "activations"


def test_what_is_not_there(client: TestClient) -> None:
    page_at(client, "/matches/0123456789ab", 404)
    page_at(client, "/matches/nothing", 422)
    name = client.get("/matches.json").json()["comparisons"][0]["id"]
    assert client.get(f"/api/v1/matches/{name}?by=color").status_code == 422
    assert client.get(f"/api/v1/matches/{name}?limit=100000").status_code == 422
