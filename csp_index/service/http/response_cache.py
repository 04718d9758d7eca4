"""Answers that do not change while the service runs: their ETag, 304 for who has them, the last ones kept ready.

An index at one version is a constant, so an answer hangs on its address alone; what hangs on more is named here. After
a restart models may load that did not, and settings may be others: a tag belongs to one start of the service. ASGI
middleware: it stands around the routes and their compression, and knows nothing about what they tell.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csp_index.lru_cache import LRUCache

CHANGING = ("/healthz", "/readyz", "/metrics", "/random", "/login", "/sql", "/static/")
"""Beginnings of addresses whose answers may differ from one time to the next."""

_FRESH = "private, max-age=5"  # seconds without asking again: a restart may bring a newer version of the index
_LARGEST_SHARE = 16  # an answer above this part of the whole is not kept
_OVERHEAD = 1024  # bytes of an answer's headers and address, about


@dataclass(frozen=True, slots=True)
class _Held:
    start: Message
    body: bytes
    route: Any


class Answers:
    """Sends what it still has, or 304 to who has it. The answers kept take at most `held_bytes`."""

    def __init__(self, app: ASGIApp, start: str, held_bytes: int, count: Callable[[bool], None]) -> None:
        """Stand around `app`; `start` is of one start of the service and no other."""
        self._app, self._start, self._count = app, start, count
        self._held = LRUCache(held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from memory or by the application."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].startswith(CHANGING):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope.get("raw_path") or scope["path"].encode()  # not decoded: %3F is no question mark
        address = f"{path.decode('latin-1')}?{scope['query_string'].decode('latin-1')}"
        key = (address, "gzip" in headers.get("accept-encoding", ""))
        etag = self._etag(address)
        known = etag in (tag.strip() for tag in headers.get("if-none-match", "").split(","))
        held: _Held | None = self._held.find(key)
        self._count(held is not None)
        if held is None:
            start, body = await self._made(scope, receive, etag)
            held = _Held(start, body, scope.get("route"))
            size = len(body) + _OVERHEAD
            if start["status"] == 200 and size * _LARGEST_SHARE <= self._held.limit:
                self._held.put(key, held, size)
        else:
            scope["route"] = held.route
        await _sent(held, known, send)

    def _etag(self, address: str) -> str:
        found = hashlib.sha256(f"{self._start} {address}".encode()).hexdigest()
        return f'W/"{found[:24]}"'  # weak: the same answer goes out compressed or not

    async def _made(self, scope: Scope, receive: Receive, etag: str) -> tuple[Message, bytes]:
        start: Message = {}
        chunks: list[bytes] = []

        async def record(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                chunks.append(message.get("body", b""))

        await self._app(scope, receive, record)
        if start["status"] == 200:
            headers = MutableHeaders(raw=list(start["headers"]))
            headers["etag"] = etag
            headers["cache-control"] = _FRESH
            start["headers"] = headers.raw
        return start, b"".join(chunks)


async def _sent(held: _Held, known: bool, send: Send) -> None:
    start, body = held.start, held.body
    if known and start["status"] == 200:
        kept = [(name, value) for name, value in start["headers"] if name in (b"etag", b"cache-control", b"vary")]
        start, body = {**start, "status": 304, "headers": kept}, b""
    # Whoever stands around this adds headers of its own to what it is given: the kept ones are not theirs.
    await send({**start, "headers": list(start["headers"])})
    await send({"type": "http.response.body", "body": body})
