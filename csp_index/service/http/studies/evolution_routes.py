"""The routes of evolutions: pages, their JSON twins, and the API."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.service.documents.studies.evolution import PATHS, evolution_document, evolutions_document
from csp_index.service.documents.studies.evolution_shapes import EvolutionDocument, EvolutionsDocument, StepRow
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Start, StudyId, add_list, paged
from csp_index.service.http.rendering import Renderer

_CHART: Final = (400, 120)  # width and height


def add_evolution(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the pages."""
    snapshot, most = service.snapshot, service.settings.page_size

    add_list(routes, renderer, "/evolution", "evolutions", lambda: evolutions_document(snapshot))

    @routes.get("/evolution/{name}.json")
    def evolution_twin(name: StudyId, limit: int = PATHS, start: Start = 0) -> Response:
        return answer(evolution_document(snapshot, name, most(limit), start))

    @routes.get("/evolution/{name}")
    def evolution(name: StudyId, limit: int = PATHS, start: Start = 0) -> Response:
        size = most(limit)
        page = evolution_document(snapshot, name, size, start)
        return renderer.page(
            "evolution",
            page=page,
            lines=_lines(page["steps"], page["total"]),
            size=_CHART,
            **paged(f"/evolution/{name}", {}, start, size, page["total"], usual=PATHS),
        )


def _lines(steps: list[StepRow], neurons: int) -> dict[str, str]:
    """Return the points of the chart's lines, from 0 below to 1 above: neurons settled and alive, cosines."""
    width, height = _CHART
    shares: dict[str, list[float | None]] = {
        "settled": [step["settled"] / neurons for step in steps],
        "alive": [step["alive"] / neurons for step in steps],
        "cosine": [step["cosine"] for step in steps],
    }
    return {
        name: " ".join(
            f"{width * place / (len(steps) - 1):.1f},{height * (1 - min(1, max(0, value))):.1f}"
            for place, value in enumerate(values)
            if value is not None
        )
        for name, values in shares.items()
    }


def evolution_api(service: Service) -> APIRouter:
    """Return the routes of the API."""
    router, limits = APIRouter(), service.settings

    @router.get("/api/v1/evolution", response_model=EvolutionsDocument, responses=GET_FAULTS, tags=["studies"])
    def evolutions() -> Response:
        """The layers that were followed through checkpoints."""
        return answer(evolutions_document(service.snapshot))

    @router.get("/api/v1/evolution/{name}", response_model=EvolutionDocument, responses=GET_FAULTS, tags=["studies"])
    def evolution(
        name: StudyId, limit: int = Query(limits.page, ge=1, le=limits.page_limit), start: Start = 0
    ) -> Response:
        """A layer through the checkpoints of its training: the steps, the paths of its neurons page by page."""
        return answer(evolution_document(service.snapshot, name, limit, start))

    return router
