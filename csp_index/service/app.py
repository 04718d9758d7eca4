"""make_app: an index as one FastAPI application, composed in one visible place. Knows nothing about sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlencode

import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from csp_index import __version__, errors
from csp_index.service.agents import doors
from csp_index.service.config import ServiceSettings
from csp_index.service.desk import Desk
from csp_index.service.documents.studies.rate import Questions, check_can_rate
from csp_index.service.http import api, login, pages
from csp_index.service.http.access_log import Journal
from csp_index.service.http.api import Service, Turns
from csp_index.service.http.auth import Forms, Token, wants_page
from csp_index.service.http.guard import REQUEST_ID, Answer, Guard, log
from csp_index.service.http.pages import site_of
from csp_index.service.http.rendering import Renderer, Site
from csp_index.service.http.response_cache import ResponseCache
from csp_index.service.http.schemas import Fault
from csp_index.service.http.studies import (
    effect_routes,
    evolution_routes,
    hierarchy_routes,
    match_routes,
    meaning_routes,
    review,
)
from csp_index.service.live.engine import Engine
from csp_index.service.snapshot import Snapshot
from csp_index.service.sql_sandbox import SqlRunner
from csp_index.store.connect import open_version
from csp_index.studies.reviewing.rated_pictures import Draw

if TYPE_CHECKING:
    from csp_index.query.reader import Reader

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_CACHE_SHARE = 16  # the response cache gets this fraction of the memory, 1 / 16


def make_app(
    index: str | Path | Reader,
    settings: ServiceSettings | None = None,
    *,
    versions: Mapping[str, int] | None = None,
) -> FastAPI:
    """Return the application over an index, named by its address or as a Reader; it only writes what readers say.

    And that only if the settings say `write` or `rate`. This opens the index at the current versions of its tables, or
    at `versions`; notes are shown as they are when they may be written. Models load in the background once the
    application runs. Raises StoreError if there is no index.
    """
    settings = settings or ServiceSettings()
    service = make_service(index, settings, versions)
    sql = service.sql
    token = None if settings.token is None else Token(settings.token, settings.port, settings.start)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        service.engine.start()
        yield
        if sql is not None:
            sql.close()

    app = FastAPI(
        title="csp_index",
        summary="What the neurons of a vision network mean",
        version=__version__,
        docs_url=None,  # FastAPI's own documentation pages load scripts from other hosts
        redoc_url=None,
        lifespan=running,
        telemetry=_NO_TELEMETRY,
        form_limits={"max_files": 1, "max_fields": 8, "max_part_size": settings.body_bytes},
    )
    app.state.service = service
    _add_middleware(app, service, token, _add_routes(app, service, token))
    return app


def make_service(
    index: str | Path | Reader, settings: ServiceSettings, versions: Mapping[str, int] | None = None
) -> Service:
    """Return what the routes share, and the tools of language models: an index opened as `make_app` opens it."""
    uri = index if isinstance(index, str | Path) else index.uri
    if versions is None and settings.version is not None:
        versions = open_version(uri, settings.version).versions()
    snapshot = Snapshot(uri, versions=versions, held_bytes=settings.held_bytes // 2, live_reviews=settings.writes)
    forms = Forms(settings.start)
    return Service(
        snapshot,
        Engine(snapshot, settings),
        SqlRunner(snapshot.store.uri, snapshot.versions, settings) if settings.sql else None,
        settings,
        Journal(settings.workers > 1),
        Turns(settings.sql_processes),
        forms,
        Desk(snapshot.store.uri, {"write": settings.write, "rate": settings.rate}) if settings.writes else None,
        _questions(snapshot, settings, forms),
    )


def _questions(snapshot: Snapshot, settings: ServiceSettings, forms: Forms) -> Questions | None:
    if not settings.rate:
        return None
    check_can_rate(snapshot)
    return Questions(snapshot, settings.rate_pictures, cast(Draw, settings.draw), forms.sign)


def _add_routes(app: FastAPI, service: Service, token: Token | None) -> Answer:
    """Add all routes, and return the function that makes a response from a fault."""
    renderer = Renderer(site_of(service))
    app.include_router(api.router(service))
    app.include_router(effect_routes.effects_api(service))
    app.include_router(match_routes.match_api(service))
    app.include_router(meaning_routes.meanings_api(service))
    app.include_router(evolution_routes.evolution_api(service))
    app.include_router(hierarchy_routes.hierarchy_api(service))
    app.include_router(pages.router(service, renderer))
    app.include_router(review.router(service, renderer))
    app.include_router(doors.router(service))
    if token is not None:
        app.include_router(login.router(token, Renderer(Site("csp_index"))))
    app.mount("/static", _Files(directory=str(resources.files("csp_index.service") / "static")), name="static")

    def refuse(scope: Scope, fault: Fault) -> Response:
        document = fault.document(scope[REQUEST_ID])
        if not wants_page(scope["path"], scope["headers"]):
            response: Response = api.answer(document, fault.status)
        elif fault.status == 401 and scope["method"] == "GET":
            here = f"{quote(scope['path'])}?{scope['query_string'].decode('latin-1')}".rstrip("?")
            return RedirectResponse(f"/login?{urlencode({'next': here})}", 303)
        else:
            response = renderer.error(fault.status, document["error"])
        response.headers.update(fault.headers())
        return response

    async def failed(request: Request, exc: Exception) -> Response:
        if isinstance(exc, errors.StoreError | OSError):
            log.error("request %s: %s", request.scope[REQUEST_ID], exc)
        response = refuse(request.scope, api.fault_of(exc))
        response.headers.update(getattr(exc, "headers", None) or {})  # 405 names the allowed methods
        return response

    for kind in (errors.CspIndexError, OSError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, failed)
    return refuse


def _add_middleware(app: FastAPI, service: Service, token: Token | None, refuse: Answer) -> None:
    """Add the middleware around the routes; the last one added is outermost."""
    settings = service.settings
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=4)
    app.add_middleware(
        ResponseCache,
        start=settings.start,
        held_bytes=settings.held_bytes // _CACHE_SHARE,
        count=service.journal.answer,
        state=service.snapshot.reviews.state if settings.writes else None,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "If-None-Match"),
            expose_headers=("ETag", "X-Request-ID", "Retry-After"),
        )
    app.add_middleware(Guard, settings=settings, token=token, journal=service.journal, answer=refuse)


class _Files(StaticFiles):
    """The static files of the pages; a response to an address with a version never changes."""

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        lasting = scope["query_string"].startswith(b"v=")
        response.headers["cache-control"] = "public, max-age=86400, immutable" if lasting else "no-cache"
        return response
