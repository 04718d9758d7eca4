"""A map as a notebook shows it: one SVG inside the page, circles colored by cluster, names of the largest ones.

All text is escaped: an index may come from a stranger.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Final

import numpy as np

from csp_index.printable import printable

COLORS: Final = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bb5566", "#004488", "#997700")
"""Colors that most people tell apart (Paul Tol's bright and high-contrast schemes); clusters take them in turn."""
_GRAY: Final = "#999"  # of neurons in no cluster
_POINTS: Final = 4_000  # circles, at most: a notebook keeps them in its file
_NAMES: Final = 24
_SIDE: Final = 560  # pixels


def map_html(
    places: np.ndarray,
    clusters: np.ndarray,
    titles: Sequence[str],
    named: Sequence[tuple[str, float, float]],
    lines: Sequence[str],
) -> str:
    """Return the map: places [P, 2] in [0, 1], clusters [P] (-1: none), titles of P points; names with x and y."""
    drawn = np.arange(len(places))
    if len(drawn) > _POINTS:
        drawn = np.linspace(0, len(places) - 1, _POINTS).astype(np.int64)
    said = [*lines, *([f"{len(drawn):,} of them are drawn."] if len(drawn) < len(places) else [])]
    circles = "".join(
        f'<circle cx="{100 * places[at, 0]:.2f}" cy="{100 - 100 * places[at, 1]:.2f}" r="0.7" '
        f'fill="{COLORS[clusters[at] % len(COLORS)] if clusters[at] >= 0 else _GRAY}"><title>{_text(titles[at])}'
        "</title></circle>"
        for at in drawn.tolist()
    )
    names = "".join(
        f'<text x="{100 * x:.2f}" y="{100 - 100 * y:.2f}" font-size="2.4" text-anchor="middle" fill="currentColor" '
        f'stroke="Canvas" stroke-width="0.5" paint-order="stroke">{_text(name)}</text>'
        for name, x, y in free_names(named)
    )
    paragraphs = "".join(f"<p>{_text(line)}</p>" for line in said)
    return f'<svg viewBox="-2 -2 104 104" width="{_SIDE}" height="{_SIDE}">{circles}{names}</svg>{paragraphs}'


def free_names(named: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Return the names that have room, in their order: one that would cover an earlier one is left out."""
    kept: list[tuple[str, float, float]] = []
    for name, x, y in named[:_NAMES]:
        wide = 0.014 * len(name)
        if all(abs(y - other[2]) > 0.03 or abs(x - other[1]) > (wide + 0.014 * len(other[0])) / 2 for other in kept):
            kept.append((name, x, y))
    return kept


def _text(value: str) -> str:
    return html.escape(printable(value))
