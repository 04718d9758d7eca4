"""The routes of effects on a network's logits: the page of a layer's classes, its JSON twin, and the API."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.studies.effect_shapes import EffectsDocument, NeuronEffects
from csp_index.service.documents.studies.effects import CLASSES, all_effects, effects_document
from csp_index.service.http.addresses import effects_href
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Name, Number, Start, paged
from csp_index.service.http.rendering import Renderer

Class = Annotated[int | None, Query(ge=0, lt=2**31, description="The class of this index alone.")]


def add_effects(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the page of a layer's effects and its twin."""
    snapshot, sized = service.snapshot, service.settings.page_size

    @routes.get("/effects/{model}/{layer}.json")
    def effects_twin(
        model: Name, layer: Name, class_index: Class = None, start: Start = 0, limit: int = CLASSES
    ) -> Response:
        return answer(effects_document(snapshot, LayerKey(model, layer), class_index, start, sized(limit)))

    @routes.get("/effects/{model}/{layer}")
    def effects_page(
        model: Name, layer: Name, class_index: Class = None, start: Start = 0, limit: int = CLASSES
    ) -> Response:
        key, size = LayerKey(model, layer), sized(limit)
        page = effects_document(snapshot, key, class_index, start, size)
        here, alone = effects_href(str(key)), class_index is not None
        total = 1 if alone else page["total"]
        links = paged(here, {"class_index": class_index}, start, size, total, usual=CLASSES)
        return renderer.page("effects", page=page, alone=alone, here=here, **links)


def effects_api(service: Service) -> APIRouter:
    """Return the routes of the API."""
    router, limits = APIRouter(), service.settings

    @router.get(
        "/api/v1/effects/{model}/{layer}", response_model=EffectsDocument, responses=GET_FAULTS, tags=["studies"]
    )
    def effects(
        model: Name,
        layer: Name,
        class_index: Class = None,
        start: Start = 0,
        limit: int = Query(limits.page, ge=1, le=limits.page_limit),
    ) -> Response:
        """Class by class, the neurons of a layer that raise and lower its logit most."""
        return answer(effects_document(service.snapshot, LayerKey(model, layer), class_index, start, limit))

    @router.get(
        "/api/v1/neurons/{model}/{layer}/{index}/effects",
        response_model=NeuronEffects,
        responses=GET_FAULTS,
        tags=["studies"],
    )
    def neuron(model: Name, layer: Name, index: Number) -> Response:
        """The effects of one neuron on all classes, the largest by size first."""
        return answer(all_effects(service.snapshot, NeuronKey(model, layer, index)))

    return router
