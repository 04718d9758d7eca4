"""The pages of a layer and their JSON twins: its gallery, its labels by group, its map; rows, sheets and files of it.

A gallery is shown as small pictures or as cards, page by page, or by scripts as one list whose further rows are asked
for as one scrolls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from itertools import chain
from typing import Annotated, Any, Final, Literal, get_args

from fastapi import APIRouter, Depends, Form, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from csp_index.errors import LabelError, ModelError, SettingError, StudyError
from csp_index.records import LayerKey
from csp_index.service.documents import layer_map
from csp_index.service.documents.layer import (
    RANGES,
    GalleryQuery,
    Shown,
    Sort,
    layer_document,
    neurons_document,
    ordered,
)
from csp_index.service.documents.layers import files, sheets
from csp_index.service.documents.layers.groups import groups_document, large_groups
from csp_index.service.documents.layers.overview_shapes import LabelGroup
from csp_index.service.documents.maps import placed_maps
from csp_index.service.documents.shapes import GalleryRow, LayerDocument, MapDocument
from csp_index.service.http import map_svg
from csp_index.service.http.addresses import layer_href, link
from csp_index.service.http.api import Service, answer
from csp_index.service.http.histogram_svg import bars_of
from csp_index.service.http.paging import Name, Start
from csp_index.service.http.rendering import Renderer
from csp_index.service.http.schemas import LONGEST_NAME, LONGEST_NOTE, LONGEST_SUBJECT
from csp_index.service.http.studies.review import check_write
from csp_index.store.addresses import as_ranges, number_ranges
from csp_index.studies.reviewing.notes import Draft

View = Literal["small", "cards"]

_PLAIN: Final = {field.name: field.default for field in fields(GalleryQuery)}
_WAYS: Final = ("previous", "next")
_BLOCKS: Final[dict[View, int]] = {"small": 504, "cards": 240}
"""Rows that scripts ask for at once: no row of 2, 3, 4, 6, 8 or 12 neurons beside each other is left unfilled."""
_WARNED: Final = 3  # large groups that the page of a layer names
_LASTING: Final = "private, max-age=31536000, immutable"
_JOINED: Final = 100  # groups whose pictures are in one sheet
_TAGGED: Final = 4096  # neurons that one request tags, at most
_SPOKEN: Final = {"score": "score", "firing_rate": "share of the images on which it fires", "effect": "size of effect"}

ViewTerm = Annotated[View | None, Query(description="How neurons are drawn; null: by how many there are.")]
Chosen = Annotated[Sequence[str], Query(max_length=4096)]


def add_layers(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    """Add the routes of layers."""
    for add in (_add_pages, _add_parts, _add_chosen):
        add(routes, service, renderer)


def _bounded(service: Service) -> Any:
    """Return the dependency that is the query of a request, its page within the limits of the service."""

    def bounded(query: Annotated[GalleryQuery, Depends()]) -> GalleryQuery:
        size = service.settings.page_size(query.limit)
        return query if query.size == size else replace(query, limit=size)

    return Depends(bounded)


def _add_pages(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    snapshot, engine, query_asked = service.snapshot, service.engine, _bounded(service)

    @routes.get("/layers/{model}/{layer}/map.json")
    def map_twin(model: Name, layer: Name, colour: str = "score", method: str | None = None) -> Response:
        return answer(layer_map.layer_map(snapshot, engine, LayerKey(model, layer), colour, method))

    @routes.get("/layers/{model}/{layer}/labels.json")
    def labels_twin(model: Name, layer: Name, query: GalleryQuery = query_asked) -> Response:
        return answer(groups_document(snapshot, engine, LayerKey(model, layer), query))

    @routes.get("/layers/{model}/{layer}/labels")
    def labels_page(model: Name, layer: Name, query: GalleryQuery = query_asked) -> Response:
        key = LayerKey(model, layer)
        page, here = groups_document(snapshot, engine, key, query), layer_href(str(key))
        best = [[one["index"] for one in group["best"]] for group in page["groups"]]
        joined = [list(chain(*best[first : first + _JOINED])) for first in range(0, len(best), _JOINED)]
        made = [_sheet(service, key, numbers, page["mapped"]) for numbers in joined]
        return renderer.page(
            "layer_labels",
            page=page,
            here=here,
            views=_views(here, query, "labels"),
            query=query,
            all_of=_method(query),
            sheets=[made[place // _JOINED] for place in range(len(best))],
            filtered=query.narrows,
            twin=link(f"{here}/labels.json", _terms(query)),
        )

    @routes.get("/layers/{model}/{layer}.json")
    def layer_twin(model: Name, layer: Name, query: GalleryQuery = query_asked) -> Response:
        return answer(layer_document(snapshot, engine, LayerKey(model, layer), query))

    @routes.get("/layers/{model}/{layer}")
    def layer_page(
        model: Name,
        layer: Name,
        query: GalleryQuery = query_asked,
        colour: str | None = None,
        view: ViewTerm = None,
        tagged: Annotated[int | None, Query(ge=1, le=_TAGGED, description="Neurons that were tagged just now.")] = None,
    ) -> Response:
        key = LayerKey(model, layer)
        many = snapshot.info(key).neurons > query.size
        shown: View = view or ("small" if many else "cards")
        page = layer_document(snapshot, engine, key, query, with_clarity=shown == "cards")
        points = None
        if shown == "cards":
            try:
                by = colour or layer_map.usual_colour(snapshot, key)
                points = layer_map.layer_map(snapshot, engine, key, by, query.method)
            except (ModelError, LabelError, StudyError):  # no concept vectors, or a damaged map, whose own page says so
                points = None
        context = _layer_context(service, key, query, page, points, shown, view)
        return renderer.page("layer", page=page, tagged=tagged, **context)


def _add_parts(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    snapshot, engine, query_asked = service.snapshot, service.engine, _bounded(service)

    @routes.get("/layers/{model}/{layer}/rows")
    def rows(
        model: Name, layer: Name, query: GalleryQuery = query_asked, start: Start = 0, view: View = "small"
    ) -> Response:
        key = LayerKey(model, layer)
        part = replace(query, cursor=query.cursor_at(key, start))
        page = neurons_document(snapshot, engine, key, part, with_clarity=view == "cards")
        mapped = placed_maps(snapshot, key).count
        return renderer.page(
            "layer_rows",
            rows=page["neurons"],
            view=view,
            start=start,
            total=page["total"],
            sheet=_sheet(service, key, _numbers(page["neurons"]), mapped) if view == "small" else None,
        )

    @routes.get("/layers/{model}/{layer}/sheet")
    def sheet(
        model: Name,
        layer: Name,
        neurons: Annotated[str, Query(max_length=16_000)],
        veiled: bool = False,
        v: Annotated[str, Query(max_length=40)] = "",
    ) -> Response:
        numbers = [number for run in number_ranges(neurons)[: sheets.MOST + 1] for number in run[: sheets.MOST + 1]]
        picture = sheets.sheet(snapshot, LayerKey(model, layer), numbers, veiled=veiled)
        headers = {"Cache-Control": _LASTING} if v == snapshot.version else {}
        return Response(picture, media_type=sheets.MEDIA_TYPE, headers=headers)

    @routes.get("/layers/{model}/{layer}/matching.json")
    def matching(model: Name, layer: Name, query: GalleryQuery = query_asked) -> Response:
        numbers = ordered(snapshot, engine, snapshot.layer(LayerKey(model, layer)), query)
        return answer({"neurons": as_ranges(numbers.tolist()), "total": len(numbers)})


def _add_chosen(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    snapshot, engine, query_asked = service.snapshot, service.engine, _bounded(service)

    def file(key: LayerKey, format: files.Format, query: GalleryQuery) -> Response:
        data = files.rows_as_file(snapshot, engine, key, query, format)
        name = f"{key.model}-{key.layer}".encode("ascii", "replace").decode().translate(files.PLAIN_NAME)
        headers = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
        return Response(data, media_type=files.FORMATS[format], headers=headers)

    @routes.get("/layers/{model}/{layer}/export")
    def export(model: Name, layer: Name, format: files.Format, query: GalleryQuery = query_asked) -> Response:
        return file(LayerKey(model, layer), format, query)

    @routes.get("/layers/{model}/{layer}/chosen")
    def chosen(
        model: Name, layer: Name, format: files.Format, neurons: Chosen = (), method: str | None = None
    ) -> Response:
        key = LayerKey(model, layer)
        numbers = ",".join(value.removeprefix(f"{key}/") for value in neurons)
        if not numbers:
            raise SettingError("no neuron is chosen: choose some with their boxes, or export all that match")
        return file(key, format, GalleryQuery(neurons=numbers, method=method))

    @routes.post("/layers/{model}/{layer}/tag")
    def tag(
        request: Request,
        model: Name,
        layer: Name,
        neurons: Annotated[str, Form(max_length=16_000)],
        reader: Annotated[str, Form(max_length=LONGEST_NAME)],
        text: Annotated[str, Form(max_length=LONGEST_NOTE)],
        form: Annotated[str, Form(max_length=LONGEST_SUBJECT)] = "",
    ) -> Response:
        check_write(service, request, form)
        key = LayerKey(model, layer)
        numbers = ordered(snapshot, engine, snapshot.layer(key), GalleryQuery(neurons=neurons))
        if service.desk is None or not 1 <= len(numbers) <= _TAGGED:
            raise SettingError(f"{len(numbers):,} neurons are to be tagged: expected 1 to {_TAGGED:,} at once")
        service.desk.note([Draft(f"{key}/{number}", "tag", reader, text) for number in numbers.tolist()])
        back = link(layer_href(str(key)), [("neurons", as_ranges(numbers.tolist())), ("tagged", len(numbers))])
        return RedirectResponse(back, 303, {"Cache-Control": "no-store"})


def _layer_context(
    service: Service,
    key: LayerKey,
    query: GalleryQuery,
    page: LayerDocument,
    points: MapDocument | None,
    shown: View,
    view: View | None,
) -> dict[str, Any]:
    """Return what the template of a layer needs besides its document: links, choices, the drawing of its map."""
    here, terms = layer_href(str(key)), _terms(query)
    own = [("view", view)] if view else []
    linked = [*terms, *own] if points is None else [*terms, *own, ("colour", points["colour"])]
    drawn = [pair for pair in linked if pair[0] in ("colour", "method")]
    ways = {way: link(here, [*linked, ("cursor", page[way])]) if page[way] else None for way in _WAYS}
    cursor = [("cursor", query.cursor)] if query.cursor else []
    listed = [pair for pair in terms if pair[0] != "limit"]
    block = _block(service, shown)
    large = _large_groups(service, key, query.method)
    return ways | {
        "twin": link(f"{here}.json", [*terms, *cursor]),
        "here": here,
        "view": shown,
        "views": _views(here, query, shown),
        "own": own,
        "sheet": _sheet(service, key, _numbers(page["neurons"]), page["mapped"]) if shown == "small" else None,
        "place": query.place(key),
        "block": block,
        "rows": link(f"{here}/rows", [*listed, ("view", shown), ("limit", block)]),
        "matching": link(f"{here}/matching.json", listed),
        "exports": {kind: link(f"{here}/export", [*listed, ("format", kind)]) for kind in files.FORMATS},
        "histograms": [bars_of(one) for one in page["histograms"]],
        "spoken": _SPOKEN,
        "ranges": {column: query.range(column) for column in RANGES},
        "all_of": _method(query),
        "large": large[:_WARNED],
        "larger": len(large),
        "filtered": query.narrows,
        "terms": [*terms, *own],
        "points": points,
        "drawing": points and map_svg.draw(points),
        "map_json": link(f"{here}/map.json", drawn),
        "sorts": get_args(Sort),
        "states": get_args(Shown),
        "colours": layer_map.COLOURS,
        "steps": map_svg.STEPS,
    }


def _terms(query: GalleryQuery) -> list[tuple[str, object]]:
    """Return the terms of a query's address that are not as usual, without its cursor."""
    return [(name, value) for name, value in asdict(query).items() if name != "cursor" and value != _PLAIN[name]]


def _method(query: GalleryQuery) -> list[tuple[str, object]]:
    return [] if query.method is None else [("method", query.method)]


def _views(here: str, query: GalleryQuery, shown: str) -> list[tuple[str, str, bool]]:
    """Return the ways to look at the neurons of a query: name, address, whether it is the one shown."""
    terms = _terms(query)
    ways: list[tuple[str, str, str]] = [
        ("small", "Pictures", link(here, [*terms, ("view", "small")])),
        ("cards", "Cards", link(here, [*terms, ("view", "cards")])),
        ("labels", "By label", link(f"{here}/labels", terms)),
        ("map", "Map", link(f"{here}/map", _method(query))),
    ]
    return [(name, address, way == shown) for way, name, address in ways]


def _large_groups(service: Service, key: LayerKey, method: str | None) -> list[LabelGroup]:
    """Return the groups of a layer that are worth a warning; counted once for the names that readers gave."""
    snapshot = service.snapshot
    return snapshot.cache.get(
        ("large groups", key, method),
        lambda: large_groups(snapshot.layer(key), method),
        lambda groups: sum(2**10 + len(group["numbers"]) for group in groups) + 1,
        state=snapshot.reviews.pins(snapshot.info(key))[0],
    )


def _block(service: Service, view: View) -> int:
    """Return how many rows scripts ask for at once: at most what one request may ask for, and a multiple of 12."""
    most = min(_BLOCKS[view], service.settings.page_limit)
    return most - most % 12 or most


def _numbers(rows: Sequence[GalleryRow]) -> list[int]:
    return [row["index"] for row in rows]


def _sheet(service: Service, key: LayerKey, numbers: list[int], mapped: int) -> dict[str, Any] | None:
    """Return the addresses of a sheet of neurons, without and with veils, and the place of each; None for none."""
    if not numbers:
        return None
    terms = [("neurons", as_ranges(numbers)), ("v", service.snapshot.version)]
    here = f"{layer_href(str(key))}/sheet"
    veiled = link(here, [*terms, ("veiled", "true")]) if mapped else None
    return {"plain": link(here, terms), "veiled": veiled, "places": sheets.places(numbers)}
