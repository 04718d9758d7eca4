"""The pages of an index that has no pictures: they say so once, and leave out what only pictures would fill."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mapped import LAYER, make_mapped
from starlette.testclient import TestClient
from strict_html import Seen, page_at

from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings

SAID = "This index has no pictures: images stand by their names."


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    index = make_mapped(tmp_path_factory.mktemp("bare"))
    with TestClient(make_app(index.uri, ServiceSettings()), base_url="http://127.0.0.1") as found:
        found.headers["accept"] = "text/html"
        yield found


def of_class(page: Seen, name: str) -> int:
    return sum(name in (attributes.get("class") or "").split() for _, attributes in page.tags)


def words(page: Seen) -> str:
    return " ".join("".join(page.text).split())


@pytest.mark.parametrize("address", ["/", f"/layers/{LAYER}", f"/neurons/{LAYER}/0"])
def test_a_page_says_once_that_there_are_none(client: TestClient, address: str) -> None:
    assert words(page_at(client, address)).count(SAID) == 1


def test_cards_have_no_empty_box_where_pictures_would_be(client: TestClient) -> None:
    page = page_at(client, f"/layers/{LAYER}?view=cards")
    assert page.all("article") and not of_class(page, "strip")
    assert "ListCardsBy labelMap" in words(page)


def test_neurons_of_an_image_stand_without_an_empty_box(client: TestClient) -> None:
    excites = client.get("/api/v1/images/0").json()["excites"]
    page = page_at(client, "/images/0")
    assert excites and not of_class(page, "where")
    assert "at least as high as on" in words(page) and "no map of where it looks" not in words(page)


def test_by_label_says_what_a_number_is(client: TestClient) -> None:
    assert "neuron 0" in words(page_at(client, f"/layers/{LAYER}/labels"))


def test_a_search_that_compares_names_alone_shows_no_empty_group(client: TestClient) -> None:
    page = page_at(client, "/search?q=dog")
    assert "only names were searched" in words(page)
    assert [link["href"] for link in page.all("a") if (link["href"] or "").startswith("#")] == ["#main", "#names"]
    by_image = page_at(client, "/search?image_id=0")
    assert {"#means", "#images"} <= {link["href"] for link in by_image.all("a")}
