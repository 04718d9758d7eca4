"""The static files of the pages: read once, compressed once, and joined where one page always needs several of them.

A browser asks for few files at a time, and one process answers one after the other, so each further file of a page
delays its first picture. Knows nothing about templates.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import mimetypes
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

_EVERY: Final = ("keyboard.js", "lightbox.js", "edition.js")  # scripts of every page
JOINED: Final[Mapping[str, tuple[str, ...]]] = {
    "head.js": ("theme.js", "later.js"),
    "page.js": _EVERY,
    "neuron-page.js": (*_EVERY, "veils.js", "where.js", "copy.js", "review.js", "neuron.js"),
    "mute-page.js": (*_EVERY, "veils.js", "copy.js", "review.js"),
    "map-page.js": (*_EVERY, "atlas.js", "map.js"),
    "neuron-page.css": ("style.css", "neuron.css", "review.css"),
}
"""Files that are sent as one, by the name of the whole. Scripts become one module; each keeps its own names."""

HEAD: Final = "head.js"
"""The script that pages have inside, in place of an address: nothing is drawn before it ran."""

_LASTING: Final = "public, max-age=86400, immutable"  # of an address that names the version of the files


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file as it is sent, also compressed, with what a browser needs to know of it."""

    body: bytes
    compressed: bytes
    media_type: str
    etag: str


@functools.cache
def static_files() -> Mapping[str, StaticFile]:
    """Return all files by name, those joined of others among them."""
    folder = resources.files("csp_index.service") / "static"
    contents = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    contents |= {whole: _join(whole, [contents[name] for name in names]) for whole, names in JOINED.items()}
    return {name: _file(name, body) for name, body in contents.items()}


def head_script() -> str:
    """Return the script that every page has inside: it says how the page looks, so nothing is drawn before it ran."""
    return static_files()[HEAD].body.decode()


@functools.cache
def policy_of_scripts() -> str:
    """Return what a Content-Security-Policy allows of scripts: our files, and the one that pages have inside."""
    digest = hashlib.sha256(static_files()[HEAD].body).digest()
    return f"script-src 'self' 'sha256-{b64encode(digest).decode()}'"


@functools.cache
def version() -> str:
    """Return a hash of all files."""
    digest = hashlib.sha256()
    for name, file in sorted(static_files().items()):
        digest.update(name.encode() + b"\0" + file.body)
    return digest.hexdigest()[:12]


def router() -> APIRouter:
    """Return the route of the files; a response to an address with a version never changes."""
    routes = APIRouter()
    routes.add_route("/static/{name:path}", _send, include_in_schema=False)  # without what FastAPI does for an API
    return routes


async def _send(request: Request) -> Response:
    file = static_files().get(request.path_params["name"])
    if file is None:
        raise HTTPException(404)
    lasting = request.scope["query_string"].startswith(b"v=")
    headers = {
        "cache-control": _LASTING if lasting else "no-cache",
        "etag": file.etag,
        "vary": "accept-encoding",
    }
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(file.body, headers=headers, media_type=file.media_type)
    headers["content-encoding"] = "gzip"
    return Response(file.compressed, headers=headers, media_type=file.media_type)


def _file(name: str, body: bytes) -> StaticFile:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return StaticFile(body, gzip.compress(body, 9, mtime=0), kind, f'W/"{hashlib.sha256(body).hexdigest()[:24]}"')


def _join(whole: str, parts: list[bytes]) -> bytes:
    """Return files one after the other; a script is a block, so that two may use one name."""
    if whole.endswith(".js"):
        return b"".join(b"{\n" + part + b"}\n" for part in parts)
    return b"".join(parts)
