"""Every page of the service stands in a list of addresses that a browser walks and axe looks at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from starlette.routing import Match, Route
from walked import BEHIND, GUARDED, SERVED, STUDIED

from csp_index.service import ServiceSettings, make_app

ADDRESSES = [*SERVED.values(), *STUDIED.values(), *GUARDED.values()]
LINKED = [f"{begins}0" for _, begins in BEHIND.values()]
NO_PAGES = {  # answers that are no JSON, and no pages of their own either
    "/random": "leads to a neuron",
    "/layers/{model}/{layer}/rows": "rows that the list of a layer takes in",
    "/layers/{model}/{layer}/sheet": "pictures in one file",
    "/layers/{model}/{layer}/export": "a file of labels",
    "/layers/{model}/{layer}/chosen": "a file of labels",
    "/layers/{model}/{layer}/map/cards": "cards that the map of a layer takes in",
    "/neurons/{model}/{layer}/{index}/card.png": "a picture",
    "/images/{image_id}/original": "a picture",
    "/metrics": "text for machines",
    "/healthz": "for machines",
    "/readyz": "for machines",
    "/static/{name:path}": "files of pages",
}


@pytest.fixture
def routes(served_db: Path) -> Iterator[list[Route]]:
    settings = ServiceSettings(token="a token of some length", write=True, rate=True)
    yield [route for route in make_app(served_db, settings).routes if isinstance(route, Route)]


def _pages(routes: list[Route]) -> set[str]:
    asked = [route.path for route in routes if "GET" in (route.methods or ())]
    return {path for path in asked if not path.startswith("/api/") and not path.endswith(".json")} - set(NO_PAGES)


def test_every_page_is_walked(routes: list[Route]) -> None:
    def path_of(address: str) -> str:
        scope = {"type": "http", "method": "GET", "path": urlsplit(address).path, "headers": []}
        return next(route.path for route in routes if route.matches(scope)[0] is Match.FULL)

    pages = _pages(routes)
    assert len(pages) > 20, pages
    forgotten = pages - {path_of(address) for address in [*ADDRESSES, *LINKED]}
    assert not forgotten, f"add their addresses to tests/support/walked.py: {sorted(forgotten)}"


def test_what_is_called_no_page_is_a_route(routes: list[Route]) -> None:
    assert set(NO_PAGES) <= {route.path for route in routes}
