"""The parts of a layer map's SVG: circles that are links or, for many neurons, one cloud for each color.

Works on the document of a map and knows nothing about the meaning of its points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from markupsafe import Markup

from csp_index.printable import not_turned
from csp_index.service.documents.layer_map import GROUPS, HUES
from csp_index.service.documents.shapes import MapDocument, MapPoint
from csp_index.service.http.addresses import neuron_href
from csp_index.service.http.rendering import figure

STEPS: Final = 8
"""Colors from low to high; circles grow with them, so that the map does not depend on color alone."""
LINKED: Final = 2048
"""The most points that are drawn as links."""


@dataclass(frozen=True, slots=True)
class Dot:
    """A neuron on the map: its page, its place in 0 .. 100 from the upper left, its radius, class and title."""

    href: str
    x: str
    y: str
    size: str
    step: str
    title: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """The map's circles, or its clouds (class, path) of too many points; whether some points have no value."""

    dots: list[Dot]
    clouds: list[tuple[str, str]]
    hollow: bool

    @property
    def links(self) -> Markup:
        """The circles as links; the loop of a template would take 30 ms for 2,048 of them, this takes 4."""
        return Markup(not_turned("\n".join(map(_link, self.dots))))  # each text is escaped  # nosec B704


def draw(page: MapDocument) -> Drawing:
    """Return the drawing of a map's document; high values come last, so that they lie on top."""
    low, high = page["low"], page["high"]
    points = sorted(page["points"], key=lambda point: (point["value"] is not None, point["value"] or 0.0))
    hollow = bool(points) and points[0]["value"] is None
    if len(points) <= LINKED:
        name = page["colour"].replace("_", " ")
        here = neuron_href(page["layer"])
        return Drawing([_dot(page["layer"], here, name, point, low, high) for point in points], [], hollow)
    return Drawing([], clouds(page, points), hollow)


def clouds(page: MapDocument, points: Sequence[MapPoint] | None = None) -> list[tuple[str, str]]:
    """Return the class and path of the points of each color: those of a number, or of a group (h0 to h8)."""
    paths: dict[str, list[str]] = {}
    for point in page["points"] if points is None else points:  # a line of length 0 with round ends is a dot
        value = point["value"]
        grouped = page["colour"] in GROUPS and value is not None
        kind = f"h{int(value or 0) % HUES}" if grouped else _class(_step(value, page["low"], page["high"]))
        paths.setdefault(kind, []).append(f"M{_place(point['x'])} {_place(1 - point['y'])}h0")
    return [(kind, "".join(path)) for kind, path in paths.items()]


def _link(dot: Dot) -> str:
    circle = f'<circle class="{dot.step}" cx="{dot.x}" cy="{dot.y}" r="{dot.size}"/>'
    return f'<a href="{escape(dot.href)}" tabindex="-1"><title>{escape(dot.title)}</title>{circle}</a>'


def _dot(layer: str, here: str, name: str, point: MapPoint, low: float | None, high: float | None) -> Dot:
    """Return a point's circle; `here` is the layer in the addresses of its neurons."""
    step, index = _step(point["value"], low, high), point["index"]
    title = f"{layer}/{index}: {point['label'] or 'no label'}, {name} {figure(point['value'])}"
    size = f"{0.9 + 0.12 * (step or 0):.2f}"
    return Dot(f"{here}/{index}", _place(point["x"]), _place(1 - point["y"]), size, _class(step), title)


def _step(value: float | None, low: float | None, high: float | None) -> int | None:
    if value is None or low is None or high is None:
        return None
    part = (value - low) / (high - low) if high > low else 1.0
    return min(STEPS - 1, max(0, int(part * STEPS)))


def _class(step: int | None) -> str:
    return "none" if step is None else f"s{step}"


def _place(part: float) -> str:
    return f"{100 * part:.1f}"
