"""The tools by the Model Context Protocol: over standard input and output, and as an ASGI application.

The only module that imports the protocol's SDK, `mcp`; `doors` loads it when it is needed.
"""

from __future__ import annotations

import base64
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.types import Receive, Scope, Send

import csp_index
from csp_index.concurrency import Stop
from csp_index.service.agents.tools import INSTRUCTIONS, Reply, call, failure, tools_of
from csp_index.service.http.api import Service

_SHARE = 0.9  # of the time limit of requests: a model reads why its call ended before the request itself ends
_HINTS = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)


def make_server(service: Service) -> Server[Any]:
    """Return a server of the protocol that offers the tools of a service."""

    async def list_tools(context: ServerRequestContext, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(
            tools=[
                Tool(
                    name=tool.name,
                    title=tool.title,
                    description=tool.about,
                    input_schema=tool.arguments.model_json_schema(),
                    annotations=_HINTS,
                )
                for tool in tools_of(service).values()
            ]
        )

    async def call_tool(context: ServerRequestContext, params: CallToolRequestParams) -> CallToolResult:
        return _result(await _called(service, params.name, params.arguments or {}))

    server: Server[Any] = Server(
        "csp_index",
        version=csp_index.__version__,
        title=f"csp_index: {service.snapshot.name}",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    server.middleware.clear()  # it would report each message to OpenTelemetry; the service reports to nobody
    return server


async def serve_stdio(service: Service) -> None:
    """Answer on standard output what comes in on standard input, until that ends."""
    server = make_server(service)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def answer_request(server: Server[Any], scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one HTTP request with JSON: no session, no stream, nothing that outlives the request."""
    sessions = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
    async with sessions.run():
        await sessions.handle_request(scope, receive, send)


async def _called(service: Service, name: str, given: dict[str, Any]) -> Reply:
    """Call a tool in a thread. Where the caller leaves or the time is over, the work ends at its next step."""
    stop, seconds = Stop(), _SHARE * service.settings.timeout
    work = partial(call, service, name, given, stop.check)
    tool = tools_of(service).get(name)
    try:
        with anyio.fail_after(seconds):
            if tool is not None and tool.needs_sql:
                return await service.sql_turns.run(lambda _: work(), name)
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
    except TimeoutError:
        return failure(f"the answer took longer than {seconds:g} s: ask for less at once, or again in some seconds")
    finally:
        stop.set("nobody waits for the answer any longer")


def _result(reply: Reply) -> CallToolResult:
    content: list[Any] = [TextContent(text=reply.text)]
    if reply.picture is not None:
        data = base64.b64encode(reply.picture.data).decode()
        content.append(ImageContent(data=data, mime_type=reply.picture.kind))
    return CallToolResult(content=content, is_error=reply.failed)
