"""Pictures in the HTML that a notebook shows: tiles with captions, inside the page, with no script.

All text is escaped, and only what begins as a picture becomes one: an index may come from a stranger.
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


def bytes_told(value: bytes, size: int | None = None) -> str:
    """Return how many bytes a value has, by default those given, after the format of the picture that they begin."""
    from csp_index.images.files.formats import kind_of  # Pillow: most answers have no bytes

    kind, size = kind_of(value), len(value) if size is None else size
    return f"{f'{kind}, ' if kind else ''}{size:,} byte{'' if size == 1 else 's'}"


def bytes_html(value: bytes) -> str:
    """Return bytes that browsers show as a picture as an element, nothing for others.

    >>> bytes_html(b"GIF89a"), bytes_html(b"II*\\0<")
    ('<img src="data:image/gif;base64,R0lGODlh" alt="GIF, 6 bytes">', '')
    """
    from csp_index.images.files.formats import MEDIA_TYPES, kind_of

    media_type = MEDIA_TYPES.get(kind_of(value) or "")
    if media_type is None:
        return ""
    return f'<img src="data:{media_type};base64,{base64.b64encode(value).decode()}" alt="{bytes_told(value)}">'
