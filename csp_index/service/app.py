"""make_app: an index as one FastAPI application, composed in one visible place. Knows nothing about sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlencode

import anyio.to_thread
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from csp_index import __version__, errors
from csp_index.service.agents import doors
from csp_index.service.config import ServiceSettings
from csp_index.service.desk import Desk
from csp_index.service.documents.original import READ_AT_ONCE
from csp_index.service.documents.studies.rate import Questions, check_can_rate
from csp_index.service.editions import Edition, Editions
from csp_index.service.http import api, login, pages, static_files
from csp_index.service.http.access_log import Journal
from csp_index.service.http.api import Service
from csp_index.service.http.auth import Forms, Token, wants_page
from csp_index.service.http.concept_routes import concepts_api
from csp_index.service.http.edition_addresses import EditionAddresses
from csp_index.service.http.guard import REQUEST_ID, Answer, Guard, log
from csp_index.service.http.own_threads import Turns
from csp_index.service.http.pages import site_of
from csp_index.service.http.rendering import Renderer, Site
from csp_index.service.http.response_cache import ResponseCache
from csp_index.service.http.schemas import Application, Fault
from csp_index.service.http.studies import (
    effect_routes,
    evolution_routes,
    hierarchy_routes,
    layer_map_routes,
    match_routes,
    meaning_routes,
    review,
)
from csp_index.service.live.engine import Engine
from csp_index.service.live.shared_models import SharedModels
from csp_index.service.snapshot import Snapshot
from csp_index.service.sql_sandbox import SqlRunner
from csp_index.store.connect import open_version
from csp_index.studies.reviewing.rated_pictures import Draw

if TYPE_CHECKING:
    from csp_index.query.reader import Reader
    from csp_index.store.history.records import Record

_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
_OLD_SHARE = 4  # an earlier version gets this fraction of the memory for caches, 1 / 4
_CACHE_SHARE = 16  # the response cache gets this fraction of the memory, 1 / 16


def make_app(
    index: str | Path | Reader,
    settings: ServiceSettings | None = None,
    *,
    versions: Mapping[str, int] | None = None,
) -> FastAPI:
    """Return the application over an index, named by its address or as a Reader; it only writes what readers say.

    And that only if the settings say `write` or `rate`. This opens the index at the current versions of its tables, or
    at `versions`; a newer version is shown once it is there, unless the settings name one. Notes are shown as they are
    when they may be written. Models load in the background once the application runs. Raises StoreError if there is no
    index.
    """
    settings = settings or ServiceSettings()
    uri, versions = _named(index, settings, versions)
    shared = _Shared.of(uri, settings)
    app, first, refuse = _edition(uri, versions, shared)
    old = replace(settings, write=False, rate=False, held_bytes=settings.held_bytes // _OLD_SHARE)
    editions = Editions(
        first,
        make=lambda record: _edition(uri, record.versions, shared)[1],
        make_old=lambda record: _edition(uri, record.versions, replace(shared, settings=old, desk=None), old=record)[1],
        seconds=0.0 if settings.version is not None else settings.follow,
        linger=settings.timeout,
        alone=settings.version is not None,
        idle=doors.load_ahead,
    )
    app.state.editions = editions
    app.add_middleware(EditionAddresses, editions=editions, answer=refuse)
    _add_outer(app, shared, refuse)
    return app


def make_service(
    index: str | Path | Reader, settings: ServiceSettings, versions: Mapping[str, int] | None = None
) -> Service:
    """Return what the routes share, and the tools of language models: an index opened as `make_app` opens it."""
    uri, versions = _named(index, settings, versions)
    return _service(uri, versions, _Shared.of(uri, settings))


def _named(
    index: str | Path | Reader, settings: ServiceSettings, versions: Mapping[str, int] | None
) -> tuple[str, Mapping[str, int] | None]:
    """Return the address of an index, and the versions of its tables if they are named, or their version is."""
    uri = str(index if isinstance(index, str | Path) else index.uri)
    if versions is None and settings.version is not None:
        versions = open_version(uri, settings.version).versions()
    return uri, versions


@dataclass(frozen=True, slots=True)
class _Shared:
    """What all editions of one service share."""

    settings: ServiceSettings
    journal: Journal
    sql_turns: Turns
    original_turns: Turns
    forms: Forms
    desk: Desk | None
    token: Token | None
    models: SharedModels

    @classmethod
    def of(cls, uri: str, settings: ServiceSettings) -> _Shared:
        return cls(
            settings,
            Journal(settings.workers > 1),
            Turns(settings.sql_processes),
            Turns(READ_AT_ONCE, "original pictures", left_alone=False),
            Forms(settings.start),
            Desk(uri, {"write": settings.write, "rate": settings.rate}) if settings.writes else None,
            None if settings.token is None else Token(settings.token, settings.port, settings.start),
            SharedModels(trust=settings.trust),
        )


def _edition(
    uri: str, versions: Mapping[str, int] | None, shared: _Shared, *, old: Record | None = None
) -> tuple[FastAPI, Edition, Answer]:
    """Return one version of the index as an application without the guard, and what makes a response from a fault."""
    settings, service = shared.settings, _service(uri, versions, shared)

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = settings.threads
        app.state.editions.start()
        yield
        app.state.editions.close()

    app = Application(
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
    refuse = _add_routes(app, service, shared.token, old)
    _add_inner(app, service, "shown" if old is None else "old")
    return app, Edition(_without_guard(app), service.snapshot, service.engine, service.sql), refuse


def _service(uri: str, versions: Mapping[str, int] | None, shared: _Shared) -> Service:
    settings = shared.settings
    snapshot = Snapshot(uri, versions=versions, held_bytes=settings.held_bytes // 2, live_reviews=settings.writes)
    return Service(
        snapshot,
        Engine(snapshot, settings, shared.models),
        SqlRunner(snapshot.store.uri, snapshot.versions, settings) if settings.sql else None,
        settings,
        shared.journal,
        shared.sql_turns,
        shared.original_turns,
        shared.forms,
        shared.desk,
        _questions(snapshot, settings, shared.forms),
    )


def _without_guard(app: FastAPI) -> ASGIApp:
    """Return an application as another one calls it, which catches the errors that none expected."""
    stack: ASGIApp | None = None

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal stack
        if stack is None:
            stack = cast(ServerErrorMiddleware, app.build_middleware_stack()).app
        scope["app"] = app
        await stack(scope, receive, send)

    return call


def _questions(snapshot: Snapshot, settings: ServiceSettings, forms: Forms) -> Questions | None:
    if not settings.rate:
        return None
    check_can_rate(snapshot)
    return Questions(snapshot, settings.rate_pictures, cast(Draw, settings.draw), forms.sign)


def _add_routes(app: FastAPI, service: Service, token: Token | None, old: Record | None) -> Answer:
    """Add all routes, and return the function that makes a response from a fault."""
    renderer = Renderer(replace(site_of(service), old="" if old is None else _told(old)))
    routers = [
        api.router(service),
        concepts_api(service),
        effect_routes.effects_api(service),
        match_routes.MATCHES.api(service),
        meaning_routes.MEANINGS.api(service),
        evolution_routes.EVOLUTION.api(service),
        hierarchy_routes.HIERARCHY.api(service),
        layer_map_routes.maps_api(service),
        pages.router(service, renderer),
        review.router(service, renderer),
        doors.router(service),
        *([] if token is None else [login.router(token, Renderer(Site("csp_index")))]),
        static_files.router(),
    ]
    for router in routers:  # `include_router` would make each route again, while the first request waits
        app.router.routes.extend(router.routes)

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


def _told(record: Record) -> str:
    return f"version {record.number} ({record.command}, {record.when:%d %B %Y %H:%M} UTC)"


def _add_inner(app: FastAPI, service: Service, state: str) -> None:
    """Add the middleware around the routes of one edition; the last one added is outermost.

    An edition's `state`, shown or old, is part of the tags of its responses: its pages say it.
    """
    settings = service.settings
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=1)
    app.add_middleware(
        ResponseCache,
        start=f"{settings.start} {service.snapshot.version} {state}",
        held_bytes=settings.held_bytes // _CACHE_SHARE,
        count=service.journal.answer,
        state=service.snapshot.reviews.state if settings.writes else None,
    )


def _add_outer(app: FastAPI, shared: _Shared, refuse: Answer) -> None:
    """Add the middleware around all editions; the last one added is outermost."""
    settings = shared.settings
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type", "If-None-Match"),
            expose_headers=("ETag", "X-Request-ID", "Retry-After"),
        )
    app.add_middleware(Guard, settings=settings, token=shared.token, journal=shared.journal, answer=refuse)
