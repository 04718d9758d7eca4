"""Pictures in the tables of a stranger's index: nothing but JPEG and PNG is opened, and no more than some pixels."""

from __future__ import annotations

import ast
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pytest
from hostile_index import overwrite
from indexed import ENCODER, NETWORK, WORDS
from PIL import Image

import csp_index
from csp_index import open_index
from csp_index.errors import SourceError
from csp_index.images.decode import decode_stored, stored_size
from csp_index.store import schema

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\nshowpage\n"


def encoded(kind: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", size).save(buffer, kind)
    return buffer.getvalue()


BOMB = encoded("PNG", (12_000, 12_000))
ODD = {
    "eps": EPS,
    "gif": encoded("GIF"),
    "html": b"<html><script>alert(1)</script>",
    "bomb": BOMB,
    "cut": encoded("PNG")[:40],
    "empty": b"",
    "absent": None,
}


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that exists once something has started Ghostscript."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\nexit 1\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    return tmp_path / "ran"


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_odd_pictures_are_refused_in_one_line(data: bytes | None, ran: Path) -> None:
    for read in (decode_stored, stored_size):
        if data == ODD["cut"] and read is stored_size:  # its head is whole
            continue
        with pytest.raises(SourceError) as caught:
            read(data)
        assert "\n" not in str(caught.value)
    assert not ran.exists()


def test_pictures_of_csp_index_are_read() -> None:
    for kind in ("PNG", "JPEG"):
        assert decode_stored(encoded(kind)).size == stored_size(encoded(kind)) == (8, 8)
    with pytest.raises(SourceError, match="more than the limit of 63"):
        decode_stored(encoded("PNG"), max_pixels=63)


def test_no_command_opens_an_odd_thumbnail(run: Callable[..., Any], ran: Path, tmp_path: Path) -> None:
    index = open_index(tmp_path / "db")
    index.add_images(fakes.write_images(tmp_path / "images", 12), encoders=[ENCODER], networks=[NETWORK])
    index.label("net/concepts", vocabulary=WORDS, templates="none", examples=3)
    shown = list(ODD.values())
    overwrite(index.store, schema.IMAGES, thumbnail=(shown * 2)[: index.store.count(schema.IMAGES)], uri="array#0")
    said = run("show", tmp_path / "db", "net/concepts/0", "--card", tmp_path / "card.png")
    assert (said.status, said.err) == (0, "")
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
    said = run("verify", tmp_path / "db")
    assert "its thumbnail cannot be decoded" in said.out
    assert not ran.exists()


def test_every_picture_is_opened_as_formats_that_its_place_names() -> None:
    opened = 0
    for file in Path(csp_index.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Image.open":
                assert any(keyword.arg == "formats" for keyword in node.keywords), f"{file}:{node.lineno}"
                opened += 1
    assert opened
