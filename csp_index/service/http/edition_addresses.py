"""Which version of an index a request asks for: `at=N` in its address, or in that of the page it comes from.

ASGI middleware between the guard and the editions. A page of an earlier version brings its number along: what it loads
is of that version, and its links lead to pages of it, until one says `at=newest`.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import anyio.to_thread
from starlette.datastructures import MutableHeaders
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from csp_index.errors import CspIndexError
from csp_index.service.editions import Editions, check_version
from csp_index.service.http.api import fault_of
from csp_index.service.http.auth import first
from csp_index.service.http.guard import Answer

AT: Final = "at"
NEWEST: Final = "newest"
_EVERY: Final = ("/healthz", "/readyz", "/metrics", "/login", "/static/", "/docs", "/api/v1/version")
"""Prefixes of addresses that are of the service, not of a version."""


class EditionAddresses:
    """Passes requests on to the edition that they ask for."""

    def __init__(self, app: ASGIApp, editions: Editions, answer: Answer) -> None:
        self._app, self._editions, self._own, self._answer = app, editions, editions.shown, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        here, query = _taken(scope["query_string"])
        from_page = None if here else _of_page(scope)
        if from_page and first(scope["headers"], b"sec-fetch-mode") == "navigate" and scope["method"] == "GET":
            path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
            path = "/" + path.lstrip("/")  # two slashes would lead to another site
            terms = [query.decode("latin-1")] if query else []
            where = "&".join([*terms, urlencode({AT: from_page})])
            await RedirectResponse(f"{path}?{where}", 307, {"Cache-Control": "no-store"})(scope, receive, send)
            return
        version = here or from_page or None
        scope["query_string"] = query
        edition = self._editions.shown
        if version not in (None, NEWEST) and not scope["path"].startswith(_EVERY):
            try:
                edition = await anyio.to_thread.run_sync(self._editions.named, check_version(str(version)))
            except (CspIndexError, OSError) as exc:
                await self._answer(scope, fault_of(exc))(scope, receive, send)
                return
            send = _not_kept(send) if from_page else send
        await (self._app if edition is self._own else edition.app)(scope, receive, send)


def _taken(query: bytes) -> tuple[str, bytes]:
    """Return the version that a query names, and the query without it as it was written."""
    if AT.encode() + b"=" not in query:
        return "", query
    terms = query.split(b"&")
    named = [term for term in terms if term.startswith(AT.encode() + b"=")]
    values = [value for _, value in parse_qsl(b"&".join(named).decode("latin-1"), keep_blank_values=True)]
    return (values[-1] if values else ""), b"&".join(term for term in terms if term not in named)


def _of_page(scope: Scope) -> str:
    """Return the version that the page names from which a request comes, or nothing."""
    try:
        referer = urlsplit(first(scope["headers"], b"referer"))
    except ValueError:  # no address, whoever sent it
        return ""
    if AT not in referer.query or referer.netloc.lower() != first(scope["headers"], b"host").lower():
        return ""
    version = dict(parse_qsl(referer.query)).get(AT, "")
    return "" if version == NEWEST else version


def _not_kept(send: Send) -> Send:
    """Return a `send` whose responses a browser does not keep: the address alone does not say their version."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(raw=(headers := list(message["headers"])))["cache-control"] = "no-store"
            message = {**message, "headers": headers}
        await send(message)

    return marked
