"""What a layer's page asks for: rows as one scrolls, sheets of pictures, groups, files of chosen neurons, tags."""

from __future__ import annotations

import csv
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from planted import PLANTED, make_planted
from starlette.testclient import TestClient
from strict_html import Seen, assert_strict, page_at

from csp_index.labelling.review.notes import read_notes
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings
from csp_index.store.connect import open_store

HERE = f"/layers/{PLANTED}"
OWN = "http://127.0.0.1"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_planted(tmp_path_factory.mktemp("layers"))


@pytest.fixture(scope="module")
def client(db: Path) -> Iterator[TestClient]:
    with TestClient(make_app(db, ServiceSettings()), base_url=OWN) as client:
        client.headers["accept"] = "text/html"
        yield client


def boxes(seen: Seen) -> list[int]:
    named = [box["value"] or "" for box in seen.all("input") if box.get("name") == "neurons"]
    return [int(value.rpartition("/")[2]) for value in named if value.startswith(PLANTED)]


def test_a_layer_of_more_than_a_page_is_small_pictures(client: TestClient) -> None:
    assert not page_at(client, HERE).all("img")[0]["src"].startswith(f"{HERE}/sheet"), "few neurons are cards"
    seen = page_at(client, f"{HERE}?limit=3")
    pictures = [image for image in seen.all("img") if "/sheet?" in (image["src"] or "")]
    assert len(pictures) == 3 and len({image["src"] for image in pictures}) == 1, "one request for all"
    assert [image["class"] for image in pictures] == ["sheet x0 y0", "sheet x1 y0", "sheet x2 y0"]
    assert f"{HERE}/map" in {link["href"] for link in seen.all("a")}
    views = {link["href"]: link.get("aria-current") for link in seen.all("a") if "view=" in (link["href"] or "")}
    assert views[f"{HERE}?limit=3&view=small"] == "page" and views[f"{HERE}?limit=3&view=cards"] is None


@pytest.mark.parametrize("view", ["small", "cards"])
def test_rows_go_on_where_the_page_ends(client: TestClient, view: str) -> None:
    terms = f"sort=score&order=desc&view={view}"
    first = boxes(page_at(client, f"{HERE}?{terms}&limit=3"))
    rest = client.get(f"{HERE}/rows?{terms}&limit=600&start=3")
    assert rest.headers["content-type"].startswith("text/html") and "<html" not in rest.text
    assert first + boxes(Seen(rest.text)) == boxes(page_at(client, f"{HERE}?{terms}&limit=7"))
    assert boxes(Seen(client.get(f"{HERE}/rows?start=99&view={view}").text)) == []
    assert client.get(f"{HERE}/rows?start=-1").status_code == 422
    assert client.get(f"{HERE}/rows?limit=601").status_code == 400


def test_a_sheet_lasts_as_long_as_the_version(client: TestClient) -> None:
    address = page_at(client, f"{HERE}?limit=3").all("img")[0]["src"] or ""
    assert address.startswith(f"{HERE}/sheet?neurons=0-2&v=")
    reply = client.get(address)
    assert reply.headers["content-type"] == "image/webp" and "immutable" in reply.headers["cache-control"]
    assert Image.open(io.BytesIO(reply.content)).format == "WEBP"
    assert "immutable" in client.get(address).headers["cache-control"], "also out of the cache"
    other = client.get(f"{HERE}/sheet?neurons=0-2&v=earlier")
    assert other.content == reply.content and other.headers["cache-control"] == "private, max-age=5"


@pytest.mark.parametrize(
    ("terms", "status"),
    [("", 422), ("neurons=", 400), ("neurons=x", 400), ("neurons=0-600", 400), ("neurons=0-9999999", 400),
     ("neurons=7", 404), ("neurons=1&veiled=maybe", 422)],
)  # fmt: skip
def test_wrong_sheets_are_refused(client: TestClient, terms: str, status: int) -> None:
    page_at(client, f"{HERE}/sheet?{terms}", status)


def test_ranges_stand_in_the_form_and_in_the_address(client: TestClient) -> None:
    rows = client.get(f"{HERE}.json").json()
    scores = sorted(row["score"] for row in rows["neurons"] if row["score"] is not None)
    address = f"{HERE}?score_from={scores[2]}&firing_rate_to=&limit=2"
    seen = page_at(client, address)
    fields = {field["name"]: field["value"] for field in seen.all("input") if field.get("type") == "number"}
    assert fields == {"score_from": str(scores[2]), "score_to": "", "firing_rate_from": "", "firing_rate_to": ""}
    following = next(link["href"] or "" for link in seen.all("a") if link.get("rel") == "next")
    assert f"score_from={scores[2]}" in following and "firing_rate" not in following
    twin = client.get(f"{HERE}.json?score_from={scores[2]}").json()
    assert twin["total"] == sum(score >= scores[2] for score in scores)
    assert sum(twin["histograms"][0]["shown"]) == twin["total"] and twin["query"]["ranges"]["score"] == [
        scores[2],
        None,
    ]
    page_at(client, f"{HERE}?score_from=low", 422)
    page_at(client, f"{HERE}?score_to=nan", 400)
    asked = {"layer": PLANTED, "score_from": scores[-1]}
    assert client.get("/api/v1/neurons", params=asked).json()["total"] == 1


def test_labels_lead_to_their_neurons(client: TestClient) -> None:
    seen = page_at(client, f"{HERE}/labels?limit=3")
    twin = client.get(f"{HERE}/labels.json").json()
    links = [link["href"] or "" for link in seen.all("a") if "?label=" in (link["href"] or "")]
    assert len(links) == twin["labels"]
    for link, group in zip(links, twin["groups"], strict=False):
        assert len(boxes(page_at(client, link))) == group["neurons"]
    assert len({image["src"] for image in seen.all("img")}) == 1
    none = next(link["href"] or "" for link in seen.all("a") if "?neurons=" in (link["href"] or ""))
    assert boxes(page_at(client, none)) == [6], "the dead neuron"


def test_all_that_match_and_chosen_neurons_are_files(client: TestClient) -> None:
    matching = client.get(f"{HERE}/matching.json?state=labelled").json()
    rows = client.get(f"{HERE}/export?format=json&state=labelled&sort=score&order=desc&limit=1").json()
    assert len(rows) == matching["total"] and [row["index"] for row in rows] == [
        row["index"] for row in client.get(f"{HERE}.json?state=labelled&sort=score&order=desc").json()["neurons"]
    ]
    reply = client.get(f"{HERE}/chosen?format=csv&neurons={PLANTED}/6&neurons={PLANTED}/1")
    assert 'filename="planted-words.csv"' in reply.headers["content-disposition"]
    table = list(csv.DictReader(io.StringIO(reply.text)))
    assert [(row["neuron"], row["dead"]) for row in table] == [(f"{PLANTED}/1", "False"), (f"{PLANTED}/6", "True")]
    assert (
        client.get(f"{HERE}/chosen?format=json&neurons=0,2-3&method=semanticlens").json()[0]["method"] == "semanticlens"
    )
    assert client.get(f"{HERE}/export?format=parquet").content.startswith(b"PAR1")
    page_at(client, f"{HERE}/chosen?format=csv", 400)
    page_at(client, f"{HERE}/chosen?format=csv&neurons=other/layer/1", 400)
    page_at(client, f"{HERE}/export?format=xlsx", 422)


def test_many_are_tagged_at_once_where_notes_may_be_written(db: Path, client: TestClient, tmp_path: Path) -> None:
    body = {"neurons": "1-3", "reader": "ann", "text": "look again"}
    assert client.post(f"{HERE}/tag", data=body).status_code == 404, "it is off"
    assert "serve --write" in "".join(page_at(client, HERE).text) and not page_at(client, HERE).all("dialog")[2:]
    own = Path(shutil.copytree(db, tmp_path / "own.db"))
    with TestClient(make_app(own, ServiceSettings(write=True)), base_url=OWN) as writing:
        page = writing.get(HERE, headers={"accept": "text/html"}).text
        assert_strict(Seen(page))
        form = re.findall(r'name="form" value="([0-9a-f]+)"', page)[0]
        assert writing.post(f"{HERE}/tag", data=body).status_code == 403, "without the proof of the form"
        stranger = {"origin": "http://elsewhere.example"}
        assert writing.post(f"{HERE}/tag", data=body | {"form": form}, headers=stranger).status_code == 403
        assert read_notes(open_store(own)) == ()
        reply = writing.post(f"{HERE}/tag", data=body | {"form": form}, follow_redirects=False)
        assert (reply.status_code, reply.headers["location"]) == (303, f"{HERE}?neurons=1-3&tagged=3")
        assert "3 neurons were tagged" in writing.get(reply.headers["location"]).text
        notes = read_notes(open_store(own))
        assert [(note.subject, note.action, note.text, note.reader) for note in notes] == [
            (f"neuron:{PLANTED}/{number}", "tag", "look again", "ann") for number in (1, 2, 3)
        ]
        for wrong, status in (("x", 400), ("7", 404), ("5-1", 400)):
            assert writing.post(f"{HERE}/tag", data=body | {"form": form, "neurons": wrong}).status_code == status
        assert len(read_notes(open_store(own))) == 3
