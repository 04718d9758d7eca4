"""The routes of words: the page of one, its JSON twin, the page without one, and the API."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.service.documents.concepts.concept import SHOWN, concept_document, needs_encoder, words_document
from csp_index.service.documents.concepts.concept_shapes import ConceptDocument
from csp_index.service.http import schemas
from csp_index.service.http.addresses import concept_href
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.rendering import Renderer
from csp_index.studies.concepts.words import LONGEST, checked_word

_MORE = 4  # times as many neurons of each way on a page with more

Word = Annotated[str | None, Query(description="A word or a phrase.")]


def add_concepts(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the pages of words and their twins."""
    snapshot, engine, limits = service.snapshot, service.engine, service.settings

    def twin(word: str | None, limit: int) -> Response:
        if word is None:
            return answer(words_document(snapshot))
        return answer(concept_document(snapshot, engine, word, limits.page_size(limit)))

    def page(word: str | None, limit: int) -> Response:
        if word is None:
            return renderer.page("concepts", page=words_document(snapshot), twin="/concepts.json")
        clean, size = checked_word(word), limits.page_size(limit)
        seconds = engine.loading_encoder() if needs_encoder(snapshot, engine, clean) else None
        document = concept_document(snapshot, engine, clean, size, encode=seconds is None)
        further = min(_MORE * size, limits.page_limit)
        context: dict[str, Any] = {
            "limit": size,
            "more": _sized(concept_href(clean), further) if size < further else None,
            "twin": _sized(concept_href(clean, ".json"), size),
        }
        if seconds is not None:  # 202: what is shown is not all yet, and is not kept
            return renderer.page("concept", page=document, loading=round(seconds), status=202, **context)
        return renderer.page("concept", page=document, **context)

    @routes.get("/concepts.json")
    def concepts_twin(q: Word = None, limit: int = SHOWN) -> Response:
        return twin(q, limit)

    @routes.get("/concepts")
    def concepts(q: Word = None, limit: int = SHOWN) -> Response:
        return page(q if (q or "").strip() else None, limit)

    @routes.get("/concepts/{word:path}.json")
    def concept_twin(word: str, limit: int = SHOWN) -> Response:
        return twin(word, limit)

    @routes.get("/concepts/{word:path}")
    def concept(word: str, limit: int = SHOWN) -> Response:
        return page(word, limit)


def concepts_api(service: Service) -> APIRouter:
    """Return the route of words in the API."""
    routes = APIRouter()

    @routes.get("/api/v1/concepts", responses=schemas.sends(ConceptDocument) | GET_FAULTS, tags=["search"])
    def concept(
        q: Annotated[str, Query(min_length=1, max_length=LONGEST, examples=["striped"])],
        limit: int = Query(SHOWN, ge=1, le=service.settings.page_limit, description="Neurons of each way."),
    ) -> Response:
        """Which neurons of all layers answer to a word: by label, by concept vector, as a candidate of their label."""
        return answer(concept_document(service.snapshot, service.engine, q, limit))

    return routes


def _sized(address: str, size: int) -> str:
    """Return an address with the number of neurons, if it is not the usual one."""
    if size == SHOWN:
        return address
    return f"{address}{'&' if '?' in address else '?'}limit={size}"
