"""Who may send requests: host names, the token, the session cookie. Pure functions of a request's headers.

Knows nothing about ASGI's calls or the index.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from csp_index.service.config import ServiceSettings

Headers = Iterable[tuple[bytes, bytes]]  # as in ASGI: names in lower case

OPEN_PATHS = ("/healthz", "/readyz", "/login")
"""Paths that need no token, besides the static files of the pages."""

_HOURS = 12  # that a browser stays signed in
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_UNSEEN = re.compile(r"[\x00-\x1f\x7f]")


class Token:
    """A token and the sessions that it opened, which end with the service."""

    def __init__(self, token: str, port: int, start: str) -> None:
        """Hold the token of the service at `port`.

        The cookie's name has the port in it, because browsers send cookies to all ports of a host. `start` is a secret
        of one start of the service that signs its sessions.
        """
        self._token, self._key = token.encode(), start.encode()
        self.cookie = f"csp_index_{port}"
        self.seconds = _HOURS * 3600

    def is_right(self, text: bytes) -> bool:
        """Return whether a text is the token, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(text, self._token)

    def session(self) -> str:
        """Return the value of a new cookie: when it expires, and a signature."""
        until = str(int(time.time()) + self.seconds)
        return f"{until}.{self._proof(until)}"

    def admits(self, headers: Headers) -> bool:
        """Return whether a request has the token, or the cookie of a session that has not expired."""
        values = _all(headers, b"authorization")
        if values:
            kind, _, text = values[0].partition(b" ")
            return len(values) == 1 and kind.lower() == b"bearer" and self.is_right(text.strip())
        return any(self._is_session(value) for value in _cookies(headers, self.cookie))

    def _is_session(self, value: str) -> bool:
        until, _, proof = value.partition(".")
        if not (until.isascii() and until.isdecimal() and len(until) < 12):
            return False
        return hmac.compare_digest(proof.encode(), self._proof(until).encode()) and int(until) > time.time()

    def _proof(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()


class Forms:
    """The proof that what a browser or a program sends was asked for here: pages of other sites cannot read it."""

    def __init__(self, start: str) -> None:
        """Sign with the secret of one start of the service, after which earlier forms are no longer taken."""
        self._key = start.encode()
        self.proof = self.sign("form")

    def sign(self, *parts: object) -> str:
        """Return the signature of some values."""
        return hmac.new(self._key, repr(parts).encode(), hashlib.sha256).hexdigest()

    def admits(self, text: str) -> bool:
        """Return whether a text is the proof, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(text.encode(), self.proof.encode())


def fault_of_write(headers: Headers, form: str, forms: Forms, token: str | None) -> str | None:
    """Return why a request may not write, in one line, or None: a page of this service, or a program, must send it.

    Of pages only our own may, not those of sites that may read (`--allow-origin`); their requests must have the proof
    of one of our forms. A program has it from /api/v1/review, or sends the service's `token` in the Authorization
    header, which no browser sends by itself.
    """
    origins, own = _all(headers, b"origin"), [value.decode("latin-1").lower() for value in _all(headers, b"host")]
    if any(_place(origin.decode("latin-1")) not in own for origin in origins):
        return "a page of another site made this request: only pages of this service may write"
    if first(headers, b"sec-fetch-site") not in ("", "same-origin"):
        return "this request does not come from a page of this service: open the page, and use its form"
    if token is not None and _all(headers, b"authorization"):  # it is right, else nothing would have come this far
        return None
    return None if forms.admits(form) else "the form is of an earlier start of the service: load the page again"


def fault_of_address(settings: ServiceSettings, path: str, headers: Headers) -> str | None:
    """Return what is wrong with a request's address or framing, in one line, or None."""
    hosts = _all(headers, b"host")
    host = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if host is None:
        return "expected one Host header: a name or an address, with or without a port"
    if not settings.knows_host(host[1]):
        return "the service does not know the name in the Host header: `serve --allow-host NAME` adds it"
    if not path.startswith("/") or _UNSEEN.search(path):
        return "the address of a request is a path that begins with / and has no control characters"
    if _all(headers, b"content-length") and _all(headers, b"transfer-encoding"):
        return "Content-Length and Transfer-Encoding contradict each other: send one of them"
    return None


def is_foreign(settings: ServiceSettings, headers: Headers) -> bool:
    """Return whether a page of another site, which no setting allows, made a browser send this.

    A link that a person follows is no such request: it opens a page of this service, which the other one cannot read.
    """
    origins = [value.decode("latin-1") for value in _all(headers, b"origin")]
    own = [value.decode("latin-1").lower() for value in _all(headers, b"host")]
    if origins:
        return any(_place(origin) not in own and origin not in settings.origins for origin in origins)
    # Pictures, scripts and frames of another page come without an Origin: browsers say so in headers of their own.
    elsewhere = first(headers, b"sec-fetch-site") in ("cross-site", "same-site")
    followed = first(headers, b"sec-fetch-mode") == "navigate" and first(headers, b"sec-fetch-dest") == "document"
    return elsewhere and not followed


def first(headers: Headers, name: bytes) -> str:
    """Return the first header of that name as text, or an empty one."""
    return next((value.decode("latin-1") for key, value in headers if key == name), "")


def wants_page(path: str, headers: Headers) -> bool:
    """Return whether a request comes from a browser that will show a page."""
    return "text/html" in first(headers, b"accept") and not path.startswith("/api/") and not path.endswith(".json")


def local_path(address: str) -> str:
    """Return the address if it is one of this service, else /.

    >>> local_path("/search?q=red"), local_path("//elsewhere.example"), local_path("https://elsewhere.example")
    ('/search?q=red', '/', '/')
    """
    is_local = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if is_local and address.isprintable() and address.isascii() else "/"


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _all(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _cookies(headers: Headers, name: str) -> Iterable[str]:
    for header in _all(headers, b"cookie"):
        for part in header.decode("latin-1").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value
