"""A guard around an application, and what one asks of it. No index is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loops import run_in_own_loop
from starlette.responses import JSONResponse

from csp_index.service.config import ServiceSettings
from csp_index.service.http.access_log import Journal
from csp_index.service.http.auth import Token
from csp_index.service.http.guard import REQUEST_ID, Guard


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str]:
        return json.loads(self.body)["error"]


async def echo(scope, receive, send):
    message = await receive()
    answer = JSONResponse({"method": scope["method"], "bytes": len(message["body"]), "id": scope[REQUEST_ID]})
    await answer(scope, receive, send)


def guarded(app: Any = echo, *, journal: Journal | None = None, **given: Any) -> Guard:
    settings = ServiceSettings(**given)
    token = None if settings.token is None else Token(settings.token, settings.port, settings.start)

    def told(scope, fault):
        return JSONResponse(fault.document(scope[REQUEST_ID]), fault.status, fault.headers())

    return Guard(app, settings, token, journal or Journal(), told)


async def asked(
    guard: Any,
    method: str = "GET",
    path: str = "/",
    headers: Sequence[tuple[str, str]] = (),
    chunks: Sequence[bytes] = (b"",),
    pause: float = 0.0,
    host: str = "localhost",
) -> Reply:
    given = [(b"host", host.encode())] + [(name.lower().encode(), value.encode()) for name, value in headers]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"q=secret", "headers": given}
    scope |= {"client": ("10.0.0.7", 5), "scheme": "http"}
    waiting, sent = list(chunks), []

    async def receive():
        if not waiting:
            await asyncio.sleep(60)
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message):
        sent.append(message)

    await guard(scope, receive, send)
    headers_back = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Reply(sent[0]["status"], headers_back, b"".join(message.get("body", b"") for message in sent[1:]))


def ask(guard: Any, *given: Any, **named: Any) -> Reply:
    return run_in_own_loop(lambda: asked(guard, *given, **named))
