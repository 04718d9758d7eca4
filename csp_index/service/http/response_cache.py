"""Responses that do not change while the service runs: their ETag, 304 for clients that have them, a cache of the last.

An index at one version is constant, so a response depends on its address alone; `CHANGING` lists the exceptions. Where
readers may write, it depends on what they said, too: the tag names that state, and clients ask each time. After
a restart models may load that failed before, and settings may differ, so a tag is valid for one start of the service.
ASGI middleware around the routes and their compression; it knows nothing about the content of responses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio.to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csp_index.errors import CspIndexError
from csp_index.lru_cache import LRUCache

CHANGING = (
    "/healthz",
    "/readyz",
    "/metrics",
    "/random",
    "/login",
    "/sql",
    "/static/",
    "/rate",
    "/api/v1/rate",
    "/api/v1/version",
)
"""Prefixes of addresses whose responses may differ from one request to the next."""

# A route may say itself how long a response lasts; else:
_FRESH = "private, max-age=5"  # seconds until a client asks again: a restart may bring a newer version of the index
_ASKED = "private, no-cache"  # a client asks each time whether a response is still the same
_LARGEST_SHARE = 16  # a response larger than this fraction of the cache is not cached
# A browser takes the headers of a 304 for its stored response: without its own policy a report would lose its style.
_KEPT = (b"etag", b"cache-control", b"vary", b"content-security-policy")
_OVERHEAD = 1024  # approximate bytes of a response's headers and address


@dataclass(frozen=True, slots=True)
class _Cached:
    start: Message
    body: bytes
    route: Any


class ResponseCache:
    """Sends cached responses, or 304 to clients that have them. The cache takes at most `held_bytes`."""

    def __init__(
        self,
        app: ASGIApp,
        start: str,
        held_bytes: int,
        count: Callable[[bool], None],
        state: Callable[[], str] | None = None,
    ) -> None:
        """Wrap `app`; `start` is a secret of one start of the service, `state` what else responses depend on."""
        self._app, self._start, self._count, self._state = app, start, count, state
        self._cache = LRUCache(held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the cache or by the application."""
        if scope["type"] != "http" or scope["method"] != "GET" or scope["path"].startswith(CHANGING):
            await self._app(scope, receive, send)
            return
        try:
            state = "" if self._state is None else await anyio.to_thread.run_sync(self._state)
        except CspIndexError:  # the application says what is wrong
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope.get("raw_path") or scope["path"].encode()  # not decoded: %3F is no question mark
        address = f"{path.decode('latin-1')}?{scope['query_string'].decode('latin-1')}"
        key = (address, state, "gzip" in headers.get("accept-encoding", ""))
        etag = self._etag(f"{address} {state}" if state else address)
        known = etag in (tag.strip() for tag in headers.get("if-none-match", "").split(","))
        cached: _Cached | None = self._cache.find(key)
        self._count(cached is not None)
        if cached is None:
            start, body = await self._made(scope, receive, etag)
            cached = _Cached(start, body, scope.get("route"))
            size = len(body) + _OVERHEAD
            if start["status"] == 200 and size * _LARGEST_SHARE <= self._cache.limit:
                self._cache.put(key, cached, size)
        else:
            scope["route"] = cached.route
        await _send(cached, known, send)

    def _etag(self, address: str) -> str:
        digest = hashlib.sha256(f"{self._start} {address}".encode()).hexdigest()
        return f'W/"{digest[:24]}"'  # weak: the same response is sent compressed or not

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
            headers.setdefault("cache-control", _FRESH if self._state is None else _ASKED)
            start["headers"] = headers.raw
        return start, b"".join(chunks)


async def _send(cached: _Cached, known: bool, send: Send) -> None:
    start, body = cached.start, cached.body
    if known and start["status"] == 200:
        headers = [(name, value) for name, value in start["headers"] if name in _KEPT]
        start, body = {**start, "status": 304, "headers": headers}, b""
    # Outer middleware adds headers to this list, so it gets a copy.
    await send({**start, "headers": list(start["headers"])})
    await send({"type": "http.response.body", "body": body})
