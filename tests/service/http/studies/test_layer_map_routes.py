"""The page of a layer's map, its twin, its cards, and the API: with a stored map, and with the plane in its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import mapped
import numpy as np
import pytest
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index.query import planes
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings

PAGE = f"/layers/{mapped.LAYER}/map"
API = f"/api/v1/layers/{mapped.LAYER}/map"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    index = mapped.make_mapped(folder)
    index.note(f"{mapped.LAYER}/9", "rename", "<b>puss</b>", by="ann")
    np.save(folder / "other.npy", np.load(folder / "A.npy")[:, :12])
    index.import_arrays(folder / "other.npy", "net/other")
    with pytest.MonkeyPatch.context() as patch:
        mapped.without_umap(patch)
        index.make_map(mapped.LAYER, cluster_size=4)
    return folder


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    with TestClient(make_app(str(folder / "db"), ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def test_the_layer_leads_to_its_map_which_says_how_it_was_made(client: TestClient) -> None:
    assert PAGE in [link["href"] for link in page_at(client, f"/layers/{mapped.LAYER}").all("a")]
    seen = page_at(client, PAGE)
    text = " ".join(seen.text)
    assert "Places by UMAP of the concept vectors" in text and "how far apart distant groups lie says little" in text
    assert "1 neurons that never fire" in text and "csp-index map DB" not in text
    names = [link["href"] for link in seen.all("a") if "cluster=" in link["href"]]
    assert names == [f"{PAGE}?cluster={one}&colour=cluster" for one in range(3)]
    assert f"{PAGE}.json?colour=cluster" in [link["href"] for link in seen.all("a")]


def test_the_document_has_places_clusters_and_first_pictures(client: TestClient) -> None:
    document = client.get(f"{PAGE}.json?colour=cluster").json()
    assert document == client.get(f"{API}?colour=cluster").json()
    assert (document["by"], document["about"], document["unclustered"]) == ("umap", "", 0)
    assert [one["name"] for one in document["clusters"]] == ["dog", "cat", "car"]
    assert document["clusters"][0]["labels"] == ["dog"]
    points = {one["index"]: one for one in document["points"]}
    assert sorted(points) == list(range(mapped.DEAD))
    assert points[9]["label"] == "<b>puss</b>" and points[9]["cluster"] == points[9]["value"] == 1
    assert all(one["image"] is not None and 0 <= one["x"] <= 1 and 0 <= one["y"] <= 1 for one in points.values())
    assert [(one["name"], one["neurons"]) for one in document["groups"]] == [("dog", 9), ("cat", 9), ("car", 9)]


@pytest.mark.parametrize("colour", ["label", "score", "effect", "firing_rate"])
def test_points_are_colored_by_labels_and_numbers(client: TestClient, colour: str) -> None:
    document = client.get(f"{API}?colour={colour}").json()
    values = {one["index"]: one["value"] for one in document["points"]}
    if colour == "label":
        assert {one["name"]: one["neurons"] for one in document["groups"]}["dog"] == 8
        assert values[1] == values[2] != values[10] and document["low"] is None
    elif colour == "firing_rate":
        assert document["groups"] == [] and document["low"] == min(values.values()) > 0
    page_at(client, f"{PAGE}?colour={colour}")


def test_a_cluster_or_neurons_are_chosen_without_scripts(client: TestClient) -> None:
    seen = page_at(client, f"{PAGE}?cluster=1")
    chosen = [link["href"] for link in seen.all("a")]
    assert all(f"/neurons/{mapped.LAYER}/{one}" in chosen for one in range(9, 18))
    assert f"/neurons/{mapped.LAYER}/3" not in chosen
    assert f"/layers/{mapped.LAYER}?neurons={quote('9-17')}" in chosen
    assert "9 neurons chosen." in " ".join("".join(seen.text).split())
    part = client.get(f"{PAGE}/cards?neurons=2,4-5").text
    assert part.count('<article class="neuron"') == 3 and "<html" not in part
    assert "None yet" in client.get(f"{PAGE}/cards").text
    assert "<b>puss" not in client.get(f"{PAGE}/cards?neurons=9").text


def test_without_a_stored_map_the_page_offers_the_command(client: TestClient) -> None:
    seen = page_at(client, "/layers/net/other/map")
    text = " ".join(seen.text)
    assert "two main directions" in text and "csp-index map DB --layer net/other" in text
    assert client.get("/api/v1/layers/net/other/map").json()["clusters"] == []
    assert [one["value"] for one in seen.all("option") if "selected" in one] == ["firing_rate"]  # no label has a score
    page_at(client, "/layers/net/other/map?cluster=0", 404)


def test_what_is_not_there_or_wrong(client: TestClient) -> None:
    page_at(client, f"{PAGE}?cluster=3", 404)
    page_at(client, f"{PAGE}?cluster=-1", 422)
    page_at(client, f"{PAGE}?neurons=x", 400)
    page_at(client, f"{PAGE}?colour=magic", 400)
    page_at(client, f"{PAGE}?neurons={'1,' * 3000}1", 422)
    page_at(client, "/layers/net/none/map", 404)


def test_of_many_neurons_some_are_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planes, "POINTS", 10)
    with TestClient(make_app(str(folder / "db"), ServiceSettings()), base_url="http://127.0.0.1") as client:
        document = client.get(API).json()
    assert len(document["points"]) == 10 and document["note"].startswith("10 of 27 neurons are drawn")
    assert [one["neurons"] for one in document["clusters"]] == [9, 9, 9]
