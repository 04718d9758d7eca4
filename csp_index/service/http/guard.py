"""Around every request: authorization and limits of size and time; security headers, the log line, the counters.

The outermost ASGI middleware. It reads a body up to its limit before anything else sees the request, so that no route
waits for a slow client. Every request gets a response: failures of the application are logged and answered with 500.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csp_index.concurrency import Stop
from csp_index.service.config import ServiceSettings
from csp_index.service.http.access_log import Journal, Visit
from csp_index.service.http.auth import OPEN_PATHS, Token, fault_of_address, first, is_foreign
from csp_index.service.http.client import STOP, Client, stop_of
from csp_index.service.http.schemas import Fault
from csp_index.service.http.static_files import policy_of_scripts

log = logging.getLogger("csp_index.service")

REQUEST_ID: Final = "csp_index.request_id"
"""The key of a request's scope that holds its id."""

SECURITY_HEADERS = {
    "content-security-policy": (
        f"default-src 'none'; img-src 'self' data: blob:; style-src 'self'; {policy_of_scripts()}; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: with that, browsers send no Origin along with the forms of our own pages
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_ALONE = {"cross-origin-opener-policy": "same-origin"}
"""No window that opened a page has a hold of it: sent where a page may act for its reader, by a token or a form.

No other site can read what a page shows, anyway. A browser makes a new process for a page with this header, after the
header has arrived; that delays the first picture of a neuron by 70 ms (`scripts/benchmarks/first_picture.py`).
"""

_ALWAYS = ("/healthz", "/readyz")  # answered even when the service is busy
_PATIENCE = 4  # times the limit: a body up to this size is read to its end, though refused
_CLIENT_LEFT = 499  # in the log alone: nobody received a status
_ENDS = Fault(503, "stopped", "the service ends", "ask again once it runs", close=True)
_FRAMING = 64 * 1024  # bytes that a form adds to a picture

Answer = Callable[[Scope, Fault], Response]


class Guard:
    """Passes on requests that are allowed and within the limits; answers all others itself."""

    def __init__(
        self, app: ASGIApp, settings: ServiceSettings, token: Token | None, journal: Journal, answer: Answer
    ) -> None:
        self._app, self._settings, self._token, self._journal, self._answer = app, settings, token, journal, answer
        self._headers = SECURITY_HEADERS | (_ALONE if token is not None or settings.writes else {})
        self._working: set[asyncio.Task[None]] = set()
        self._receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, and log it."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        client = scope["client"][0] if scope.get("client") else "-"
        visit = Visit(secrets.token_hex(8), scope["method"], scope["path"], client)
        # HEAD is GET without the body; the server's own scope stays unchanged
        scope = {
            **scope,
            "method": "GET" if scope["method"] == "HEAD" else scope["method"],
            REQUEST_ID: visit.id,
            STOP: Stop(),
        }
        reply = _Reply(send, visit, self._headers)
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
            fault = body if isinstance(body, Fault) else await self._worked(scope, Client(body, receive), reply, until)
        if fault is not None and not reply.started:
            await self._answer(scope, fault)(scope, receive, reply)
        reply.closed = True

    def _refusal(self, scope: Scope) -> Fault | None:
        headers, path, settings = scope["headers"], scope["path"], self._settings
        wrong = fault_of_address(settings, scope["path"], headers)
        if wrong is not None:
            return Fault(400, "bad-request", wrong, close=True)
        if not self._admits(scope):
            return Fault(401, "unauthorised", "the service needs a token", "send Authorization: Bearer TOKEN")
        if scope["method"] != "OPTIONS" and is_foreign(settings, headers):
            return Fault(403, "forbidden", "a page of another site made this request", "serve --allow-origin allows it")
        if len(self._working) >= settings.waiting and path not in _ALWAYS:
            return Fault(503, "busy", "the service has too much to do", "try again in a second", retry=1)
        return None

    def _admits(self, scope: Scope) -> bool:
        if self._token is None or scope["path"] in OPEN_PATHS or scope["path"].startswith("/static/"):
            return True
        preflight = scope["method"] == "OPTIONS" and bool(self._settings.origins)  # browsers send it without a token
        return preflight or self._token.admits(scope["headers"])

    async def _body(self, scope: Scope, receive: Receive) -> bytes | Fault:
        """Return the whole body, or its fault: too large, too slow, or too many at once."""
        headers, settings = scope["headers"], self._settings
        length = first(headers, b"content-length")
        if length in ("", "0") and not first(headers, b"transfer-encoding"):
            return b""
        form = first(headers, b"content-type").lower().startswith("multipart/form-data")
        most = settings.upload_bytes + _FRAMING if form else settings.body_bytes
        if self._receiving >= settings.waiting:
            return Fault(503, "busy", "too many requests are still arriving", "try again in a second", True, 1)
        self._receiving += 1
        try:
            async with asyncio.timeout(settings.arrival):
                body = await _whole(receive, most)
        except asyncio.CancelledError:  # as in `_worked`
            return _ENDS
        except TimeoutError:
            return Fault(408, "timeout", f"the request did not arrive within {settings.arrival:g} s", close=True)
        finally:
            self._receiving -= 1
        return Fault(413, "too-large", f"the body is larger than {most:,} bytes", close=True) if body is None else body

    async def _worked(self, scope: Scope, client: Client, reply: _Reply, until: float) -> Fault | None:
        """Let the application answer; return a fault if it fails or takes too long.

        Where the client leaves, the time limit passes or the service ends, the work is told to stop. It ends at its
        next step, counts among the requests in progress until then, and its response is dropped.
        """
        task, stop = asyncio.ensure_future(self._app(scope, client.receive, reply)), stop_of(scope)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        try:
            await client.wait(task, max(0.0, until - time.perf_counter()))
        except asyncio.CancelledError:  # the grace of a service that ends has passed
            fault: Fault | None = _ENDS
        else:
            fault = Fault(504, "timeout", f"the answer took longer than {self._settings.timeout:g} s", close=True)
            if client.has_left:
                fault = None
                reply.drop()
        client.let_go()
        if not task.done():
            stop.set("the client left" if fault is None else fault.message)
            task.cancel()
            task.add_done_callback(_forget)
            return fault
        failure = task.exception()
        if failure is None:
            return None
        log.error("request %s failed", scope[REQUEST_ID], exc_info=failure)
        return Fault(500, "internal", "the service failed on this request", "its log says more under the request id")


class _Reply:
    """Sends a response: adds the headers that every response has, counts bytes, and drops what comes after the end."""

    def __init__(self, send: Send, visit: Visit, headers: Mapping[str, str]) -> None:
        self._send, self._visit, self._headers = send, visit, headers
        self.started = self.closed = False

    def drop(self) -> None:
        """Record that nobody waits for the response any longer."""
        self._visit.status = self._visit.status or _CLIENT_LEFT

    async def __call__(self, message: Message) -> None:
        if self.closed:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self._visit.status = message["status"]
            headers = MutableHeaders(raw=message["headers"])
            for name, value in self._headers.items():
                headers.setdefault(name, value)
            headers.setdefault("cache-control", "no-store")
            headers["x-request-id"] = self._visit.id
        elif self._visit.method == "HEAD":
            message = {**message, "body": b""}
        self._visit.sent += len(message.get("body", b""))
        await self._send(message)


async def _whole(receive: Receive, most: int) -> bytes | None:
    """Return the body, or None if it is longer than `most` bytes; it ends where the client disconnects.

    A body somewhat too long is read to its end, because a client cut off mid-upload never sees the error.
    """
    chunks, size, more = [], 0, True
    while more and size <= _PATIENCE * most:
        message = await receive()
        size += len(message.get("body", b""))
        if size <= most:
            chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks) if size <= most else None


def _forget(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # nothing waits for it any longer
