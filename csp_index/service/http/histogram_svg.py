"""The bars of a histogram for an SVG: in a box 100 units wide and high. Works on the document of a histogram."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from csp_index.service.documents.layers.overview_shapes import Histogram

_LEAST: Final = 2.0  # units of height: a bin with one neuron can still be seen


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars as (left, top, width, height) texts: of all neurons, and of those shown; and what is said of them."""

    column: str
    every: list[tuple[str, str, str, str]]
    shown: list[tuple[str, str, str, str]]
    edges: str
    low: float
    high: float
    total: int
    left: int
    without: int


def bars_of(histogram: Histogram) -> Bars:
    """Return the bars of a histogram, as high as the square root of how many neurons there are: few stay visible."""
    counts, shown, edges = histogram["counts"], histogram["shown"], histogram["edges"]
    most = max(1, *counts)
    return Bars(
        histogram["column"],
        _bars(counts, most),
        _bars(shown, most),
        " ".join(f"{edge:.10g}" for edge in edges),
        edges[0],
        edges[-1],
        sum(counts),
        sum(shown),
        histogram["without"],
    )


def _bars(counts: list[int], most: int) -> list[tuple[str, str, str, str]]:
    width = 100 / len(counts)
    heights = [max(_LEAST, 100 * (count / most) ** 0.5) if count else 0.0 for count in counts]
    return [
        (f"{place * width:.2f}", f"{100 - height:.2f}", f"{0.92 * width:.2f}", f"{height:.2f}")
        for place, height in enumerate(heights)
        if height
    ]
