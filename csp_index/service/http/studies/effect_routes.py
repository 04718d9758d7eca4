"""The routes of effects on a network's logits: the page of a layer's classes, its JSON twin, and the API."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.records import NeuronKey
from csp_index.service.documents.studies.effect_shapes import EffectsDocument, NeuronEffects
from csp_index.service.documents.studies.effects import CLASSES, all_effects, effects_document
from csp_index.service.http import schemas
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Name, Number
from csp_index.service.http.studies.stored_study import OF_LAYER, Shown, StoredStudy

Class = Annotated[int | None, Query(ge=0, lt=2**31, description="The class of this index alone.")]


async def _class(class_index: Class = None) -> int | None:
    return class_index


def _shown(page: EffectsDocument, class_index: int | None) -> Shown:
    alone = class_index is not None
    return Shown(1 if alone else page["total"], {"class_index": class_index}, {"alone": alone})


EFFECTS: Final = StoredStudy(
    "effects",
    OF_LAYER,
    EffectsDocument,
    effects_document,
    _shown,
    rows=CLASSES,
    says="Class by class, the neurons of a layer that raise and lower its logit most.",
    choose=_class,
)


def effects_api(service: Service) -> APIRouter:
    """Return the routes of the API."""
    router = EFFECTS.api(service)

    @router.get(
        "/api/v1/neurons/{model}/{layer}/{index}/effects",
        responses=schemas.sends(NeuronEffects) | GET_FAULTS,
        tags=["studies"],
    )
    def neuron(model: Name, layer: Name, index: Number) -> Response:
        """The effects of one neuron on all classes, the largest by size first."""
        return answer(all_effects(service.snapshot, NeuronKey(model, layer, index)))

    return router
