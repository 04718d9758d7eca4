"""A study that is declared once: its page with links, the twin, the list, and the API's operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from fastapi import APIRouter, FastAPI
from starlette.responses import JSONResponse, Response
from starlette.testclient import TestClient
from typing_extensions import TypedDict

from csp_index.errors import SettingError
from csp_index.service.config import ServiceSettings
from csp_index.service.http.studies.stored_study import OF_LAYER, Listing, Shown, StoredStudy


class _Document(TypedDict):
    subject: str
    letter: str | None
    rows: list[int]


class _List(TypedDict):
    studies: int


class _Renderer:
    def page(self, template: str, **context: Any) -> Response:
        return JSONResponse({"template": template, **context})


async def _letter(letter: str | None = None) -> str | None:
    return letter


STUDY = StoredStudy(
    "alphabets",
    OF_LAYER,
    _Document,
    lambda _, key, letter, start, limit: {
        "subject": str(key),
        "letter": letter,
        "rows": list(range(start, start + limit)),
    },
    lambda page, letter: Shown(100, {"letter": letter}, {"chart": len(page["rows"])}),
    rows=10,
    says="One alphabet.",
    choose=_letter,
    listing=Listing("all_alphabets", _List, lambda _: {"studies": 3}, "All alphabets."),
)


@pytest.fixture
def client() -> TestClient:
    service = cast(Any, SimpleNamespace(snapshot=None, settings=ServiceSettings()))
    app, pages = FastAPI(), APIRouter(include_in_schema=False)
    STUDY.add_pages(pages, service, cast(Any, _Renderer()))
    app.include_router(pages)
    app.include_router(STUDY.api(service))
    return TestClient(app)


def test_a_page_has_its_document_the_links_and_what_its_template_needs(client: TestClient) -> None:
    page = client.get("/alphabets/my%20net/one?letter=b&start=20").json()
    assert page["template"] == "alphabets" and page["here"] == "/alphabets/my%20net/one"
    assert page["page"] == {"subject": "my net/one", "letter": "b", "rows": [*range(20, 30)]} and page["chart"] == 10
    assert page["previous"] == "/alphabets/my%20net/one?letter=b&start=10"
    assert page["next"] == "/alphabets/my%20net/one?letter=b&start=30"
    assert page["twin"] == "/alphabets/my%20net/one.json?letter=b&start=20"
    assert client.get(page["twin"]).json() == page["page"]


def test_a_choice_that_is_not_made_is_no_term(client: TestClient) -> None:
    assert client.get("/alphabets/net/one").json()["next"] == "/alphabets/net/one?start=10"


def test_pages_are_within_the_limits_of_the_service(client: TestClient) -> None:
    most = ServiceSettings().page_limit
    assert len(client.get(f"/alphabets/net/one.json?limit={most}").json()["rows"]) == most
    with pytest.raises(SettingError, match="expected 1 to"):
        client.get(f"/alphabets/net/one.json?limit={most + 1}")
    assert client.get(f"/api/v1/alphabets/net/one?limit={most + 1}").status_code == 422


def test_the_list_has_a_page_a_twin_and_an_operation(client: TestClient) -> None:
    listed = client.get("/alphabets").json()
    assert (listed["template"], listed["twin"]) == ("all_alphabets", "/alphabets.json")
    assert listed["page"] == client.get("/alphabets.json").json() == client.get("/api/v1/alphabets").json()


def test_the_api_describes_both_operations_and_no_page(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert list(paths) == ["/api/v1/alphabets", "/api/v1/alphabets/{model}/{layer}"]
    one = paths["/api/v1/alphabets/{model}/{layer}"]["get"]
    assert (one["summary"], one["description"], one["tags"]) == ("Alphabets", "One alphabet.", ["studies"])
    assert {part["name"] for part in one["parameters"]} == {"model", "layer", "letter", "start", "limit"}
