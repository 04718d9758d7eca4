"""Requests that mean harm, as bytes on a connection, and the statuses they may get."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

from PIL import Image

TOKEN = "0123456789abcdef0123456789abcdef"
UPLOAD, LABEL, SQL = "/api/v1/search/image", "/api/v1/label", "/api/v1/sql"
LOOK = "/api/v1/neurons/cnn/concepts/3/maps"
REFUSED = range(400, 500)
CLOSED = 0  # the connection was closed without an answer


@dataclass(frozen=True)
class Hostile:
    """What is sent, piece by piece with pauses in between, and the statuses that are fine as answers."""

    name: str
    pieces: Sequence[bytes]
    fine: Sequence[int] = REFUSED
    pause: float = 0.0


def request(
    target: str, method: str = "GET", body: bytes = b"", kind: str = "", token: str = TOKEN, extra: Sequence[str] = ()
) -> bytes:
    """Return a well-formed request that ends its connection, with the headers in `extra`."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *extra]
    lines += [f"Authorization: Bearer {token}"] if token else []
    lines += [f"Content-Type: {kind}"] if kind else []
    lines += [f"Content-Length: {len(body)}"] if body or method == "POST" else []
    return "\r\n".join([*lines, "", ""]).encode("utf-8") + body


def raw(*lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def posted(target: str, document: object) -> bytes:
    return request(target, "POST", json.dumps(document).encode(), "application/json")


def said(target: str, body: bytes | str, kind: str = "application/json") -> bytes:
    return request(target, "POST", body.encode() if isinstance(body, str) else body, kind)


def upload(data: bytes, name: str = "a.png", kind: str = "image/png", field: str = "file") -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
    return said(UPLOAD, head.encode() + data + b"\r\n--b--\r\n", "multipart/form-data; boundary=b")


def chunked(target: str, kind: str, size: int, count: int) -> bytes:
    head = request(target, "POST", kind=kind).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    return head + (f"{size:x}\r\n".encode() + b"x" * size + b"\r\n") * count + b"0\r\n\r\n"


def png(width: int, height: int, data: bytes = b"\0" * 100, *further: tuple[bytes, bytes]) -> bytes:
    """Return a PNG that says it is so large, whatever it holds."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *further]
    parts += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    told = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(told)


def zeros(mebibytes: int, kind: Literal["zlib", "gzip"]) -> bytes:
    """Return so much of the digit 0, compressed in the time of one block: each further one is its copy."""
    block = b"0" * 2**20
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    first, end = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH), packer.flush()
    add, total = (zlib.crc32, 0) if kind == "gzip" else (zlib.adler32, 1)
    for _ in range(mebibytes):
        total = add(block, total)
    if kind == "gzip":
        head, foot = b"\x1f\x8b\x08\0\0\0\0\0\0\xff", struct.pack("<II", total, mebibytes * 2**20)
    else:
        head, foot = b"\x78\xda", struct.pack(">I", total)
    return head + first * mebibytes + end + foot


def black(side: int, kind: str) -> bytes:
    made = io.BytesIO()
    Image.new("1" if kind in ("PNG", "TIFF") else "L", (side, side)).save(
        made, kind, **({"compression": "group4"} if kind == "TIFF" else {})
    )
    return made.getvalue()


AUTHORISED = f"Authorization: Bearer {TOKEN}"
NEURON = "cnn/concepts/3"
FORM = "multipart/form-data; boundary=b"
_LABEL, _INDEX = "POST /api/v1/label HTTP/1.1", "GET /api/v1/index HTTP/1.1"
_HOST, _END = "Host: localhost", "Connection: close"
_PATHS = {
    "dots": "/static/../../../../../../etc/passwd",
    "encoded dots": "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "encoded slashes": "/static/..%2f..%2f..%2f..%2f..%2fetc%2fpasswd",
    "doubly encoded": "/static/%252e%252e%252f%252e%252e%252fetc%252fpasswd",
    "backslashes": "/static/..\\..\\..\\etc\\passwd",
    "absolute": "/static//etc/passwd",
    "overlong dots": "/static/%c0%ae%c0%ae/%c0%ae%c0%ae/etc/passwd",
    "NUL": "/static/style.css%00.png",
    "line break in a path": "/static/a%0d%0aSet-Cookie:%20x=1",
    "the package": "/static/../app.py",
    "a folder": "/static/",
    "a long name": "/static/" + "a" * 5000,
    "image by path": "/api/v1/images/..%2f..%2fetc%2fpasswd/thumbnail",
    "original by path": "/images/..%2f..%2fetc%2fpasswd/original",
    "original by address": "/images/file:%2f%2f%2fetc%2fpasswd/original",
    "original of no image": f"/images/{2**62}/original",
    "original beyond all numbers": f"/images/{'9' * 4000}/original",
    "original with a path behind it": "/images/3/original/..%2f..%2f..%2fetc%2fpasswd",
    "original of another side": "/images/-3/original?side=99999999&uri=/etc/passwd",
    "image by address": "/api/v1/images/file:%2f%2f%2fetc%2fpasswd",
    "image beyond all numbers": f"/api/v1/images/{'9' * 4000}",
    "negative image": "/api/v1/images/-1/thumbnail",
    "image in other digits": "/images/" + quote("١٢٣"),
    "neuron in other digits": "/api/v1/neurons/cnn/concepts/" + quote("٣x"),
    "layer with slashes": "/layers/..%2f..%2fetc/passwd",
    "layer with markup": "/layers/" + quote("<script>alert(1)</script>", safe="") + "/x",
    "layer with a quote": "/api/v1/neurons/" + quote("x' OR '1'='1", safe="") + "/concepts/3",
    "template": "/layers/" + quote("{{7*7}}", safe="") + "/" + quote("{% raw %}", safe=""),
    "method of the database": f"/api/v1/neurons/{NEURON}?method=" + quote("csp' UNION SELECT 1 --"),
    "cursor of another shape": "/api/v1/neurons?layer=cnn/concepts&cursor=" + quote("../../etc/passwd"),
    "cursor of numbers": "/api/v1/neurons?layer=cnn/concepts&cursor=OTk5OTk5OTk5OTk5OTk5OTk5",
    "limit beyond all": "/api/v1/neurons?layer=cnn/concepts&limit=" + "9" * 5000,
    "limit that is none": "/api/v1/neurons?layer=cnn/concepts&limit=NaN",
    "a sheet of all neurons there may be": "/layers/cnn/concepts/sheet?neurons=0-9999999",
    "a sheet of one neuron many times": "/layers/cnn/concepts/sheet?neurons=" + "0-599," * 2000 + "x",
    "a set of neurons that never ends": "/layers/cnn/concepts?neurons=0-" + "9" * 5000,
    "rows before the first": "/layers/cnn/concepts/rows?start=-5",
    "rows beyond all": "/layers/cnn/concepts/rows?limit=" + "9" * 5000,
    "a range that is none": "/layers/cnn/concepts?score_from=1e999",
    "a file of another kind": "/layers/cnn/concepts/export?format=../../etc/passwd",
    "a file of neurons elsewhere": "/layers/cnn/concepts/chosen?format=csv&neurons=../../etc/passwd",
    "many neurons to compare": "/compare.json?" + "&".join(f"neurons=cnn/concepts/{n}" for n in range(500)),
    "a word of 5,000 characters": "/concepts/" + "x" * 5000,
    "a word of spaces": "/concepts/%20%0a",
    "a word of signs that nobody sees": "/api/v1/concepts?q=" + quote("\u200b\x1b"),
    "a word with neurons beyond all": "/concepts/red?limit=" + "9" * 5000,
    "a word with fewer than no neurons": "/api/v1/concepts?q=red&limit=-1",
    "a word's limit that is none": "/concepts/red.json?limit=NaN",
    "a map of markup": "/layers/" + quote("<script>alert(1)</script>", safe="") + "/x/map",
    "a map by path": "/layers/..%2f..%2fetc/passwd/map",
    "a map colored by a path": "/layers/cnn/concepts/map?colour=../../etc/passwd",
    "a map by another method": "/api/v1/layers/cnn/concepts/map?method=" + quote("csp' UNION SELECT 1 --"),
    "a map of neurons that never end": "/layers/cnn/concepts/map?neurons=0-" + "9" * 3000,
    "a map of neurons by path": "/layers/cnn/concepts/map/cards?neurons=../../etc/passwd",
    "a long list of neurons on a map": "/layers/cnn/concepts/map/cards?neurons=" + "1," * 4000 + "1",
    "a cluster before the first": "/layers/cnn/concepts/map/cards?cluster=-1",
    "a cluster beyond all": "/layers/cnn/concepts/map?cluster=" + "9" * 3000,
    "a cluster that is none": "/layers/cnn/concepts/map?cluster=" + quote("0 OR 1=1"),
    "NUL in a query": "/api/v1/neurons?layer=cnn%00/concepts",
}
_MARKED = "/layers/cnn/concepts/map?colour=" + quote("<script>alert(1)</script>")
_ANSWERED = {  # odd, but a search may well find nothing
    "wildcards": "/api/v1/search?q=" + quote("%' OR 1=1 --_%"),
    "half a character": "/api/v1/search?q=%ff%fe%ed%a0%80",
    "characters over characters": "/api/v1/search?q=" + quote("a" + "\u0301" * 200),
    "right to left": "/api/v1/search?q=" + quote("\u202e\u2066<b>\ufeff"),
    "NUL in a search": "/api/v1/search?q=a%00b",
    "a path as a word": "/concepts/" + quote("../../etc/passwd", safe=""),
    "markup as a word": "/concepts/" + quote("<script>alert(1)</script>{{7*7}}", safe=""),
    "SQL as a word": "/concepts/" + quote("x') OR text LIKE '%_ --", safe=""),
    "half a character as a word": "/concepts/%ff%fe%ed%a0%80",
    "NUL in a word": "/api/v1/concepts?q=a%00b",
    "2,000 parameters": "/api/v1/layers?" + "&".join(f"a{n}=1" for n in range(2000)),
    "one parameter often": "/api/v1/search?" + "&".join("q=red" for _ in range(1000)),
}
_ANSWERED_BODIES = {
    "JSON in UTF-16": said(SQL, json.dumps({"sql": "SELECT 1"}).encode("utf-16")),
}
_BODIES = {
    "deep JSON": said(LABEL, "[" * 200_000),
    "deep objects": said(SQL, '{"a":' * 100_000),
    "a number of 100,000 digits": said(LABEL, '{"neurons": ["cnn/concepts/3"], "top": ' + "9" * 100_000 + "}"),
    "NaN": said(LABEL, '{"neurons": ["cnn/concepts/3"], "gamma": NaN}'),
    "infinity": said(LABEL, '{"neurons": ["cnn/concepts/3"], "gamma": 1e999}'),
    "half a character in JSON": said(LABEL, '{"neurons": ["cnn/concepts/3"], "candidates": ["\\ud800"]}'),
    "JSON of the wrong type": posted(LABEL, {"neurons": {"0": NEURON}, "method": ["csp"], "examples": "all"}),
    "attributes": posted(LABEL, {"neurons": [NEURON], "__class__": "x", "__proto__": {"a": 1}}),
    "no JSON": said(SQL, "sql=SELECT 1", "application/x-www-form-urlencoded"),
    "SQL as plain text": said(SQL, '{"sql": "SELECT 1"}', "text/plain"),
    "a file by SQL": posted(SQL, {"sql": "SELECT * FROM read_text('/etc/passwd')"}),
    "a candidate that is a template": posted(LABEL, {"neurons": [NEURON], "contrast": "{{config}}"}),
    "generator from the network": posted(LABEL, {"neurons": [NEURON], "contrast": "synthetic"}),
    "where it looks in all images": posted(LOOK, {"images": list(range(5000))}),
    "where it looks in an image by path": posted(LOOK, {"images": ["../../etc/passwd"]}),
    "where it looks beyond all numbers": said(LOOK, '{"images": [' + "9" * 10_000 + "]}"),
    "where another neuron looks": posted(f"/api/v1/neurons/{quote('../x', safe='')}/concepts/3/maps", {"images": [0]}),
    "100,000 neurons": posted(LABEL, {"neurons": [NEURON] * 100_000}),
    "a large body": said(LABEL, b"x" * (2**20 + 1)),
    "a body that unfolds": said(LABEL, zeros(96, "gzip")),
    "a large upload": said(UPLOAD, b"x" * (11 * 2**20), FORM),
    "chunks without end": chunked(LABEL, "application/json", 2**16, 40),
    "chunks of a form without end": chunked(UPLOAD, FORM, 2**20, 12),
    "a form without boundary": said(UPLOAD, "x", "multipart/form-data"),
    "a form of many parts": said(
        UPLOAD,
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 20_000,
        FORM,
    ),
    "a form of many files": said(
        UPLOAD,
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n1\r\n' * 5000 + b"--b--\r\n",
        FORM,
    ),
    "a part with long headers": said(UPLOAD, b"--b\r\nX: " + b"y" * 200_000 + b"\r\n\r\n1\r\n--b--\r\n", FORM),
}
NOTES, RATINGS, TAG = "/api/v1/notes", "/api/v1/ratings", "/layers/cnn/concepts/tag"
_NOTE = {"subject": NEURON, "action": "tag", "text": "odd", "reader": "ann"}
_RATING = {"number": 0, "proof": "f" * 32, "rater": "ann", "verdict": "yes"}


def form(target: str, fields: str, extra: Sequence[str] = (), token: str = TOKEN) -> bytes:
    return request(target, "POST", fields.encode(), "application/x-www-form-urlencoded", token, extra)


_WRITES = {
    "a note about a path": posted(NOTES, _NOTE | {"subject": "../../etc/passwd"}),
    "a note about a neuron beyond all numbers": posted(NOTES, _NOTE | {"subject": "cnn/concepts/" + "9" * 500}),
    "a note about a finding by path": posted(NOTES, _NOTE | {"subject": "finding:../../x"}),
    "a note that is SQL": posted(NOTES, _NOTE | {"action": "tag'); DROP TABLE notes; --"}),
    "a note that moves the cursor": posted(NOTES, _NOTE | {"text": "\x1b[2J\x1b[1;1Hroot"}),
    "a note by nobody": posted(NOTES, _NOTE | {"reader": " "}),
    "a note with a line break in its name": posted(NOTES, _NOTE | {"reader": "a\r\nX-Name: b"}),
    "half a character in a note": said(
        NOTES, '{"subject": "cnn/concepts/3", "action": "tag", "text": "\\ud800", "reader": "a"}'
    ),
    "a note of 100,000 characters": posted(NOTES, _NOTE | {"text": "x" * 100_000}),
    "a note with a time of its own": posted(NOTES, _NOTE | {"when": "1999-01-01", "note_id": "x", "run_id": "x"}),
    "a note as a list": posted(NOTES, [_NOTE] * 1000),
    "a note without the token": request(NOTES, "POST", json.dumps(_NOTE).encode(), "application/json", ""),
    "a form of a note from another site": form(
        "/notes", "subject=cnn/concepts/3&action=tag&text=x&reader=a", ["Origin: https://evil.example"]
    ),
    "a form of a note without the token": form("/notes", "subject=cnn/concepts/3&action=tag&text=x&reader=a", token=""),
    "a form with 10,000 fields": form("/notes", "&".join(f"a{n}=1" for n in range(10_000))),
    "a tag of all neurons there may be": form(TAG, "neurons=0-9999999&reader=a&text=x"),
    "a tag of no neuron": form(TAG, "neurons=&reader=a&text=x"),
    "a tag of neurons by path": form(TAG, "neurons=../../etc/passwd&reader=a&text=x"),
    "a tag of a layer by path": form("/layers/..%2f..%2fetc/passwd/tag", "neurons=0&reader=a&text=x"),
    "a tag without the token": form(TAG, "neurons=0-3&reader=a&text=x", token=""),
    "a rating of a question that nobody asked": posted(RATINGS, _RATING),
    "a rating beyond all numbers": said(RATINGS, json.dumps(_RATING).replace("0,", "9" * 5000 + ",", 1)),
    "a rating before the first": posted(RATINGS, _RATING | {"number": -1}),
    "a rating that is markup": posted(RATINGS, _RATING | {"verdict": "<script>alert(1)</script>"}),
    "a rating without the token": request(RATINGS, "POST", json.dumps(_RATING).encode(), "application/json", ""),
    "a form of a rating with another proof": form("/rate", f"number=0&proof={'f' * 32}&rater=a&verdict=yes"),
    "a rater of 100,000 characters": request("/api/v1/rate?rater=" + "x" * 60_000),
}
_PICTURES = {
    "SVG": upload(b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "a.svg", "image/svg+xml"),
    "HTML": upload(b"<html><script>alert(1)</script></html>", "a.html", "text/html"),
    "a path as its name": upload(b"x", "../../../../etc/cron.d/x"),
    "an empty picture": upload(b""),
    "half a picture": upload(black(64, "PNG")[:45]),
    "noise behind a head": upload(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100),
    "10,000 million pixels": upload(png(100_000, 100_000)),
    "more pixels than numbers": upload(png(2**31 - 1, 2**31 - 1)),
    "36 million black pixels": upload(black(6000, "PNG")),
    "36 million pixels as TIFF": upload(black(6000, "TIFF")),
    "a picture in PostScript": upload(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n", "a.eps"),
    "a picture in a field of another name": upload(black(8, "PNG"), field="picture"),
}
_UNFOLDING = {  # the pixels are read, the text is not
    "a picture whose text unfolds": upload(png(8, 8, b"\0" * 200, (b"zTXt", b"a\0\0" + zeros(288, "zlib")))),
}
_FRAMES = {
    "both lengths": raw(
        _LABEL,
        _HOST,
        AUTHORISED,
        "Content-Length: 4",
        "Transfer-Encoding: chunked",
        body=b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ),
    "two lengths": raw(
        _LABEL,
        _HOST,
        AUTHORISED,
        "Content-Length: 2",
        "Content-Length: 9",
        body=b"{}",
    ),
    "a length with a sign": raw(_LABEL, _HOST, "Content-Length: +2", body=b"{}"),
    "an unknown coding": raw(_LABEL, _HOST, "Transfer-Encoding: xchunked", body=b"0"),
    "a folded header": raw(_INDEX, _HOST, "X-A: 1", " Host: evil.example", "Host: b"),
    "space before the colon": raw(_INDEX, _HOST, "Transfer-Encoding : chunked"),
    "two hosts": raw(_INDEX, _HOST, "Host: evil.example", AUTHORISED),
    "no host": raw(_INDEX, AUTHORISED),
    "another host": raw(_INDEX, "Host: evil.example", AUTHORISED, _END),
    "a host with a name in front": raw("GET / HTTP/1.1", "Host: localhost@evil.example", _END),
    "another host behind a proxy": raw(
        _INDEX,
        "Host: evil.example",
        "X-Forwarded-Host: localhost",
        AUTHORISED,
        _END,
    ),
    "a whole address": raw("GET http://evil.example/api/v1/index HTTP/1.1", _HOST, AUTHORISED, _END),
    "a way through": raw("CONNECT evil.example:443 HTTP/1.1", _HOST, AUTHORISED, _END),
    "bare line feeds": b"GET /api/v1/index HTTP/1.1\nHost: evil.example\n\n",
    "headers without end": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X-A: " + b"y" * 200_000,
    "10,000 headers": b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an upgrade": raw("GET / HTTP/1.1", _HOST, "Upgrade: websocket", "Connection: Upgrade, close"),
    "a method that is none": request("/api/v1/index", "BREW"),
    "TRACE": request("/api/v1/index", "TRACE"),
    "DELETE": request("/api/v1/images/0", "DELETE"),
    "another site": request(LABEL, "POST", b"{}", "application/json", extra=["Origin: https://evil.example"]),
}
_TOKENS = {
    "no token": request("/api/v1/index", token=""),
    "another token": request("/api/v1/index", token="f" * 32),
    "part of the token": request("/api/v1/index", token=TOKEN[:-1]),
    "token in the address": request(f"/api/v1/index?token={TOKEN}&access_token={TOKEN}", token=""),
    "token as a cookie": request("/api/v1/index", token="", extra=[f"Cookie: csp_index_8000={TOKEN}"]),
    "token in another place": request("/api/v1/index", token="", extra=[f"Authorization: Basic {TOKEN}"]),
    "two tokens": request("/api/v1/index", token="x", extra=[AUTHORISED]),
    "open path in front": request("/login/../api/v1/index", token=""),
    "open path encoded": request("/static/%2e%2e/api/v1/index", token=""),
    "counters": request("/metrics", token=""),
    "a session of one's own": request("/", token="", extra=["Cookie: csp_index_8000=99999999999.0"]),
}

HOSTILE = [
    *(Hostile(name, [request(path)]) for name, path in _PATHS.items()),
    *(Hostile(name, [request(path)], range(200, 500)) for name, path in _ANSWERED.items()),
    *(Hostile(name, [data], range(200, 500)) for name, data in (_ANSWERED_BODIES | _UNFOLDING).items()),
    *(Hostile(name, [data]) for name, data in (_BODIES | _WRITES | _PICTURES).items()),
    *(Hostile(name, [data], (CLOSED, *REFUSED)) for name, data in _FRAMES.items()),
    *(Hostile(name, [data], (401, 404)) for name, data in _TOKENS.items()),
    Hostile("a page of a map colored by markup", [request(_MARKED, extra=["Accept: text/html"])]),
    Hostile("a slow head", [b"GET / HTTP/1.1\r\n"] + [b"X: y\r\n"] * 30, (CLOSED, *REFUSED), 0.5),
    Hostile("a slow body", [request(LABEL, "POST", b"x" * 30)[:-30]] + [b"x"] * 29, (CLOSED, *REFUSED), 0.5),
    Hostile(
        "a body that never comes",
        [raw(_LABEL, _HOST, AUTHORISED, "Content-Length: 9")],
    ),
    Hostile("nothing at all", [b""], (CLOSED,)),
]
