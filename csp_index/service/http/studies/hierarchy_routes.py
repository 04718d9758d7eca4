"""The routes of labels by broader words: the page of a layer or of a word, its JSON twin, and the API."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.records import LayerKey
from csp_index.service.documents.studies.hierarchy import NEURONS, hierarchy_document
from csp_index.service.documents.studies.hierarchy_shapes import HierarchyDocument
from csp_index.service.http.addresses import hierarchy_href
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Name, Start, paged
from csp_index.service.http.rendering import Renderer

Word = Annotated[int | None, Query(ge=0, lt=2**31, description="The place of a word; without it the broadest groups.")]


def add_hierarchies(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the page and its twin."""
    snapshot, sized = service.snapshot, service.settings.page_size

    @routes.get("/hierarchy/{model}/{layer}.json")
    def hierarchy_twin(model: Name, layer: Name, word: Word = None, start: Start = 0, limit: int = NEURONS) -> Response:
        return answer(hierarchy_document(snapshot, LayerKey(model, layer), word, start, sized(limit)))

    @routes.get("/hierarchy/{model}/{layer}")
    def hierarchy_page(model: Name, layer: Name, word: Word = None, start: Start = 0, limit: int = NEURONS) -> Response:
        key, size = LayerKey(model, layer), sized(limit)
        page = hierarchy_document(snapshot, key, word, start, size)
        links = paged(hierarchy_href(str(key)), {"word": word}, start, size, page["total"], usual=NEURONS)
        return renderer.page("hierarchy", page=page, **links)


def hierarchy_api(service: Service) -> APIRouter:
    """Return the routes of the API."""
    router, limits = APIRouter(), service.settings

    @router.get(
        "/api/v1/hierarchy/{model}/{layer}", response_model=HierarchyDocument, responses=GET_FAULTS, tags=["studies"]
    )
    def hierarchy(
        model: Name,
        layer: Name,
        word: Word = None,
        start: Start = 0,
        limit: int = Query(limits.page, ge=1, le=limits.page_limit),
    ) -> Response:
        """The labels of a layer by broader words: a word's groups and its neurons, or the broadest groups."""
        return answer(hierarchy_document(service.snapshot, LayerKey(model, layer), word, start, limit))

    return router
