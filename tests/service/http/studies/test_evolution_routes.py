"""The pages of layers that were followed through training, their twins, and the API."""

from __future__ import annotations

from collections.abc import Iterator

import fakes
import pytest
import torch
from safetensors.torch import save_file
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index import open_index
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("evolution")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 20), encoders=["python:fakes:encoder"])
    files = []
    for step in range(3):
        state = fakes.network().state_dict()
        state["head.weight"] = state["head.weight"] + step * torch.ones(10, 6)
        files.append(str(folder / f"step{step}.safetensors"))
        save_file(state, files[-1])
    words = ["red", "<b>blue</b>", "ring"]
    index.evolution("python:fakes:network", "concepts", files, method="csp", vocabulary=words, templates="none")
    with TestClient(make_app(index.uri, ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def test_the_list_leads_to_the_layer(client: TestClient) -> None:
    listed = client.get("/api/v1/evolution").json()
    assert listed == client.get("/evolution.json").json()
    (row,) = listed["evolutions"]
    assert (row["network"], row["layer"]) == ("network", "concepts")
    assert f"/evolution/{row['id']}" in [link["href"] for link in page_at(client, "/evolution").all("a")]


def test_a_page_shows_the_chart_and_the_paths(client: TestClient) -> None:
    name = client.get("/evolution.json").json()["evolutions"][0]["id"]
    seen = page_at(client, f"/evolution/{name}")
    document = client.get(f"/evolution/{name}.json").json()
    assert document == client.get(f"/api/v1/evolution/{name}").json()
    assert [step["checkpoint"] for step in document["steps"]] == ["step0", "step1", "step2"]
    assert len(document["neurons"]) == document["total"] == 10
    drifts = [row["drift"] for row in document["neurons"]]
    told = [drift for drift in drifts if drift is not None]
    assert drifts == sorted(told, reverse=True) + [None] * (len(drifts) - len(told)) and drifts[0] > 0
    assert len(seen.all("polyline")) == 3
    dots = [dot["class"] for dot in seen.all("circle") if "class" in dot]
    assert dots == ["settled"] * 3 + ["alive"] * 3 + ["cosine"] * 2  # of two checkpoints it is one, which no line shows
    links = [link["href"] for link in seen.all("a")]
    assert "/layers/network%40step0/concepts" in links
    assert client.get("/layers/network%40step0/concepts").status_code == 200


def test_paths_come_page_by_page(client: TestClient) -> None:
    name = client.get("/evolution.json").json()["evolutions"][0]["id"]
    first = page_at(client, f"/evolution/{name}?limit=6")
    following = next(link["href"] for link in first.all("a") if link.get("rel") == "next")
    assert len(client.get((following or "").replace("?", ".json?")).json()["neurons"]) == 4


def test_what_is_not_there(client: TestClient) -> None:
    page_at(client, "/evolution/0123456789ab", 404)
    page_at(client, "/evolution/nothing", 422)
