"""The map of a layer as a page without scripts draws it; names and labels of the index are hostile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csp_index.service.documents.layer_map import HUES
from csp_index.service.http import map_svg

EVIL = "<script>alert(1)</script>\u202e"
LAYER = "net<b>\"/la 'yer&?#"
HERE = "net%3Cb%3E%22/la%20%27yer%26%3F%23"


def map_of(count: int, value: Any = 0.5) -> dict[str, Any]:
    points = [{"index": n, "x": 0.25, "y": 0.0, "value": value, "label": EVIL} for n in range(count)]
    return {"layer": LAYER, "points": points, "colour": "firing_rate", "low": 0.0, "high": 1.0}


def test_a_map_of_few_neurons_is_drawn_as_links_high_values_last() -> None:
    page = map_of(3)
    page["points"][0]["value"], page["points"][1]["value"] = 1.0, None
    found = map_svg.draw(page)
    assert [dot.step for dot in found.dots] == ["none", "s4", "s7"] and found.hollow and not found.clouds
    assert found.dots[2].href == f"/neurons/{HERE}/0" and (found.dots[2].x, found.dots[2].y) == ("25.0", "100.0")
    assert found.dots[2].title == f"{LAYER}/0: {EVIL}, firing rate 1.000"
    assert EVIL[:8] not in found.links and "\u202e" not in found.links and "\\u202e, firing" in found.links
    assert found.links.count("<circle ") == found.links.count("</a>") == 3


def test_a_map_of_many_neurons_is_drawn_as_clouds() -> None:
    found = map_svg.draw(map_of(map_svg.LINKED + 1))
    assert not found.dots and not found.hollow
    assert [(step, path.count("M")) for step, path in found.clouds] == [("s4", map_svg.LINKED + 1)]


def test_clouds_have_the_colors_of_groups() -> None:
    page = map_of(3) | {"colour": "cluster", "low": None, "high": None}
    for point, value in zip(page["points"], (0, 10, None), strict=True):
        point["value"] = value
    assert [kind for kind, _ in map_svg.clouds(page)] == ["h0", "h1", "none"]


def test_a_map_of_nothing_and_of_equal_values() -> None:
    assert map_svg.draw(map_of(0)).dots == []
    assert map_svg.draw(map_of(1) | {"low": 0.5, "high": 0.5}).dots[0].step == "s7"
    assert map_svg.draw(map_of(1, None) | {"low": None, "high": None}).dots[0].step == "none"


def test_every_color_of_a_map_stands_out_from_its_ground_in_both_themes() -> None:
    static = Path(map_svg.__file__).parents[1] / "static"
    style = (static / "style.css").read_text() + (static / "map.css").read_text()
    grounds, edges = (_colors(style, f"--{name}:") for name in ("panel", "edge"))
    kinds = [f"s{step}" for step in range(map_svg.STEPS)] + [f"h{hue}" for hue in range(HUES)]
    for ground, edge, *colors in zip(
        grounds, edges, *(_colors(style, f".{kind} {{ fill:") for kind in kinds), strict=True
    ):
        assert [(kind, color) for kind, color in zip(kinds, colors, strict=True) if _contrast(color, ground) < 3] == []
        assert _contrast(edge, ground) >= 3, "a point without a value"
        steps = [_contrast(color, ground) for color in colors[: map_svg.STEPS]]
        assert steps == sorted(steps), "from low to high"


def _colors(style: str, begins: str) -> tuple[str, str]:
    """Return the color of light and that of dark pages."""
    light, dark = style.split(f"{begins} light-dark(", 1)[1].split(")", 1)[0].split(", ")
    return light, dark


def _contrast(one: str, other: str) -> float:
    """Return the contrast of two colors by WCAG 2, 1 to 21."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = (int(color[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
