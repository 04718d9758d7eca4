"""Requests that mean harm, over real connections: refused in time, with nothing told and nothing left behind."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browsing import served
from hostile_requests import CLOSED, HOSTILE, TOKEN, Hostile, request

SECONDS = 150.0  # after which a request counts as hanging; most take milliseconds
LEAKS = (b"root:", b"Traceback", b"site-packages", b"csp_index/service", TOKEN.encode())


@pytest.fixture(scope="module")
def place(served_db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(TOKEN)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CSP_INDEX_SERVE_ARRIVAL", "2")
        with served(served_db, "--token-file", str(token), "--write", "--rate") as address:
            parts = urlsplit(address)
            answer((str(parts.hostname), parts.port or 0), Hostile("", [request("/api/v1/search?q=red")]))  # loads all
            yield str(parts.hostname), parts.port or 0


def answer(place: tuple[str, int], hostile: Hostile) -> bytes:
    """Return all that comes back until the connection ends."""
    until, found = time.monotonic() + SECONDS, b""
    with socket.create_connection(place, timeout=SECONDS) as connection:
        try:
            for piece in hostile.pieces:
                connection.sendall(piece)
                time.sleep(hostile.pause)
            while data := connection.recv(2**16):
                found += data
                assert time.monotonic() < until, "it never ends"
        except (ConnectionResetError, BrokenPipeError):  # refused before all was sent
            pass
    return found


def files(folder: Path) -> set[tuple[str, int]]:
    return {(str(file), file.stat().st_size) for file in folder.rglob("*") if file.is_file()}


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 100 and len({hostile.name for hostile in HOSTILE}) == len(HOSTILE)


@pytest.mark.parametrize("hostile", HOSTILE, ids=[hostile.name for hostile in HOSTILE])
def test_a_hostile_request_gets_nothing(place, served_db, hostile):
    before = files(served_db.parent)
    found = answer(place, hostile)
    statuses = [int(status) for status in re.findall(rb"^HTTP/1\.1 (\d{3}) ", found, re.MULTILINE)] or [CLOSED]
    assert len(statuses) == 1 and statuses[0] in hostile.fine, found[:500]
    assert statuses == [CLOSED] or (b"\r\nx-request-id: " in found and b"\r\ncontent-security-policy: " in found)
    assert not any(leak in found for leak in (*LEAKS, str(served_db).encode(), str(served_db.parent).encode()))
    assert b"<script>alert" not in found and b"Set-Cookie: x" not in found
    assert files(served_db.parent) == before


def test_after_all_that_it_still_answers(place):
    found = answer(place, Hostile("", [request("/api/v1/neurons/cnn/concepts/3")]))
    assert found.startswith(b"HTTP/1.1 200 ")
    metrics = answer(place, Hostile("", [request("/metrics")])).decode()
    assert not re.search(r'status="5\d\d"', metrics)
