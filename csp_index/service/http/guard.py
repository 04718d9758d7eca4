"""Around every request: who may ask, how much and how long; security headers, the log line, the counters.

ASGI middleware, outermost. A body is read here, up to its limit, before anything else sees the request; so no route
waits for a slow sender. Nothing gets past without an answer: what the application fails on is logged and told as 500.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csp_index.service.config import ServiceSettings
from csp_index.service.http.access_log import Journal, Visit
from csp_index.service.http.auth import OPEN_PATHS, Token, fault_of_address, first, is_foreign
from csp_index.service.http.schemas import Fault

log = logging.getLogger("csp_index.service")

REQUEST_ID: Final = "csp_index.request_id"
"""The key of a request's scope that holds its id."""

SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: with that, browsers send no Origin along with the forms of our own pages
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_ALWAYS = ("/healthz", "/readyz")  # told even when there is too much to do
_PATIENCE = 4  # times the limit, until which a body too long is heard
_FRAMING = 64 * 1024  # bytes that a form puts around a picture

Answer = Callable[[Scope, Fault], Response]


class Guard:
    """Lets through what is allowed, within the limits; answers everything else itself."""

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, token: Token | None, journal: Journal, answer: Answer
    ) -> None:
        self._app, self._settings, self._token, self._journal, self._answer = app, settings, token, journal, answer
        self._working: set[asyncio.Task[None]] = set()
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and write it down."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        client = scope["client"][0] if scope.get("client") else "-"
        visit = Visit(secrets.token_hex(8), scope["method"], scope["path"], client)
        # HEAD is GET without the body; the server's own scope stays as it is
        scope = {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"], REQUEST_ID: visit.id}
        reply = _Reply(send, visit)
        self._journal.in_flight.inc()
        try:
            await self._answered(scope, receive, reply, started + self._settings.timeout)
        finally:
            self._journal.in_flight.dec()
            visit.route = getattr(scope.get("route"), "path", "-")
            visit.seconds = time.perf_counter() - started
            self._journal.write(visit)

    async def _answered(self, scope: Scope, receive: Receive, reply: _Reply, until: float) -> None:
        fault = self._refusal(scope)
        if fault is None:
            body = await self._body(scope, receive)
            fault = body if isinstance(body, Fault) else await self._worked(scope, _replay(body, receive), reply, until)
        if fault is not None and not reply.started:
            await self._answer(scope, fault)(scope, receive, reply)
        reply.closed = True

    def _refusal(self, scope: Scope) -> Fault | None:
        headers, path, settings = scope["headers"], scope["path"], self._settings
        wrong = fault_of_address(settings, scope["path"], headers)
        if wrong is not None:
            return Fault(400, "bad-request", wrong, close=True)
        if not self._admits(scope):
            return Fault(401, "unauthorised", "the service asks for a token", "send Authorization: Bearer TOKEN")
        if scope["method"] not in ("GET", "OPTIONS") and is_foreign(settings, headers):
            return Fault(403, "forbidden", "a page of another site made this request", "serve --allow-origin allows it")
        if len(self._working) >= settings.waiting and path not in _ALWAYS:
            return Fault(503, "busy", "the service has too much to do", "try again in a second", retry=1)
        return None

    def _admits(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] in OPEN_PATHS or scope["path"].startswith("/static/"):
            return True
        asks_leave = scope["method"] == "OPTIONS" and bool(self._settings.origins)  # browsers do so without a token
        return asks_leave or self._token.admits(scope["headers"])

    async def _body(self, scope: Scope, receive: Receive) -> bytes | Fault:
        """Return the whole body; or what is wrong with it: too long, too slow, or too many at once."""
        headers, settings = scope["headers"], self._settings
        length = first(headers, b"content-length")
        if length in ("", "0") and not first(headers, b"transfer-encoding"):
            return b""
        form = first(headers, b"content-type").lower().startswith("multipart/form-data")
        most = settings.upload_bytes + _FRAMING if form else settings.body_bytes
        if self._receiving >= settings.waiting:
            return Fault(503, "busy", "too many requests are still being sent", "try again in a second", True, 1)
        self._receiving += 1
        try:
            async with asyncio.timeout(settings.arrival):
                body = await _whole(receive, most)
        except TimeoutError:
            return Fault(408, "timeout", f"the request did not arrive within {settings.arrival:g} s", close=True)
        finally:
            self._receiving -= 1
        return Fault(413, "too-large", f"the body is larger than {most:,} bytes", close=True) if body is None else body

    async def _worked(self, scope: Scope, receive: Receive, reply: _Reply, until: float) -> Fault | None:
        """Let the application answer; return the fault where it fails or takes too long.

        What computes in a thread cannot be ended. It keeps its place among the requests in work until it is done, and
        what it then says is dropped.
        """
        task = asyncio.ensure_future(self._app(scope, receive, reply))
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        try:
            await asyncio.wait({task}, timeout=max(0.0, until - time.perf_counter()))
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)
            return Fault(504, "timeout", f"the answer took longer than {self._settings.timeout:g} s", close=True)
        failure = task.exception()
        if failure is None:
            return None
        log.error("request %s failed", scope[REQUEST_ID], exc_info=failure)
        return Fault(500, "internal", "the service failed on this request", "its log tells more under the request id")


class _Reply:
    """What goes back: with the headers that every answer has, counted, and nothing after the end."""

    def __init__(self, send: Send, visit: Visit) -> None:
        self._send, self._visit = send, visit
        self.started = self.closed = False

    async def __call__(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self._visit.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            headers["x-request-id"] = self._visit.id
        elif self._visit.method == "HEAD":
            message = {**message, "body": b""}
        self._visit.sent += len(message.get("body", b""))
        await self._send(message)


async def _whole(receive: Receive, most: int) -> bytes | None:
    """Return the body, None where it is longer than `most` bytes. The sender may leave: then it ends there.

    A body somewhat too long is heard to its end: who is cut off while sending does not get to read why.
    """
    chunks, size, more = [], 0, True
    while more and size <= _PATIENCE * most:
        message = await receive()
        size += len(message.get("body", b""))
        if size <= most:
            chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks) if size <= most else None


def _replay(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    """Return a `receive` that gives the body at once, then whatever else comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _forget(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # nobody waits for it any more
