"""The two ways to the tools: the command `csp-index mcp`, and the address `/mcp` of the service.

The command loads the protocol's SDK when it starts, the service once it has nothing else to do, or when somebody asks.
"""

from __future__ import annotations

from contextlib import suppress
from types import ModuleType
from typing import Any, Final

import anyio
import anyio.to_thread
from fastapi import APIRouter
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from csp_index.errors import NotFoundError
from csp_index.service.http.api import Service

PATH: Final = "/mcp"
"""The address of the tools over HTTP."""


def router(service: Service) -> APIRouter:
    """Return the route of the tools: POST alone, for there are no sessions to stream to, or to end."""
    routes = APIRouter()
    routes.routes.append(Route(PATH, _Endpoint(service), methods=["POST"], include_in_schema=False))
    return routes


def run_stdio(service: Service) -> None:
    """Serve the tools on standard input and output until the client closes them. Raises NotFoundError without SDK."""
    protocol = load_protocol()
    try:
        anyio.run(protocol.serve_stdio, service)
    finally:
        if service.sql is not None:
            service.sql.close()


def load_protocol() -> ModuleType:
    """Return the module that speaks the protocol. Raises NotFoundError where its SDK is not installed."""
    try:
        from csp_index.service.agents import protocol
    except ImportError as exc:
        raise NotFoundError(
            "tools for language models need the Python SDK of the Model Context Protocol, version 2, which is missing: "
            "pip install 'csp_index[mcp]'"
        ) from exc
    return protocol


def load_ahead() -> None:
    """Load the SDK where it is installed: 1.4 s of CPU time and 20 MB that the first question would wait for."""
    with suppress(NotFoundError):
        load_protocol()


class _Endpoint:
    """The ASGI application behind the address."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._server: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        protocol = await anyio.to_thread.run_sync(load_protocol)
        if self._server is None:
            self._server = protocol.make_server(self._service)
        await protocol.answer_request(self._server, scope, receive, send)
