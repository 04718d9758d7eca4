"""The routes of the API, and how errors become responses. Each route calls one function that makes its document.

Documents are sent as they are made: their shapes describe them, and nothing checks them again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import pydantic_core
from fastapi import APIRouter, Path, Query, UploadFile
from fastapi.exceptions import RequestValidationError
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from csp_index import errors
from csp_index.images import decode
from csp_index.printable import printable
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.desk import Desk
from csp_index.service.documents.home import home_document
from csp_index.service.documents.image import image_document, stored_thumbnail
from csp_index.service.documents.layer import GalleryQuery, Order, Shown, Sort, neurons_document
from csp_index.service.documents.map_shapes import ComputedMapsDocument, MapsDocument
from csp_index.service.documents.maps import computed_maps_document, map_veil, maps_document
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.documents.neuron_shapes import LabelDocument, NeuronDocument
from csp_index.service.documents.original import original_picture
from csp_index.service.documents.search import SearchQuery, search_document
from csp_index.service.documents.shapes import (
    HealthDocument,
    HomeDocument,
    ImageDocument,
    LayersDocument,
    NeuronsDocument,
    ReadinessDocument,
    SearchDocument,
    SqlDocument,
    VersionDocument,
)
from csp_index.service.documents.studies import classes
from csp_index.service.documents.studies.audit import audit_document
from csp_index.service.documents.studies.audit_shapes import AuditDocument, ReportDocument
from csp_index.service.documents.studies.class_shapes import ClassDocument, ClassesDocument, NeuronClassesDocument
from csp_index.service.documents.studies.rate import Questions
from csp_index.service.documents.studies.report import report_document
from csp_index.service.http import schemas
from csp_index.service.http.access_log import METRICS_TYPE, Journal
from csp_index.service.http.auth import Forms
from csp_index.service.http.client import stop_of
from csp_index.service.http.own_threads import Probe, Turns
from csp_index.service.http.schemas import Fault
from csp_index.service.live.engine import Engine
from csp_index.service.snapshot import Snapshot
from csp_index.service.sql_sandbox import SqlAnswer, SqlRunner, write_rows

_STATUS: dict[type[Exception], tuple[int, str]] = {
    errors.NotFoundError: (404, "missing"),
    errors.QueryError: (400, "query"),
    errors.SettingError: (400, "setting"),
    errors.AddressError: (400, "address"),
    errors.LabelError: (400, "label"),
    errors.SourceError: (400, "picture"),
    errors.StudyError: (400, "study"),
    errors.ModelError: (400, "model"),
    errors.LockedError: (503, "busy"),
    errors.BusyError: (503, "busy"),
    errors.StoppedError: (503, "stopped"),
}
_HTTP_TYPES = {400: "bad-request", 403: "forbidden", 404: "missing", 405: "method"}
_NAMED = 3  # faults of a request that the response names


@dataclass(frozen=True, slots=True)
class Service:
    """What all routes share."""

    snapshot: Snapshot
    engine: Engine
    sql: SqlRunner | None  # None: not offered
    settings: ServiceSettings
    journal: Journal
    sql_turns: Turns
    original_turns: Turns
    forms: Forms
    desk: Desk | None = None  # None: nothing may be written
    questions: Questions | None = None  # None: nothing is rated


def answer(document: object, status: int = 200) -> Response:
    """Return a document as JSON: numbers that are not finite become null, bytes base64."""
    body = pydantic_core.to_json(document, inf_nan_mode="null", bytes_mode="base64")
    return Response(body, status, media_type="application/json")


def fault_of(exc: Exception) -> Fault:
    """Return the fault that an exception means to the client. Details of this machine stay in the log."""
    if isinstance(exc, RequestValidationError):
        message = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in exc.errors()[:_NAMED])
        return Fault(422, "invalid", printable(message), "/openapi.json says what is expected")
    if isinstance(exc, HTTPException):
        return Fault(exc.status_code, _HTTP_TYPES.get(exc.status_code, "http"), str(exc.detail))
    for kind, (status, name) in _STATUS.items():
        if isinstance(exc, kind):
            return Fault(status, name, errors.one_line(exc), retry=1 if status == 503 else None)
    if isinstance(exc, errors.CspIndexError | OSError):  # Lance raises OSError for missing files
        return Fault(503, "store", "the index cannot be read just now", "the service's log says why")
    return Fault(500, "internal", "the service failed on this request", "its log says more under the request id")


def picture_of(file: UploadFile, most_pixels: int) -> Image.Image:
    """Return an uploaded picture as upright RGB. Raises SourceError if it is no picture, or too large."""
    return decode.decode(file.file.read(), max_pixels=most_pixels)


_ERRORS = {400: "not possible", 401: "a token is needed", 404: "not in the index", 422: "not as described"}
_LATE = {503: "busy, or the index cannot be read", 504: "the response took too long"}


def _faults(*further: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    faults = _ERRORS | _LATE | dict(further)
    return {status: {**schemas.shaped(schemas.ErrorBody), "description": text} for status, text in faults.items()}


GET_FAULTS = _faults()
POST_FAULTS = _faults(
    (403, "not offered, or sent by another site"),
    (408, "the request came too slowly"),
    (413, "the request is too large"),
)

Model = Annotated[str, Path(max_length=250, examples=["cnn"])]
Layer = Annotated[str, Path(max_length=250, examples=["concepts"])]
Number = Annotated[int, Path(ge=0, le=2**31 - 1, examples=[3])]
ImageId = Annotated[int, Path(ge=0, le=2**63 - 1, examples=[0])]
Method = Annotated[str | None, Query(max_length=60, description="The label by this method; null: the label shown.")]

RangeEnd = Annotated[float | None, Query(allow_inf_nan=False, description="Only values from, or up to, this.")]

AuditOf = Annotated[str | None, Query(max_length=500, description="Of several audits, that of this; null: the last.")]


def router(service: Service) -> APIRouter:
    """Return the routes of the API."""
    routes = APIRouter()
    for add in (_add_index, _add_classes, _add_audits, _add_search, _add_images, _add_questions, _add_health):
        add(routes, service)
    return routes


def _add_index(router: APIRouter, service: Service) -> None:
    snapshot, engine, limits = service.snapshot, service.engine, service.settings

    @router.get("/api/v1/index", responses=schemas.sends(HomeDocument) | GET_FAULTS, tags=["index"])
    def index() -> Response:
        """The content of the index: images, encoders, networks, layers, labels, the last runs."""
        return answer(home_document(snapshot))

    @router.get("/api/v1/layers", responses=schemas.sends(LayersDocument) | GET_FAULTS, tags=["index"])
    def layers() -> Response:
        """The layers whose neurons are indexed."""
        return answer({"layers": home_document(snapshot)["layers"]})

    @router.get("/api/v1/neurons", responses=schemas.sends(NeuronsDocument) | GET_FAULTS, tags=["neurons"])
    def neuron_list(
        layer: Annotated[str, Query(pattern=schemas.LAYER, max_length=500, examples=["cnn/concepts"])],
        sort: Sort = "index",
        order: Order = "asc",
        state: Shown = "all",
        q: Annotated[str, Query(max_length=schemas.LONGEST_TEXT, description="Part of the label.")] = "",
        method: Method = None,
        limit: int = Query(limits.page, ge=1, le=limits.page_limit),
        cursor: Annotated[str | None, Query(max_length=500, description="`next` of the page before.")] = None,
        class_name: Annotated[str, Query(max_length=500, description="The class of images that `auroc` is for.")] = "",
        by: Annotated[str | None, Query(max_length=500, description="The column that has the class.")] = None,
        neurons: Annotated[str, Query(max_length=16_000, description="Only these: `3,8,100-120`; empty: all.")] = "",
        label: Annotated[str, Query(max_length=500, description="The whole label.")] = "",
        score_from: RangeEnd = None,
        score_to: RangeEnd = None,
        firing_rate_from: RangeEnd = None,
        firing_rate_to: RangeEnd = None,
        effect_from: RangeEnd = None,
        effect_to: RangeEnd = None,
    ) -> Response:
        """A layer's neurons: sorted, filtered, page by page."""
        ends = (score_from, score_to, firing_rate_from, firing_rate_to, effect_from, effect_to)
        query = GalleryQuery(sort, order, state, q, method, limit, cursor, class_name, by, neurons, label, *ends)
        return answer(neurons_document(snapshot, engine, LayerKey.parse(layer), query))

    @router.get(
        "/api/v1/neurons/{model}/{layer}/{index}",
        responses=schemas.sends(NeuronDocument) | GET_FAULTS,
        tags=["neurons"],
    )
    def neuron(model: Model, layer: Layer, index: Number, method: Method = None) -> Response:
        """All about one neuron."""
        return answer(neuron_document(snapshot, engine, NeuronKey(model, layer, index), method))

    @router.get(
        "/api/v1/neurons/{model}/{layer}/{index}/maps",
        responses=schemas.sends(MapsDocument) | GET_FAULTS,
        tags=["maps"],
    )
    def neuron_map_list(model: Model, layer: Layer, index: Number) -> Response:
        """Where in its top images a neuron fires: the maps that `csp-index index`, or `csp-index maps`, stored."""
        return answer(maps_document(snapshot, NeuronKey(model, layer, index)))

    @router.post(
        "/api/v1/neurons/{model}/{layer}/{index}/maps",
        responses=schemas.sends(ComputedMapsDocument) | POST_FAULTS,
        tags=["maps"],
    )
    def neuron_look(model: Model, layer: Layer, index: Number, body: schemas.LookBody, request: Request) -> Response:
        """Where a neuron looks in some images: maps that its network makes now. Nothing is stored."""
        stop = stop_of(request.scope)
        key = NeuronKey(model, layer, index)
        return answer(computed_maps_document(snapshot, engine, key, body.images, stop.check))

    @router.get(
        "/api/v1/neurons/{model}/{layer}/{index}/maps/{image_id}",
        response_class=Response,
        responses=GET_FAULTS | {200: {"content": {"image/png": {}}, "description": "a veil over the thumbnail"}},
        tags=["maps"],
    )
    def neuron_map(model: Model, layer: Layer, index: Number, image_id: ImageId) -> Response:
        """A picture to lay over an image's: it hides the places where the neuron does not fire."""
        return Response(map_veil(snapshot, NeuronKey(model, layer, index), image_id), media_type="image/png")


def _add_classes(router: APIRouter, service: Service) -> None:
    snapshot = service.snapshot
    by_one = Query(None, max_length=500, description="A metadata column, or outputs:MODEL/LAYER; null: the last one.")

    @router.get(
        "/api/v1/classes/{model}/{layer}", responses=schemas.sends(ClassesDocument) | GET_FAULTS, tags=["classes"]
    )
    def class_list(model: Model, layer: Layer, by: str | None = by_one) -> Response:
        """The classes of a layer's images, each with the neuron that tells it best."""
        return answer(classes.classes_document(snapshot, LayerKey(model, layer), by))

    @router.get("/api/v1/class/{model}/{layer}", responses=schemas.sends(ClassDocument) | GET_FAULTS, tags=["classes"])
    def class_page(
        model: Model,
        layer: Layer,
        name: Annotated[str, Query(max_length=500, description="The class.")],
        by: str | None = by_one,
        limit: int = Query(classes.NEURONS, ge=1, le=service.settings.page_limit),
    ) -> Response:
        """The neurons that tell a class best, and those most silent on it, with images that speak for and against."""
        return answer(classes.class_document(snapshot, LayerKey(model, layer), name, by, limit))

    @router.get(
        "/api/v1/neurons/{model}/{layer}/{index}/classes",
        responses=schemas.sends(NeuronClassesDocument) | GET_FAULTS,
        tags=["classes"],
    )
    def neuron_class_list(model: Model, layer: Layer, index: Number, by: str | None = by_one) -> Response:
        """All classes of one neuron, those that it tells best first."""
        return answer(classes.neuron_classes_document(snapshot, NeuronKey(model, layer, index), by))


def _add_audits(router: APIRouter, service: Service) -> None:
    @router.get("/api/v1/audit/{model}", responses=schemas.sends(AuditDocument) | GET_FAULTS, tags=["studies"])
    def audit(model: Model, layer: AuditOf = None, by: AuditOf = None) -> Response:
        """What a network relies on and should not: its last audit, or that of a layer, by a column."""
        return answer(audit_document(service.snapshot, model, layer, by))

    @router.get("/api/v1/audit/{model}/report", responses=schemas.sends(ReportDocument) | GET_FAULTS, tags=["studies"])
    def report(model: Model, layer: AuditOf = None, by: AuditOf = None) -> Response:
        """What the report of an audit shows, with a digest of each part: see `csp-index report`."""
        return answer(report_document(service.snapshot, model, layer, by))


def _add_search(router: APIRouter, service: Service) -> None:
    snapshot, engine, limits = service.snapshot, service.engine, service.settings
    few = Query(12, ge=1, le=limits.page_limit, description="Neurons of each kind.")

    @router.get("/api/v1/search", responses=schemas.sends(SearchDocument) | GET_FAULTS, tags=["search"])
    def search(
        q: Annotated[str, Query(min_length=1, max_length=schemas.LONGEST_TEXT, examples=["stripes"])],
        limit: int = few,
    ) -> Response:
        """Neurons that mean a text, by their vectors and by their labels; images similar to it."""
        return answer(search_document(snapshot, engine, SearchQuery(q, limit=limit)))

    @router.post("/api/v1/search/image", responses=schemas.sends(SearchDocument) | POST_FAULTS, tags=["search"])
    def search_image(file: UploadFile, limit: int = few) -> Response:
        """Neurons that a picture excites or that mean what it shows. The picture is not stored."""
        picture = picture_of(file, limits.upload_pixels)
        return answer(search_document(snapshot, engine, SearchQuery(upload=picture, limit=limit)))


def _add_images(router: APIRouter, service: Service) -> None:
    snapshot, engine = service.snapshot, service.engine

    @router.get("/api/v1/images/{image_id}", responses=schemas.sends(ImageDocument) | GET_FAULTS, tags=["images"])
    def image(image_id: ImageId) -> Response:
        """An image: its metadata, the neurons it excites, its neighbors."""
        return answer(image_document(snapshot, engine, image_id))

    @router.get(
        "/api/v1/images/{image_id}/thumbnail",
        response_class=Response,
        responses=GET_FAULTS | {200: {"content": {"image/jpeg": {}}, "description": "a small picture"}},
        tags=["images"],
    )
    def thumbnail(image_id: ImageId) -> Response:
        """A small picture of an image."""
        data, media_type = stored_thumbnail(snapshot, image_id)
        return Response(data, media_type=media_type)

    @router.get(
        "/images/{image_id}/original",
        response_class=Response,
        responses=GET_FAULTS
        | {200: {"content": {"image/jpeg": {}, "image/png": {}}, "description": "the picture, upright, in bounds"}},
        tags=["images"],
    )
    async def original(image_id: ImageId) -> Response:
        """The picture of an image's file, while it is the one that was indexed, of bounded size."""
        if not service.settings.originals:
            raise errors.NotFoundError("original pictures are not shown here: `csp-index serve DB --originals` does")
        data, media_type = await service.original_turns.run(partial(original_picture, snapshot), image_id)
        return Response(data, media_type=media_type)


def _add_questions(router: APIRouter, service: Service) -> None:
    @router.post("/api/v1/label", responses=schemas.sends(LabelDocument) | POST_FAULTS, tags=["questions"])
    def label(body: schemas.LabelBody, request: Request) -> Response:
        """Labels of neurons by a method and its options, from stored vectors, without storing anything."""
        started = time.perf_counter()
        results = service.engine.models().relabel(body.query(), stop_of(request.scope).check)
        return answer({"results": results, "seconds": time.perf_counter() - started})

    @router.post("/api/v1/sql", responses=schemas.sends(SqlDocument) | POST_FAULTS, tags=["questions"])
    async def sql(body: schemas.SqlBody) -> Response:
        """One SELECT, run in a process of its own; rows and bytes beyond the limits are cut off."""
        return await service.sql_turns.run(lambda statement: answer(sql_document(service, statement)), body.sql)


def run_statement(service: Service, statement: str) -> SqlAnswer:
    """Return the rows of a statement, and count it. Raises QueryError, BusyError, and NotFoundError if SQL is off."""
    if service.sql is None:
        raise errors.NotFoundError("SQL over HTTP is off here: `csp-index serve DB --sql` turns it on")
    try:
        rows = service.sql.run(statement)
    except errors.CspIndexError as exc:
        service.journal.statement("refused" if isinstance(exc, errors.QueryError) else "stopped")
        raise
    service.journal.statement("cut" if rows.truncated else "done")
    return rows


def sql_document(service: Service, statement: str) -> SqlDocument:
    """Return the rows of a statement as a document; raises the errors of `run_statement`."""
    return write_rows(run_statement(service, statement))


def _add_health(router: APIRouter, service: Service) -> None:
    @router.get("/healthz", responses=schemas.sends(HealthDocument), tags=["health"])
    async def healthz() -> Response:
        """Whether the service runs."""
        return answer({"status": "ok"})

    @router.get("/api/v1/version", responses=schemas.sends(VersionDocument) | GET_FAULTS, tags=["index"])
    async def version() -> Response:
        """The version of the index that is shown; another answer than before means that there is something new."""
        return answer(service.snapshot.version_document())

    probe = Probe(service.snapshot.check_readable)

    @router.get("/readyz", responses=schemas.sends(ReadinessDocument) | _faults(), tags=["health"])
    async def readyz() -> Response:
        """Whether pages can be shown: a row of each table can be read; and whether the models are loaded."""
        await probe.passed()
        engine = service.engine
        state = "ready" if engine.ready else "failed" if engine.failed else "loading"
        return answer({"ready": True, "engine": state, "snapshot": service.snapshot.version})

    @router.get("/metrics", response_class=Response, include_in_schema=False)
    def metrics() -> Response:
        return Response(service.journal.exposition(), media_type=METRICS_TYPE)
