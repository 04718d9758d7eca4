"""Where "fires" says little, pages, their JSON and `show` give the share above the mean, or say that it is constant."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import numpy as np
import pytest
from starlette.testclient import TestClient

from csp_index import open_index
from csp_index.query.neuron_view import share_above_mean
from csp_index.service import ServiceSettings, make_app
from csp_index.store.schema import QUANTILES

CONSTANT, ALWAYS, RARELY, DEAD = range(4)


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fires")
    paths = fakes.write_arrays(folder, images=200)
    rng = np.random.default_rng(0)
    values = np.maximum(rng.standard_normal((200, 4)), 0)
    values[:, CONSTANT], values[:, DEAD] = 2.0, 0.0
    values[:, ALWAYS] = 5 + np.exp(rng.standard_normal(200))  # skewed: fewer than half are above the mean
    np.save(folder / "a.npy", values.astype(np.float32))
    open_index(folder / "db").import_arrays(folder / "a.npy", "m/l", embeddings=paths["embeddings"])
    return folder / "db"


def test_the_share_is_about_that_of_the_images(db: Path) -> None:
    index = open_index(db)
    values = index.activations(f"m/l/{ALWAYS}")
    rows = index.sql("SELECT * FROM neurons ORDER BY neuron").rows()
    shares = [share_above_mean(row) for row in rows]
    assert (shares[CONSTANT], shares[RARELY], shares[DEAD]) == (0.0, None, None)
    real = (values > values.mean()).mean()
    assert real < 0.45 and shares[ALWAYS] == pytest.approx(real, abs=0.05)
    row = {"firing_rate": 0.994, "min": 0, "max": 1, "mean": 0.5, "quantiles": list(QUANTILES)}
    assert share_above_mean(row) is None
    assert share_above_mean(row | {"firing_rate": 0.995}) == pytest.approx(0.5)


def test_the_page_and_its_twin_say_it(db: Path) -> None:
    with TestClient(make_app(db, ServiceSettings()), base_url="http://127.0.0.1:8000") as client:
        pages = [client.get(f"/neurons/m/l/{neuron}").text for neuron in range(4)]
        rows = [client.get(f"/neurons/m/l/{neuron}.json").json() for neuron in range(4)]
        layer = client.get("/layers/m/l").text
        gallery = json.loads(client.get("/layers/m/l.json").text)["neurons"]
        compared = client.get("/compare", params={"neurons": "m/l/0,m/l/1,m/l/2"}).text
    says = [
        ("fires on</a></dt>" in page, "above its mean on</a></dt>" in page, "same activation on</dt>" in page)
        for page in pages
    ]
    assert says == [(False, False, True), (False, True, False), (True, False, False), (True, False, False)]
    assert "No image is stronger than another." in pages[CONSTANT]
    assert [row["above_mean"] for row in rows] == [row["above_mean"] for row in gallery]
    assert rows[CONSTANT]["above_mean"] == 0.0 and 0.3 < rows[ALWAYS]["above_mean"] < 0.45
    assert rows[RARELY]["above_mean"] is None and rows[DEAD]["above_mean"] is None
    for page in (layer, compared):
        assert page.count(">over mean</dt>") == 2
    assert rows[ALWAYS]["firing_rate"] == 1.0, "SQL and JSON keep the plain share, too"
