"""The pages over a small index whose labels, file names, names and metadata are hostile; their twins."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from typing import Any
from urllib.parse import quote, quote_plus

import fakes
import numpy as np
import pyarrow as pa
import pytest
from fastapi import FastAPI
from PIL import Image
from planted import serve_arrays
from starlette.testclient import TestClient
from strict_html import Seen, assert_strict, page_at

from csp_index import open_index
from csp_index.errors import QueryError
from csp_index.printable import printable
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings
from csp_index.service.http import api, pages, rendering
from csp_index.service.http.access_log import Journal
from csp_index.service.http.addresses import concept_href
from csp_index.service.http.auth import Forms
from csp_index.service.http.own_threads import Turns
from csp_index.service.http.static_files import HEAD, JOINED
from csp_index.service.sql_sandbox import SqlAnswer

EVIL = "<script>alert(1)</script>"
QUOTES = "\"'><img src=x onerror=alert(2)>"
WORDS = [EVIL, QUOTES, "javascript:alert(3)", "red & blue", "ring {{ 7 * 7 }}", "moon"]
LAYER = "net<b>\"/la 'yer&?#"
HERE = "net%3Cb%3E%22/la%20%27yer%26%3F%23"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("hostile")
    fakes.write_images(folder / "images", 40)
    name = "<img src=x onerror=alert(4)>.png"
    (folder / "images" / "a" / "img00001.png").rename(folder / "images" / "a" / name)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ("path", QUOTES, "note"),
                (f"a/{name}", EVIL, "x" * 200),
                ("b/img00002.png", "a/b?&c", ""),
                ("b/img00004.png", EVIL, ""),
            ]
        )
    index = open_index(folder / "hostile.db")
    index.add_images(folder / "images", encoders=["python:fakes:encoder"], metadata=folder / "metadata.csv")
    activations = np.maximum(np.random.default_rng(0).standard_normal((40, 7)), 0).astype(np.float32)
    activations[:, 6] = 0
    np.save(folder / "planted.npy", activations)
    index.import_arrays(folder / "planted.npy", LAYER)
    for method in ("csp", "semanticlens"):
        index.label(LAYER, method, vocabulary=WORDS, templates="none", top=6)
    index.associations(LAYER, QUOTES)
    with TestClient(make_app(folder / "hostile.db", ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


NEURON = f"/neurons/{HERE}/0"
BY = quote_plus(QUOTES)
PAIR = f"{HERE}/0,{HERE}/1"
ADDRESSES = {
    "/": "/index.json",
    "/search?q=red": "/search.json?q=red",
    "/search?image_id=0": "/search.json?image_id=0",
    f"/search?neuron={HERE}/0": f"/search.json?neuron={HERE.replace('/', '%2F').replace('%20', '+')}%2F0",
    f"/layers/{HERE}": f"/layers/{HERE}.json",
    f"/layers/{HERE}?method=csp&limit=3&colour=max": f"/layers/{HERE}.json?method=csp&limit=3",
    NEURON: f"{NEURON}.json",
    f"{NEURON}?method=csp": f"{NEURON}.json?method=csp",
    f"/neurons/{HERE}/6": f"/neurons/{HERE}/6.json",
    "/concepts": "/concepts.json",
    f"/concepts/{quote(EVIL, safe='')}": f"/concepts/{quote(EVIL, safe='')}.json",
    f"/concepts/{quote(QUOTES, safe='')}": f"/concepts/{quote(QUOTES, safe='')}.json",
    "/concepts/50%25%20%2F%20a%2Fb%3F%23": "/concepts/50%25%20%2F%20a%2Fb%3F%23.json",
    f"/classes/{HERE}": f"/classes/{HERE}.json",
    f"/classes/{HERE}?by={BY}": f"/classes/{HERE}.json?by={BY}",
    f"/classes/{HERE}?by={BY}&name={quote_plus(EVIL)}": f"/classes/{HERE}.json?by={BY}&name={quote_plus(EVIL)}",
    "/images/0": "/images/0.json",
    f"/compare?neurons={PAIR}": None,
    "/compare": None,
    "/search": None,
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_page_is_strict_html_and_has_its_twin(client: TestClient, address: str) -> None:
    seen = page_at(client, address)
    twins = [link["href"] for link in seen.all("a") if ".json" in (link["href"] or "") and "openapi" not in str(link)]
    expected = ADDRESSES[address]
    if expected is not None:
        assert expected in twins
    for twin in twins:
        reply = client.get(twin or "")
        assert reply.status_code == 200 and reply.headers["content-type"] == "application/json"


@pytest.mark.parametrize("address", [f"/layers/{HERE}", NEURON, "/search?q=alert", f"/compare?neurons={PAIR}"])
def test_hostile_labels_are_shown_as_text(client: TestClient, address: str) -> None:
    text = "".join(page_at(client, address).text)
    assert any(word in text for word in (EVIL, QUOTES)) and "ring 49" not in text


@pytest.mark.parametrize("address", ["/search?q=", "/concepts/"])
def test_nothing_turns_the_direction_of_a_page(client: TestClient, address: str) -> None:
    reply = client.get(address + quote("live\u202e \u05d0"))
    assert reply.status_code == 200 and "\u202e" not in reply.text
    assert "live\\u202e \u05d0" in reply.text


def test_hostile_labels_lead_to_the_pages_of_their_words(client: TestClient) -> None:
    words = client.get("/concepts.json").json()["words"]
    assert {one["text"] for one in words} <= set(WORDS) and words
    for address in ("/concepts", f"/layers/{HERE}", "/search?q=red"):
        links = {link["href"] for link in page_at(client, address).all("a") if "/concepts/" in (link["href"] or "")}
        assert links
        for link in links:
            twin = client.get(f"{link}.json").json()
            assert (twin["word"] in WORDS and twin["labeled"]) or (address.endswith("red") and twin["word"] == "red")
    neuron = next(
        row for row in client.get("/api/v1/neurons", params={"layer": LAYER}).json()["neurons"] if row["label"]
    )
    links = [link["href"] for link in page_at(client, f"/neurons/{HERE}/{neuron['index']}").all("a")]
    assert f"/concepts/{quote(neuron['label'], safe='')}" in links


def test_the_page_of_a_word_has_each_neuron_once(client: TestClient) -> None:
    word = max(client.get("/concepts.json").json()["words"], key=lambda one: one["neurons"])["text"]
    told = client.get(concept_href(word, ".json")).json()
    seen = page_at(client, concept_href(word))
    shown = [link["href"] for link in seen.all("a") if link.get("class") == "main"]
    assert len(shown) == len(set(shown)) == sum(len(group["neurons"]) for group in told["groups"])
    assert shown and told["groups"][0]["way"] == "labeled"


@pytest.mark.parametrize(
    "word", [".", "..", "a.json", "and/or", "//", "50 %", "'\"`", "\u202eevil", "\ufffd", "{{ 7 }}"]
)
def test_any_word_has_a_page_that_its_address_leads_to(client: TestClient, word: str) -> None:
    seen = page_at(client, concept_href(word))
    assert f"No neuron is labeled “{printable(word)}”" in "".join(seen.text)
    assert client.get(concept_href(word, ".json")).json()["word"] == word


def test_what_is_no_word_is_told(client: TestClient) -> None:
    text = "".join(page_at(client, f"/concepts/{'x' * 5000}", 400).text)
    assert "the word has 5,000 characters: expected 1 to 300" in text
    assert "the word is empty" in "".join(page_at(client, "/concepts/%20", 400).text)
    assert client.get("/concepts/a%00b").status_code in (200, 400)
    assert page_at(client, "/concepts?q=+").all("form"), "nothing asked for is the page without a word"


def test_hostile_file_names_and_metadata_are_shown_as_text(client: TestClient) -> None:
    text = "".join(page_at(client, "/images/0").text)
    assert "<img src=x onerror=alert(4)>.png" in text and QUOTES in text and EVIL in text


def test_hostile_classes_are_shown_as_text_and_lead_to_their_pages(client: TestClient) -> None:
    seen = page_at(client, f"/classes/{HERE}?by={BY}")
    assert EVIL in "".join(seen.text) and QUOTES in "".join(seen.text)
    links = [link["href"] or "" for link in seen.all("a") if "name=" in (link["href"] or "")]
    assert links == [f"/classes/{HERE}?by={BY}&name={quote_plus(name)}" for name in (EVIL, "a/b?&c")]
    words = [link["href"] for link in seen.all("a") if "/concepts/" in link["href"]]
    assert words == [concept_href(name) for name in (EVIL, "a/b?&c")]
    assert links[0] in [link["href"] for link in page_at(client, words[0]).all("a")], "and back"
    assert "fires without the class" in "".join(page_at(client, links[1]).text)
    assert f"/classes/{HERE}?by={BY}" in [link["href"] for link in page_at(client, f"/layers/{HERE}").all("a")]
    neuron = page_at(client, NEURON)
    assert links[0] in [link["href"] for link in neuron.all("a")] and EVIL in "".join(neuron.text)
    assert "It tells none: on images of no class" in "".join(page_at(client, f"/neurons/{HERE}/6").text), "it is dead"
    assert client.get(f"/classes/{HERE}?by=nothing").status_code == 404


def test_home_leads_to_the_layers_and_a_random_neuron_that_fires(client: TestClient) -> None:
    assert f"/layers/{HERE}" in [link["href"] for link in page_at(client, "/").all("a")]
    for _ in range(5):
        reply = client.get("/random", follow_redirects=False)
        assert reply.status_code == 307 and reply.headers["cache-control"] == "no-store"
        assert re.fullmatch(rf"/neurons/{re.escape(HERE)}/[0-5]", reply.headers["location"])


def test_layer_pages_follow_each_other_and_keep_what_was_asked(client: TestClient) -> None:
    def cards(seen: Seen) -> list[str | None]:
        return [box["value"] for box in seen.all("input") if box.get("name") == "neurons"]

    address = f"/layers/{HERE}?sort=max&order=desc&limit=3&colour=lead&view=cards"
    first = page_at(client, address)
    following = next(link["href"] for link in first.all("a") if link.get("rel") == "next")
    assert following and "sort=max" in following and "colour=lead" in following
    second = page_at(client, following)
    assert len(cards(first)) == 3 and not set(cards(first)) & set(cards(second))
    back = next(link["href"] for link in second.all("a") if link.get("rel") == "prev")
    assert cards(page_at(client, back or "")) == cards(first)
    chosen = [option for option in first.all("option") if "selected" in option]
    assert {"max", "desc", "all", "lead"} <= {option["value"] for option in chosen}
    assert len(cards(page_at(client, f"/layers/{HERE}?state=dead"))) == 1
    assert "No neuron matches" in "".join(page_at(client, f"/layers/{HERE}?q=nowhere").text)


def test_a_layer_page_shows_a_chosen_set_and_keeps_it(client: TestClient) -> None:
    seen = page_at(client, f"/layers/{HERE}?neurons=1,3-4&sort=max")
    boxes = [box for box in seen.all("input") if box.get("name") == "neurons"]
    assert [box["value"] for box in boxes if box.get("type") == "hidden"] == ["1,3-4"] * 2, "both forms send it"
    assert len(boxes) == 5 and "of a chosen set" in "".join(seen.text)
    assert f"/layers/{HERE}.json?sort=max&neurons=1%2C3-4" in [link["href"] for link in seen.all("a")]
    page_at(client, f"/layers/{HERE}?neurons=1,x", 400)
    page_at(client, f"/layers/{HERE}?neurons=0-7", 404)
    asked = {"layer": LAYER, "neurons": "1-2"}
    assert [row["index"] for row in client.get("/api/v1/neurons", params=asked).json()["neurons"]] == [1, 2]


def test_the_map_links_to_every_neuron_with_a_vector(client: TestClient) -> None:
    drawing = [link["href"] for link in page_at(client, f"/layers/{HERE}").all("a") if link.get("tabindex") == "-1"]
    points = client.get(f"/layers/{HERE}/map.json").json()["points"]
    assert sorted(map(str, drawing)) == [f"/neurons/{HERE}/{point['index']}" for point in points]


def test_search_takes_one_question_or_none(client: TestClient) -> None:
    assert "Neurons for" not in "".join(page_at(client, "/search?q=+").text)
    page_at(client, "/search?q=red&image_id=0", 400)
    page_at(client, "/search?image_id=9999", 404)
    page_at(client, "/search?neuron=nobody", 400)
    assert client.get("/search.json").status_code == 400


def test_a_search_tells_of_a_full_list_and_leads_to_more(client: TestClient) -> None:
    few = client.get("/search?q=red&limit=2").text
    assert few.count("the first 2<") > 1 and "/search.json?q=red&amp;limit=2" in few
    more = re.findall(r'href="(/search\?q=red&amp;limit=8)#means"', few)[0].replace("&amp;", "&")
    assert "the first 8<" in client.get(more).text
    most = client.get("/search?q=red&limit=600").text
    assert "shown<" in most and 'class="more"' not in most
    assert client.get("/search?q=red&limit=601").status_code == 400
    assert len(client.get("/search.json?q=red&limit=3").json()["means"]) == 3


def test_search_by_an_uploaded_picture(client: TestClient) -> None:
    data = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(data, "PNG")
    reply = client.post("/search", files={"file": ("red.png", data.getvalue(), "image/png")})
    seen = Seen(reply.text)
    assert reply.status_code == 200 and "Neurons for your picture" in "".join(seen.text)
    assert_strict(seen)
    broken = client.post("/search", files={"file": ("red.png", b"no picture", "image/png")})
    assert broken.status_code == 400 and "<h1>" in broken.text
    assert client.post("/search").status_code == 422


def test_compare_takes_boxes_and_commas_and_up_to_four(client: TestClient) -> None:
    boxes = page_at(client, f"/compare?neurons={HERE}/0&neurons={HERE}/1&neurons={HERE}/1")
    assert len(boxes.all("article")) == 2
    assert "add one to" in "".join(page_at(client, f"/compare?neurons={HERE}/0").text)
    page_at(client, "/compare?neurons=" + ",".join(f"{HERE}/{number}" for number in range(5)), 400)
    page_at(client, f"/compare?neurons={PAIR},{HERE}/99", 404)


def test_an_index_of_arrays_shows_names_instead_of_pictures(tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = None, ServiceSettings(), Journal(), Turns(1), Turns(1), Forms("start")
    service = api.Service(*serve_arrays(tmp_path_factory), *shared)
    site = pages.site_of(service)
    assert not site.pictures
    app = FastAPI()
    app.include_router(pages.router(service, rendering.Renderer(site)))
    asking = TestClient(app)
    for address in ("/", "/layers/m/l", "/images/3", "/search?image_id=3"):
        assert not page_at(asking, address).all("img")
    assert "array" in "".join(page_at(asking, "/images/3").text)


class FakeRunner:
    """Answers every SELECT with one row, without a process of its own."""

    def run(self, statement: str) -> SqlAnswer:
        if not statement.startswith("SELECT"):
            raise QueryError(f"{statement} is refused: write one SELECT")
        return SqlAnswer(pa.table({"found": [42], "evil": [EVIL]}), True, 0.25)

    def schema_document(self) -> dict[str, Any]:
        view = {"name": "images", "about": QUOTES, "columns": [{"name": EVIL, "type": "VARCHAR"}]}
        return {"views": [view], "functions": [], "examples": [{"title": "all", "sql": f"SELECT {QUOTES}"}]}


def sql_client(client: TestClient, runner: FakeRunner | None) -> TestClient:
    assert isinstance(client.app, FastAPI)
    service = replace(client.app.state.service, sql=runner)
    app = FastAPI()
    app.include_router(pages.router(service, rendering.Renderer(pages.site_of(service))))
    return TestClient(app)


def test_sql_page_runs_statements_without_javascript(client: TestClient) -> None:
    asking = sql_client(client, FakeRunner())
    assert f"SELECT {EVIL}" in "".join(page_at(asking, f"/sql?sql=SELECT {EVIL}").text)
    reply = asking.post("/sql", data={"sql": "SELECT 42 AS found", "format": ""})
    assert reply.status_code == 200 and ">42<" in reply.text and "cut" in reply.text
    assert_strict(Seen(reply.text))
    refused = asking.post("/sql", data={"sql": f"DROP {EVIL}"})
    assert refused.status_code == 400 and 'role="alert"' in refused.text
    assert_strict(Seen(refused.text))
    assert asking.get("/sql.json").json()["enabled"] is True


def test_sql_page_gives_files(client: TestClient) -> None:
    asking = sql_client(client, FakeRunner())
    for kind, start in (("csv", b"found,evil"), ("json", b"["), ("parquet", b"PAR1")):
        file = asking.post("/sql", data={"sql": "SELECT 42 AS found", "format": kind})
        assert file.content.lstrip().startswith(start), file.content[:100]
        assert f"answer-first-1.{kind}" in file.headers["content-disposition"]


def test_sql_page_says_that_it_is_off(client: TestClient) -> None:
    off = sql_client(client, None)
    assert "switched off" in "".join(page_at(off, "/sql").text) and "SQL" not in page_at(off, "/").text
    assert off.get("/sql.json").json() == {"enabled": False}
    assert off.post("/sql", data={"sql": "SELECT 1"}).status_code == 404


def test_card_is_a_picture(client: TestClient) -> None:
    for neuron in (0, 6):  # the last never fires
        reply = client.get(f"/neurons/{HERE}/{neuron}/card.png")
        assert reply.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(reply.content)).size[0] == 1200


def test_what_is_to_be_typed_is_code_on_a_page(client: TestClient) -> None:
    told = client.get("/layers/no/where?at=99999", headers={"accept": "text/html"})
    assert '<span class="code">csp-index versions</span>' in told.text and "`" not in told.text


@pytest.mark.parametrize("address", [f"/neurons/{HERE}/99", "/layers/no/where", "/images/400", "/nowhere"])
def test_what_is_missing_is_told_on_a_page(client: TestClient, address: str) -> None:
    assert "Not found here" in "".join(page_at(client, address, 404).text)
    assert client.get(address, headers={"accept": "*/*"}).json()["error"]["type"] == "missing"


def test_login_form_goes_on_to_where_one_wanted_to() -> None:
    reply = rendering.Renderer(rendering.Site("x")).login(QUOTES, EVIL)
    seen = Seen(bytes(reply.body).decode())
    assert_strict(seen)
    assert next(field["value"] for field in seen.all("input") if field.get("name") == "next") == QUOTES


def test_pages_have_one_script_inside_which_the_policy_names(client: TestClient) -> None:
    reply = client.get("/")
    (script,) = re.findall(r"<script>(.*?)</script>", reply.text, re.DOTALL)
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'self' 'sha256-{digest}';" in reply.headers["content-security-policy"]


def test_every_file_of_the_pages_is_in_the_package() -> None:
    folder = resources.files("csp_index.service")
    asked = {name for file in (folder / "templates").iterdir() for name in STATIC.findall(file.read_text())}
    assert asked >= JOINED.keys() - {HEAD}
    asked.add(HEAD)
    parts = {name for whole in asked for name in JOINED.get(whole, (whole,))}
    assert {file.name for file in (folder / "static").iterdir()} == parts
    for file in (folder / "static").iterdir():
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", file.read_text())


STATIC = re.compile(r"'([a-z.-]+)' \| static")
