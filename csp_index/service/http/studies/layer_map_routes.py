"""The routes of a layer's map: its page, the cards of the neurons that are chosen on it, and the API.

The JSON twin of the page stands with the pages of the layer.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from csp_index.records import LayerKey
from csp_index.service.documents import layer_map
from csp_index.service.documents.layer import GalleryQuery, neurons_document
from csp_index.service.documents.shapes import MapDocument
from csp_index.service.http import schemas
from csp_index.service.http.addresses import layer_href, link
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.map_svg import STEPS, clouds
from csp_index.service.http.paging import Name
from csp_index.service.http.rendering import Renderer
from csp_index.store.addresses import as_ranges
from csp_index.studies.layer_maps.map_html import free_names

CARDS: Final = 48
"""Chosen neurons that are shown as cards; the layer's page shows all."""
LONGEST: Final = 4096
"""Characters of the list of chosen neurons."""

Colour = Annotated[str | None, Query(max_length=60)]
Method = Annotated[str | None, Query(max_length=60)]
Cluster = Annotated[int | None, Query(ge=0, lt=2**31, description="Choose the neurons of a cluster.")]
Chosen = Annotated[str, Query(max_length=LONGEST, description="Choose neurons: 3,8,100-120.")]


def add_maps(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the page of a layer's map, and its cards."""
    snapshot, engine = service.snapshot, service.engine
    size = service.settings.page_size(CARDS)

    def chosen(key: LayerKey, neurons: str, cluster: int | None, method: str | None) -> dict[str, Any]:
        """Return what the cards of the chosen neurons need; nothing where none is chosen."""
        if cluster is not None:
            neurons = as_ranges(layer_map.cluster_neurons(snapshot, key, cluster))
        if not neurons.strip():
            return {"chosen": None}
        page = neurons_document(snapshot, engine, key, GalleryQuery(neurons=neurons, method=method, limit=size))
        terms = [("neurons", neurons), *([("method", method)] if method else [])]
        every = link(layer_href(str(key)), terms) if len(neurons) <= LONGEST else None
        return {"chosen": page, "every": every}

    @routes.get("/layers/{model}/{layer}/map/cards")
    def cards(
        model: Name, layer: Name, neurons: Chosen = "", cluster: Cluster = None, method: Method = None
    ) -> Response:
        return renderer.page("layer_map_cards", **chosen(LayerKey(model, layer), neurons, cluster, method))

    @routes.get("/layers/{model}/{layer}/map")
    def map_page(
        model: Name,
        layer: Name,
        colour: Colour = None,
        method: Method = None,
        neurons: Chosen = "",
        cluster: Cluster = None,
    ) -> Response:
        key = LayerKey(model, layer)
        kept = layer_map.stored(snapshot, key)
        by = colour or ("cluster" if kept and kept.named else layer_map.usual_colour(snapshot, key))
        page = layer_map.layer_map(snapshot, engine, key, by, method)
        here = f"{layer_href(str(key))}/map"
        terms = [("colour", page["colour"]), *([("method", method)] if method else [])]
        named = [(one["labels"][0], one["x"], one["y"]) for one in page["clusters"] if one["labels"]]
        return renderer.page(
            "layer_map",
            page=page,
            here=here,
            terms=terms,
            cluster=cluster,
            clouds=clouds(page),
            names=free_names(named),
            colours=(*layer_map.GROUPS, *layer_map.COLOURS),
            steps=STEPS,
            hues=layer_map.HUES,
            twin=link(f"{here}.json", terms),
            cards=link(f"{here}/cards", terms[1:]),
            **chosen(key, neurons, cluster, method),
        )


def maps_api(service: Service) -> APIRouter:
    """Return the route of the API."""
    router = APIRouter()

    @router.get(
        "/api/v1/layers/{model}/{layer}/map", responses=schemas.sends(MapDocument) | GET_FAULTS, tags=["layers"]
    )
    def layer_map_of(model: Name, layer: Name, colour: Colour = None, method: Method = None) -> Response:
        """The neurons of a layer on a plane, with clusters and their names once `csp-index map` has made them."""
        key = LayerKey(model, layer)
        return answer(layer_map.layer_map(service.snapshot, service.engine, key, colour or "score", method))

    return router
