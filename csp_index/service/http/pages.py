"""The routes of the pages and of their JSON twins: an address, its document, and the template that shows it.

A page and its twin call the same function. A page adds addresses; the modules in `documents` decide what documents
contain.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Form, Path, Query, UploadFile
from starlette.responses import HTMLResponse, RedirectResponse, Response

from csp_index.errors import CspIndexError, SettingError
from csp_index.labelling.label_rule import preferred_method
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents import compare, manual
from csp_index.service.documents.card import card_of
from csp_index.service.documents.excited import own_picture
from csp_index.service.documents.home import home_document, random_neuron
from csp_index.service.documents.image import image_document, picture_for_card, pictures_inside
from csp_index.service.documents.neuron import first_pictures, neuron_document
from csp_index.service.documents.neuron_shapes import CompareDocument, NeuronDocument
from csp_index.service.documents.original import has_original
from csp_index.service.documents.search import SEARCHED, SearchQuery, names_document, search_document
from csp_index.service.documents.shapes import ImageDocument
from csp_index.service.documents.studies import classes
from csp_index.service.documents.studies.audit import audit_document
from csp_index.service.documents.studies.audit_shapes import AuditDocument
from csp_index.service.documents.studies.class_shapes import ClassDocument, ClassesDocument
from csp_index.service.documents.studies.report import report_document, report_file
from csp_index.service.http.addresses import classes_href, compare_href, image_href, link, neuron_href
from csp_index.service.http.api import Service, answer, fault_of, picture_of, run_statement, sql_document
from csp_index.service.http.concept_routes import add_concepts
from csp_index.service.http.layer_pages import add_layers
from csp_index.service.http.manual_html import manual_html
from csp_index.service.http.paging import Name, Number
from csp_index.service.http.rendering import Renderer, Site
from csp_index.service.http.schemas import LONGEST_SQL, LONGEST_TEXT
from csp_index.service.http.studies.effect_routes import EFFECTS
from csp_index.service.http.studies.evolution_routes import EVOLUTION
from csp_index.service.http.studies.hierarchy_routes import HIERARCHY
from csp_index.service.http.studies.layer_map_routes import add_maps
from csp_index.service.http.studies.match_routes import MATCHES
from csp_index.service.http.studies.meaning_routes import MEANINGS
from csp_index.service.sql_sandbox import write_file
from csp_index.studies.reporting.page import policy

_TINY: Final = 64  # pixels of the longer side: pictures up to this size are enlarged without blur
_PICTURE: Final = 256  # pixels: the longer side of the small picture on an image's page
_ORIGINAL: Final = 640  # the longer side of the original there, at most
_MORE: Final = 4  # times as many results of each kind in a search for more
_FILES: Final = {"csv": "text/csv", "json": "application/json", "parquet": "application/vnd.apache.parquet"}

ImageId = Annotated[int, Path(ge=0, lt=2**63)]
ImageQuery = Annotated[int | None, Query(ge=0, lt=2**63)]
Text = Annotated[str | None, Query(max_length=LONGEST_TEXT)]
Address = Annotated[str | None, Query(max_length=600)]
Method = Annotated[str | None, Query(max_length=60)]
Class = Annotated[str | None, Query(max_length=500)]
Column = Annotated[str | None, Query(max_length=500)]
Neurons = Annotated[Sequence[str], Query(max_length=8)]
Shape = Literal["", "csv", "json", "parquet"]


def site_of(service: Service) -> Site:
    """Return what every page shows of a service."""
    snapshot = service.snapshot
    first = snapshot.image_rows([0], ["width", "height", "thumbnail"]).get(0) or {}
    tiny = 0 < max(first.get("width") or 0, first.get("height") or 0) <= _TINY
    pictured = bool(first.get("thumbnail", True))
    preferred = preferred_method(snapshot.store)
    settings = service.settings
    form = service.forms.proof if settings.writes else ""
    return Site(
        snapshot.name,
        snapshot.version,
        service.sql is not None,
        tiny,
        pictured,
        preferred,
        form,
        settings.write,
        settings.rate,
        snapshot.number,
    )


def router(service: Service, renderer: Renderer) -> APIRouter:
    """Return the routes of all pages except the sign-in form."""
    routes = APIRouter(include_in_schema=False)
    neurons = (add_layers, _add_neurons, _add_classes, EFFECTS.add_pages, _add_comparison, _add_audits)
    studies = (add_maps, *(study.add_pages for study in (MATCHES, EVOLUTION, HIERARCHY, MEANINGS)))
    for add in (_add_home, _add_search, add_concepts, *neurons, _add_images, *studies, _add_sql, _add_manual):
        add(routes, service, renderer)
    return routes


def _add_home(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    @routes.get("/")
    def home() -> Response:
        page = home_document(service.snapshot)
        total = sum(layer["neurons"] for layer in page["layers"])
        return renderer.page("home", page=page, neurons=total, twin="/index.json")

    @routes.get("/index.json")
    def home_twin() -> Response:
        return answer(home_document(service.snapshot))

    @routes.get("/random")
    def random_page() -> Response:
        key = random_neuron(service.snapshot, random.Random())  # any neuron will do  # nosec B311
        return RedirectResponse(neuron_href(str(key)), 307, {"Cache-Control": "no-store"})


def _add_search(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    snapshot, engine = service.snapshot, service.engine

    most = service.settings.page_limit

    def query_of(q: str | None, image_id: int | None, neuron: str | None, limit: int) -> SearchQuery:
        key = NeuronKey.parse(neuron) if neuron else None
        return SearchQuery((q or "").strip() or None, image_id, key, limit=service.settings.page_size(limit))

    @routes.get("/search")
    def search(q: Text = None, image_id: ImageQuery = None, neuron: Address = None, limit: int = SEARCHED) -> Response:
        values = {"q": (q or "").strip() or None, "image_id": image_id, "neuron": neuron or None}
        terms: list[tuple[str, object]] = [(name, value) for name, value in values.items() if value is not None]
        if not terms:
            return renderer.page("search", page=None, subject=None)
        query = query_of(q, image_id, neuron, limit)
        seconds = None if query.text is None else engine.loading_encoder()
        page = search_document(snapshot, engine, query) if seconds is None else names_document(snapshot, query)
        context: dict[str, Any] = {
            "subject": str(terms[0][1]),
            "limit": limit,
            "more": link("/search", [*terms, ("limit", min(_MORE * limit, most))]) if limit < most else None,
            "twin": link("/search.json", terms if limit == SEARCHED else [*terms, ("limit", limit)]),
        }
        if seconds is not None:  # 202: what is shown is not all yet, and is not kept
            return renderer.page("search", page=page, loading=round(seconds), status=202, **context)
        return renderer.page("search", page=page, **context)

    @routes.get("/search.json")
    def search_twin(
        q: Text = None, image_id: ImageQuery = None, neuron: Address = None, limit: int = SEARCHED
    ) -> Response:
        return answer(search_document(snapshot, engine, query_of(q, image_id, neuron, limit)))

    @routes.post("/search")
    def search_upload(file: UploadFile) -> Response:
        picture = picture_of(file, service.settings.upload_pixels)
        query = SearchQuery(upload=picture)
        page = search_document(snapshot, engine, query)
        own = own_picture(picture)
        return renderer.page("search", page=page, subject="Your picture", limit=query.limit, more=None, own=own)


def _add_neurons(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    snapshot, engine = service.snapshot, service.engine

    def document(key: NeuronKey, method: str | None) -> NeuronDocument:
        return neuron_document(snapshot, engine, key, method)

    @routes.get("/neurons/{model}/{layer}/{index}.json")
    def neuron_twin(model: Name, layer: Name, index: Number, method: Method = None) -> Response:
        return answer(document(NeuronKey(model, layer, index), method))

    @routes.get("/neurons/{model}/{layer}/{index}/card.png")
    def card(model: Name, layer: Name, index: Number, method: Method = None) -> Response:
        page = document(NeuronKey(model, layer, index), method)
        return Response(card_of(page, partial(picture_for_card, snapshot)), media_type="image/png")

    @routes.get("/neurons/{model}/{layer}/{index}")
    def neuron(model: Name, layer: Name, index: Number, method: Method = None) -> Response:
        key = NeuronKey(model, layer, index)
        page = document(key, method)
        first = first_pictures(page) if renderer.site.pictures else []
        return renderer.page(
            "neuron",
            page=page,
            inside=pictures_inside(snapshot, first),
            twin=link(f"{neuron_href(str(key))}.json", {"method": method} if method else {}),
        )


def _add_classes(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    snapshot = service.snapshot

    def document(key: LayerKey, by: str | None, name: str | None) -> ClassesDocument | ClassDocument:
        if name is None:
            return classes.classes_document(snapshot, key, by)
        return classes.class_document(snapshot, key, name, by)

    @routes.get("/classes/{model}/{layer}.json")
    def classes_twin(model: Name, layer: Name, by: Class = None, name: Class = None) -> Response:
        return answer(document(LayerKey(model, layer), by, name))

    @routes.get("/classes/{model}/{layer}")
    def classes_page(model: Name, layer: Name, by: Class = None, name: Class = None) -> Response:
        key = LayerKey(model, layer)
        page = document(key, by, name)
        address, _, terms = classes_href(str(key), by, name).partition("?")
        template = "classes" if name is None else "class"
        return renderer.page(template, page=page, twin=f"{address}.json{terms and '?'}{terms}")


def _add_audits(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    def document(model: str, layer: str | None, by: str | None) -> AuditDocument:
        return audit_document(service.snapshot, model, layer, by)

    @routes.get("/audit/{model}.json")
    def audit_twin(model: Name, layer: Column = None, by: Column = None) -> Response:
        return answer(document(model, layer, by))

    @routes.get("/audit/{model}/report.json")
    def report_twin(model: Name, layer: Column = None, by: Column = None) -> Response:
        return answer(report_document(service.snapshot, model, layer, by))

    @routes.get("/audit/{model}/report")
    def report(model: Name, layer: Column = None, by: Column = None) -> Response:
        headers = {"content-security-policy": f"{policy()}; frame-ancestors 'none'"}
        return HTMLResponse(report_file(service.snapshot, model, layer, by), headers=headers)

    @routes.get("/audit/{model}")
    def audit_page(model: Name, layer: Column = None, by: Column = None) -> Response:
        terms = [(name, value) for name, value in (("layer", layer), ("by", by)) if value is not None]
        twin = link(f"/audit/{quote(model, safe='')}.json", terms)
        return renderer.page("audit", page=document(model, layer, by), twin=twin)


def _add_images(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    def document(image_id: int) -> ImageDocument:
        return image_document(service.snapshot, service.engine, image_id)

    @routes.get("/images/{image_id}.json")
    def image_twin(image_id: ImageId) -> Response:
        return answer(document(image_id))

    @routes.get("/images/{image_id}")
    def image(image_id: ImageId) -> Response:
        page = document(image_id)
        sides = page["width"] or 1, page["height"] or 1
        original = bool(service.settings.originals) and has_original(service.snapshot, image_id)
        longest = max(_PICTURE, min(_ORIGINAL, max(sides))) if original else _PICTURE
        size = [max(1, round(longest * side / max(sides))) for side in sides]
        twin = f"{image_href(image_id)}.json"
        return renderer.page("image", page=page, size=size, original=original, twin=twin)


def _add_comparison(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    def document(keys: Sequence[NeuronKey]) -> CompareDocument:
        return compare.compare_document(service.snapshot, service.engine, keys)

    @routes.get("/compare.json")
    def comparison_twin(neurons: Neurons = ()) -> Response:
        return answer(document(_keys(neurons)))

    @routes.get("/compare")
    def comparison(neurons: Neurons = ()) -> Response:
        keys = _keys(neurons)
        addresses = list(map(str, keys))
        page = document(keys) if len(keys) > 1 else None
        twin = compare_href(addresses).replace("/compare?", "/compare.json?", 1) if page else None
        return renderer.page("compare", page=page, addresses=addresses, most=compare.NEURONS[1], twin=twin)


def _keys(values: Sequence[str]) -> list[NeuronKey]:
    """Return the neurons of an address: several values, or one with commas after the numbers; each neuron once."""
    addresses = [part.strip() for value in values for part in re.split(r"(?<=[0-9]),", value) if part.strip()]
    keys = list(dict.fromkeys(map(NeuronKey.parse, addresses)))
    if len(keys) > compare.NEURONS[1]:
        raise SettingError(f"{len(keys)} neurons are named: two to {compare.NEURONS[1]} can be compared")
    return keys


def _add_sql(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    def page(sql: str, outcome: dict[str, Any], status: int = 200) -> Response:
        schema = None if service.sql is None else service.sql.schema_document()
        document: dict[str, Any] = {
            "enabled": service.sql is not None,
            "schema": schema,
            "sql": sql,
            "answer": None,
            "error": None,
        }
        return renderer.page("sql", page=document | outcome, status=status, twin="/sql.json")

    def twin(_: str) -> Response:
        if service.sql is None:
            return answer({"enabled": False})
        return answer({"enabled": True, **service.sql.schema_document()})

    def run(sql: str, format: Shape) -> Response:
        try:
            if format == "":
                return page(sql, {"answer": sql_document(service, sql)})
            rows = run_statement(service, sql)
            name = f"answer-first-{rows.table.num_rows}" if rows.truncated else "answer"  # its name says that it is cut
            headers = {"Content-Disposition": f'attachment; filename="{name}.{format}"'}
            return Response(write_file(rows, format), media_type=_FILES[format], headers=headers)
        except CspIndexError as exc:
            fault = fault_of(exc)
            return page(sql, {"error": {"message": fault.message, "hint": fault.hint}}, fault.status)

    @routes.get("/sql")
    async def sql_page(sql: Annotated[str, Query(max_length=LONGEST_SQL)] = "") -> Response:
        return await service.sql_turns.run(lambda statement: page(statement, {}), sql)

    @routes.get("/sql.json")
    async def sql_twin() -> Response:
        return await service.sql_turns.run(twin, "")

    @routes.post("/sql")
    async def sql_run(
        sql: Annotated[str, Form(max_length=LONGEST_SQL)], format: Annotated[Shape, Form()] = ""
    ) -> Response:
        return await service.sql_turns.run(lambda statement: run(statement, format), sql)


def _add_manual(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    def page(name: str) -> Response:
        document = manual.manual_document(name)
        contents = [heading for heading in document["headings"] if heading["level"] in (2, 3)]
        return renderer.page(
            "manual", page=document, html=manual_html(name), contents=contents, twin=f"/docs/{name}.json"
        )

    @routes.get("/docs")
    def manual_start() -> Response:
        return page(manual.START)

    @routes.get("/docs/{name}.json")
    def manual_twin(name: Name) -> Response:
        return answer(manual.manual_document(name))

    @routes.get("/docs/{name}")
    def manual_page(name: Name) -> Response:
        drawing = manual.picture(name)
        return page(name) if drawing is None else Response(drawing[0], media_type=drawing[1])
