"""The page of a layer and its JSON twin: a gallery of its neurons, where it leads, the drawing of its map."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Annotated, Any, Final, get_args

from fastapi import APIRouter, Depends
from starlette.responses import Response

from csp_index.errors import LabelError, ModelError
from csp_index.records import LayerKey
from csp_index.service.documents import layer_map
from csp_index.service.documents.layer import GalleryQuery, Shown, Sort, layer_document
from csp_index.service.documents.shapes import LayerDocument, MapDocument
from csp_index.service.http import map_svg
from csp_index.service.http.addresses import layer_href, link
from csp_index.service.http.api import Service, answer
from csp_index.service.http.paging import Name
from csp_index.service.http.rendering import Renderer

_PLAIN: Final = {field.name: field.default for field in fields(GalleryQuery)}
_WAYS: Final = ("previous", "next")


def add_layers(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the routes of layers."""
    snapshot, engine = service.snapshot, service.engine

    def bounded(query: Annotated[GalleryQuery, Depends()]) -> GalleryQuery:
        size = service.settings.page_size(query.limit)
        return query if query.size == size else replace(query, limit=size)

    bounded_query = Depends(bounded)

    @routes.get("/layers/{model}/{layer}/map.json")
    def map_twin(model: Name, layer: Name, colour: str = "score", method: str | None = None) -> Response:
        return answer(layer_map.layer_map(snapshot, engine, LayerKey(model, layer), colour, method))

    @routes.get("/layers/{model}/{layer}.json")
    def layer_twin(model: Name, layer: Name, query: GalleryQuery = bounded_query) -> Response:
        return answer(layer_document(snapshot, engine, LayerKey(model, layer), query))

    @routes.get("/layers/{model}/{layer}")
    def layer_page(model: Name, layer: Name, query: GalleryQuery = bounded_query, colour: str = "score") -> Response:
        key = LayerKey(model, layer)
        page = layer_document(snapshot, engine, key, query)
        try:
            points = layer_map.layer_map(snapshot, engine, key, colour, query.method)
        except (ModelError, LabelError):  # without embeddings or texts there are no concept vectors
            points = None
        return renderer.page("layer", page=page, **_layer_context(key, query, page, points))


def _layer_context(
    key: LayerKey, query: GalleryQuery, page: LayerDocument, points: MapDocument | None
) -> dict[str, Any]:
    """Return what the template of a layer needs besides its document: links, choices, the drawing of its map."""
    here = layer_href(str(key))
    terms = [(name, value) for name, value in asdict(query).items() if name != "cursor" and value != _PLAIN[name]]
    linked = terms if points is None else [*terms, ("colour", points["colour"])]
    drawn = [pair for pair in linked if pair[0] in ("colour", "method")]
    ways = {way: link(here, [*linked, ("cursor", page[way])]) if page[way] else None for way in _WAYS}
    cursor = [("cursor", query.cursor)] if query.cursor else []
    return ways | {
        "twin": link(f"{here}.json", [*terms, *cursor]),
        "here": here,
        "filtered": query.state != "all" or bool(query.q.strip() or query.neurons.strip()),
        "terms": terms,
        "points": points,
        "drawing": points and map_svg.draw(points),
        "map_json": link(f"{here}/map.json", drawn),
        "sorts": get_args(Sort),
        "states": get_args(Shown),
        "colours": layer_map.COLOURS,
        "steps": map_svg.STEPS,
    }
