"""The page of a neuron with an imported label: where it comes from, and a panel that opens on a method that labels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from starlette.testclient import TestClient

from csp_index import open_index
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings

CAPTION = "a photo of birds, " * 20


@pytest.fixture
def client(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "E.npy", rng.standard_normal((30, 8)).astype(np.float32))
    np.save(tmp_path / "A.npy", rng.uniform(0.1, 1, (30, 4)).astype(np.float32))
    (tmp_path / "milan.csv").write_text(f'unit,description\n0,<b>brown</b> dogs\n1,birds\n3,"{CAPTION}"\n')
    index = open_index(tmp_path / "db")
    index.import_arrays(tmp_path / "A.npy", "net/l", embeddings=tmp_path / "E.npy")
    index.import_labels("net/l", tmp_path / "milan.csv")
    with TestClient(make_app(tmp_path / "db", ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def test_the_page_and_its_twin_say_the_file_and_nothing_is_labeled_by_its_name(client):
    page = client.get("/neurons/net/l/0").text
    assert "&lt;b&gt;brown&lt;/b&gt; dogs" in page and "<b>brown</b>" not in page
    assert "imported from milan.csv (table; sha256 " in page
    assert re.findall(r"<option[^>]* selected>([^<]*)", page)[0] == "csp"
    twin = client.get("/neurons/net/l/0.json").json()
    assert twin["method"] == "milan" and twin["provenance"]["run"]["settings"]["imported"]["file"] == "milan.csv"
    assert [row["method"] for row in twin["methods"]] == ["milan"]
    layer = client.get("/layers/net/l", params={"method": "milan"}).text
    assert "birds" in layer and layer.count("no label yet") >= 1


def test_a_caption_leaves_room_for_the_pictures_and_is_there_as_a_whole(client):
    page, whole = client.get("/neurons/net/l/3").text, CAPTION.strip()
    head = re.search(r'<h1 class="long"><span title="([^"]*)">([^<]*)</span>', page)
    assert head[1] == whole and head[2] == f"{whole[:119]}…"
    assert f"<title>{whole[:59]}… · net/l/3" in page
    assert f"“{whole[:79]}…”" in re.search(r'id="verdict">([^<]*)<', page)[1]
    card = re.search(r'<span class="label"><span title="([^"]*)">([^<]*)</span>', client.get("/layers/net/l").text)
    assert (card[1], card[2]) == (whole, f"{whole[:119]}…")
    group = re.search(r'title="([^"]*)">(a photo[^<]*)</a>', client.get("/layers/net/l/labels").text)
    assert (group[1], group[2]) == (whole, f"{whole[:119]}…")
    assert client.get("/neurons/net/l/3.json").json()["label"] == whole
