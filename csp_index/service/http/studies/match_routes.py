"""The routes of compared layers: pages, their JSON twins, and the API."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.service.documents.studies.match_shapes import By, ComparisonsDocument, MatchesDocument
from csp_index.service.documents.studies.matches import PAIRS, comparisons_document, matches_document
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Start, StudyId, add_list, paged
from csp_index.service.http.rendering import Renderer

_BARS: Final = (400, 120)  # width and height of the chart


def add_matches(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the pages."""
    snapshot, most = service.snapshot, service.settings.page_size

    add_list(routes, renderer, "/matches", "comparisons", lambda: comparisons_document(snapshot))

    @routes.get("/matches/{name}.json")
    def matches_twin(name: StudyId, by: By | None = None, limit: int = PAIRS, start: Start = 0) -> Response:
        return answer(matches_document(snapshot, name, by, most(limit), start))

    @routes.get("/matches/{name}")
    def matches(name: StudyId, by: By | None = None, limit: int = PAIRS, start: Start = 0) -> Response:
        size = most(limit)
        page = matches_document(snapshot, name, by, size, start)
        here = f"/matches/{name}"
        return renderer.page(
            "matches",
            page=page,
            here=here,
            bars=_bars(page),
            size=_BARS,
            **paged(here, {"by": page["by"]}, start, size, page["total"], usual=PAIRS),
        )


def _bars(page: MatchesDocument) -> dict[str, object]:
    """Return the chart's bars, each x, y, width and height, and the place of the null."""
    chart, (width, height) = page["chart"], _BARS
    most, step = max([1, *chart["counts"]]), width / len(chart["counts"])
    bars = [
        (
            round(place * step, 1),
            round(height * (1 - count / most), 1),
            round(step - 1, 1),
            round(height * count / most, 1),
        )
        for place, count in enumerate(chart["counts"])
        if count
    ]
    null = next(way["null"] for way in page["comparison"]["ways"] if way["by"] == page["by"])
    at = None if null is None else round(width * (null - chart["low"]) / (chart["high"] - chart["low"]), 1)
    return {"bars": bars, "null": at}


def match_api(service: Service) -> APIRouter:
    """Return the routes of the API."""
    router, limits = APIRouter(), service.settings

    @router.get("/api/v1/matches", response_model=ComparisonsDocument, responses=GET_FAULTS, tags=["studies"])
    def comparisons() -> Response:
        """The layers that were compared."""
        return answer(comparisons_document(service.snapshot))

    @router.get("/api/v1/matches/{name}", response_model=MatchesDocument, responses=GET_FAULTS, tags=["studies"])
    def matches(
        name: StudyId,
        by: By | None = None,
        limit: int = Query(limits.page, ge=1, le=limits.page_limit),
        start: Start = 0,
    ) -> Response:
        """Two compared layers: how many neurons match, what one alone holds, the pairs page by page."""
        return answer(matches_document(service.snapshot, name, by, limit, start))

    return router
