"""The routes of the meanings of a layer's neurons: the page, its JSON twin, and the API."""

from __future__ import annotations

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.records import LayerKey
from csp_index.service.documents.studies.meaning_shapes import MeaningsDocument
from csp_index.service.documents.studies.meanings import NEURONS, meanings_document
from csp_index.service.http.addresses import meanings_href
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Name, Start, paged
from csp_index.service.http.rendering import Renderer


def add_meanings(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the page of a layer's meanings and its twin."""
    snapshot, sized = service.snapshot, service.settings.page_size

    @routes.get("/meanings/{model}/{layer}.json")
    def meanings_twin(model: Name, layer: Name, start: Start = 0, limit: int = NEURONS) -> Response:
        return answer(meanings_document(snapshot, LayerKey(model, layer), start, sized(limit)))

    @routes.get("/meanings/{model}/{layer}")
    def meanings_page(model: Name, layer: Name, start: Start = 0, limit: int = NEURONS) -> Response:
        key, size = LayerKey(model, layer), sized(limit)
        page = meanings_document(snapshot, key, start, size)
        total = max(page["several"], page["kept"])
        links = paged(meanings_href(str(key)), {}, start, size, total, usual=NEURONS)
        return renderer.page("meanings", page=page, **links)


def meanings_api(service: Service) -> APIRouter:
    """Return the route of the API."""
    router, limits = APIRouter(), service.settings

    @router.get(
        "/api/v1/meanings/{model}/{layer}", response_model=MeaningsDocument, responses=GET_FAULTS, tags=["studies"]
    )
    def meanings(
        model: Name,
        layer: Name,
        start: Start = 0,
        limit: int = Query(limits.page, ge=1, le=limits.page_limit),
    ) -> Response:
        """The neurons of a layer that one label does not tell: with several facets, or a logical label."""
        return answer(meanings_document(service.snapshot, LayerKey(model, layer), start, limit))

    return router
