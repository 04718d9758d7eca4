"""Pictures in the HTML that a notebook shows: tiles with captions, inside the page, with no script.

All text is escaped, and only what begins as JPEG or PNG becomes a picture: an index may come from a stranger.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from csp_index.printable import printable

SIDE: Final = 96
"""Pixels that a picture takes at most in each direction."""
_MOST_BYTES = 2**20  # of a picture inside a page
_ROW = "display:flex;flex-wrap:wrap;gap:8px;margin:6px 0"
_TILE = f"width:{SIDE}px;font-size:11px;line-height:1.3;overflow-wrap:anywhere"
_BOX = f"width:{SIDE}px;height:{SIDE}px;object-fit:contain;display:block;background:rgba(128,128,128,.12)"


@dataclass(frozen=True, slots=True)
class Tile:
    """A picture (None or empty: there is none) with a caption below and a title for the pointer."""

    picture: bytes | None
    caption: str
    title: str = ""


def picture_html(picture: bytes | None, title: str = "") -> str:
    """Return a picture as an element, never cropped; an empty box where there is none that can be shown."""
    from csp_index.images.files.formats import stored_type  # Pillow: a page without pictures starts without it

    kind = stored_type(picture) if picture and len(picture) <= _MOST_BYTES else ""
    said = html.escape(printable(title), quote=True)
    if not kind or picture is None:
        return f'<span style="{_BOX}" title="{said}"></span>'
    data = base64.b64encode(picture).decode()
    return f'<img style="{_BOX}" alt="{said}" title="{said}" src="data:{kind};base64,{data}">'


def tiles_html(columns: Sequence[Sequence[Tile]]) -> str:
    """Return columns of tiles side by side, those of a column one above the other; nothing for none."""
    if not columns:
        return ""
    cells = (f'<div style="{_TILE}">{"".join(map(_tile, column))}</div>' for column in columns)
    return f'<div style="{_ROW}">{"".join(cells)}</div>'


def _tile(tile: Tile) -> str:
    return f"{picture_html(tile.picture, tile.title)}<div>{html.escape(printable(tile.caption))}</div>"
