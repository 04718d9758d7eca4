"""The demo world: scenes of six attributes, a seeded renderer, and the words that name them.

A `Scene` is one object on a background. `render` draws it in 64 x 64 pixels; everything a scene does not fix (place,
rotation, brightness, noise) comes from a seed, so the same scene and seed give the same pixels. A *concept* fixes
some attributes ("star", "red star", "striped on navy background"); `has_concept` is the truth the labels are judged
against. Knows nothing about files, models or indexes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from csp_index.errors import SettingError

SIDE: Final = 64

#: Every attribute with its values. The first two values of each are the common ones of the probing sets (see
#: `probing`).
ATTRIBUTES: Final[Mapping[str, tuple[str, ...]]] = {
    "shape": ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon"),
    "colour": ("red", "blue", "green", "yellow", "purple", "cyan", "orange", "white"),
    "texture": ("solid", "checkered", "striped", "dotted"),
    "background": ("gray", "black", "navy", "brown", "beige", "olive"),
    "pattern": ("plain", "grid", "speckled"),
    "size": ("large", "small"),
}

_RGB: Final[Mapping[str, tuple[int, int, int]]] = {
    "red": (225, 30, 35),
    "blue": (40, 85, 240),
    "green": (30, 190, 60),
    "yellow": (245, 225, 35),
    "purple": (160, 50, 205),
    "cyan": (40, 220, 225),
    "orange": (250, 135, 20),
    "white": (248, 248, 248),
}
# The backgrounds come from another, duller palette: "red" and "brown background" must stay two things at 64 pixels.
_BACKGROUND_RGB: Final[Mapping[str, tuple[int, int, int]]] = {
    "gray": (130, 130, 132),
    "black": (18, 18, 20),
    "navy": (18, 28, 92),
    "brown": (100, 56, 28),
    "beige": (216, 198, 160),
    "olive": (96, 108, 36),
}
_RADIUS: Final[Mapping[str, tuple[float, float]]] = {"small": (13.0, 16.0), "large": (22.0, 27.0)}

#: A concept: the attributes it fixes, in the order of `ATTRIBUTES`.
Concept: TypeAlias = tuple[tuple[str, str], ...]
Pixels: TypeAlias = NDArray[np.uint8]
_Plane: TypeAlias = NDArray[np.floating]

_AXIS: Final = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
_X: Final[_Plane] = np.ascontiguousarray(np.broadcast_to(_AXIS, (SIDE, SIDE)))
_Y: Final[_Plane] = np.ascontiguousarray(_X.T)


@dataclass(frozen=True, slots=True)
class Scene:
    """One object on a background: a value of each attribute.

    >>> Scene("star", "red", "solid", "navy", "plain", "large").shape
    'star'
    """

    shape: str
    colour: str
    texture: str
    background: str
    pattern: str
    size: str

    def value(self, attribute: str) -> str:
        """Return the scene's value of an attribute."""
        return str(getattr(self, attribute))


def random_scene(rng: np.random.Generator, fixed: Mapping[str, str] | None = None) -> Scene:
    """Draw a scene uniformly over all attributes; `fixed` holds some of them."""
    values = {name: options[int(rng.integers(len(options)))] for name, options in ATTRIBUTES.items()}
    return Scene(**{**values, **(fixed or {})})


# --- concepts and their words ---------------------------------------------------------------------------------------


def concept_of(fixed: Mapping[str, str]) -> Concept:
    """Return the concept that fixes these attributes.

    Raises:
        SettingError: an attribute or value the world does not have.
    """
    for name, value in fixed.items():
        if value not in ATTRIBUTES.get(name, ()):
            known = ", ".join(ATTRIBUTES.get(name, tuple(ATTRIBUTES)))
            raise SettingError(f"no {name} {value!r} in the demo world (has: {known})")
    return tuple((name, fixed[name]) for name in ATTRIBUTES if name in fixed)


def concept_text(concept: Concept) -> str:
    """Say a concept in words; one concept has one text.

    >>> concept_text(concept_of({"background": "navy", "colour": "red", "shape": "star"}))
    'red star on navy background'
    >>> concept_text(concept_of({"pattern": "speckled"}))
    'speckled background'
    """
    fixed = dict(concept)
    thing = " ".join(fixed[name] for name in ("size", "texture", "colour", "shape") if name in fixed)
    place = " ".join(fixed[name] for name in ("pattern", "background") if name in fixed)
    if not place:
        return thing
    return f"{thing} on {place} background" if thing else f"{place} background"


def _all_concepts() -> Iterator[Concept]:
    """Yield every single concept, then every pair of two different attributes."""
    singles = [((name, value),) for name, options in ATTRIBUTES.items() for value in options]
    yield from singles
    for (left,), (right,) in combinations(singles, 2):
        if left[0] != right[0]:
            yield (left, right)


#: Text -> concept, for all 31 single concepts and all 384 pairs.
CONCEPTS: Final[Mapping[str, Concept]] = {concept_text(concept): concept for concept in _all_concepts()}

#: The candidate labels of the demo: every text of `CONCEPTS`, so each planted concept has hundreds of plausible
#: distractors.
VOCABULARY: Final[tuple[str, ...]] = tuple(CONCEPTS)


def find_concept(text: str) -> Concept:
    """Return the concept a candidate label names.

    Raises:
        SettingError: the text is not a label of the demo vocabulary.
    """
    try:
        return CONCEPTS[text]
    except KeyError:
        raise SettingError(f"no concept {text!r} in the demo vocabulary; see csp_index.demo.world.VOCABULARY") from None


def has_concept(scene: Scene, concept: Concept | str) -> bool:
    """Return whether the scene has the concept: all attributes it fixes.

    >>> has_concept(Scene("star", "red", "solid", "navy", "plain", "large"), "red star")
    True
    """
    fixed = find_concept(concept) if isinstance(concept, str) else concept
    return all(scene.value(name) == value for name, value in fixed)


def concepts_shown(scene: Scene) -> list[str]:
    """Return every label of the demo vocabulary that is true of the scene: 6 single concepts and 15 pairs."""
    singles = list(ATTRIBUTES)
    groups = [(name,) for name in singles] + list(combinations(singles, 2))
    return [concept_text(concept_of({name: scene.value(name) for name in names})) for names in groups]


def partial_concept(scene: Scene, rng: np.random.Generator) -> Concept:
    """Draw a partial description of the scene: some of its attributes, mostly one or two of them."""
    names = tuple(ATTRIBUTES)
    count = int(rng.choice(len(names), p=(0.30, 0.42, 0.14, 0.08, 0.04, 0.02))) + 1
    places = rng.permutation(len(names))[:count]
    return concept_of({names[i]: scene.value(names[i]) for i in places})


# --- drawing --------------------------------------------------------------------------------------------------------


def _edges(x: _Plane, y: _Plane, normals: Sequence[float], distance: float) -> _Plane:
    """Signed distance to a convex polygon given by the angles of its edge normals."""
    planes = [np.cos(a) * x + np.sin(a) * y - distance for a in np.radians(normals).tolist()]
    inside: _Plane = np.maximum.reduce(planes)
    return inside


def _star(x: _Plane, y: _Plane) -> _Plane:
    """Signed distance to the edges of a star of five points: one edge, folded around ten times."""
    sector = np.float32(np.pi / 5)
    angle = np.abs(np.mod(np.arctan2(x, -y) + sector, 2 * sector) - sector)
    radius = np.hypot(x, y)
    inner = 0.42
    dx, dy = inner * np.cos(np.pi / 5) - 1.0, inner * np.sin(np.pi / 5)
    length = np.hypot(dx, dy)
    return np.asarray(((radius * np.cos(angle) - 1.0) * dy - radius * np.sin(angle) * dx) / length, dtype=np.float32)


def _heart(x: _Plane, y: _Plane) -> _Plane:
    """Signed distance to a heart: a square on its corner with a disc on each upper side."""
    half, up = 0.75, 0.12
    square = (np.abs(x) + np.abs(y - up) - half) / np.sqrt(2.0)
    disc = np.hypot(np.abs(x) - half / 2, y - up + half / 2) - half / np.sqrt(2.0)
    return np.asarray(np.minimum(square, disc), dtype=np.float32)


def _distance(shape: str, x: _Plane, y: _Plane) -> _Plane:
    """Signed distance to a shape of radius 1, negative inside; x, y and the result are [SIDE, SIDE]."""
    if shape == "circle":
        return np.hypot(x, y) - np.float32(0.95)
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - np.float32(0.8)
    if shape == "triangle":
        return _edges(x, y - 0.22, (90, 210, 330), 0.56)
    if shape == "star":
        return _star(x, y)
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(ax - 0.3, ay - 0.95), np.maximum(ax - 0.95, ay - 0.3))
    if shape == "ring":
        return np.abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.23)
    if shape == "heart":
        return _heart(x, y)
    moon: _Plane = np.maximum(np.hypot(x, y) - np.float32(0.95), np.float32(0.8) - np.hypot(x - 0.5, y))
    return moon


def _texture(texture: str, u: _Plane, v: _Plane) -> _Plane | None:
    """How much of the dark shade each pixel takes, in [0, 1]; None for a solid fill. u and v are in pixels."""
    if texture == "solid":
        return None
    if texture == "striped":
        dark = 0.5 + 1.6 * np.sin(u * np.float32(2 * np.pi / 7.0))
    elif texture == "checkered":
        dark = 0.5 + 3.0 * np.sin(u * np.float32(np.pi / 5.5)) * np.sin(v * np.float32(np.pi / 5.5))
    else:
        fold_u = np.mod(u, np.float32(7.0)) - np.float32(3.5)
        fold_v = np.mod(v, np.float32(7.0)) - np.float32(3.5)
        dark = 2.6 - np.hypot(fold_u, fold_v)
    clipped: _Plane = np.clip(dark, 0, 1)
    return clipped


def _backdrop(scene: Scene, rng: np.random.Generator) -> _Plane:
    """Background colours [SIDE, SIDE, 3] in 0..255."""
    base = np.array(_BACKGROUND_RGB[scene.background], dtype=np.float32)
    plane = np.broadcast_to(base, (SIDE, SIDE, 3)).copy()
    # A dark background takes light marks, a light one dark marks: the pattern shows on all of them.
    step = np.float32(52.0 if base.mean() < 120 else -52.0)
    if scene.pattern == "grid":
        period, (shift_x, shift_y) = 9, rng.integers(0, 9, size=2)
        plane[shift_y::period] += step
        plane[:, shift_x::period] += step
    elif scene.pattern == "speckled":
        rows, columns = rng.integers(0, SIDE - 1, size=(2, 85))
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            plane[rows + down, columns + right] = base + step
    return plane


def render(scene: Scene, seed: int | Sequence[int]) -> Pixels:
    """Draw a scene as RGB pixels [SIDE, SIDE, 3]; the same scene and seed give the same pixels."""
    rng = np.random.default_rng(seed)
    low, high = _RADIUS[scene.size]
    radius = np.float32(rng.uniform(low, high))
    place = rng.uniform(-1.0, 1.0, size=2) * min(5.0, 31.0 - float(radius))
    turn, grain = rng.uniform(-0.3, 0.3), rng.uniform(0.25, 1.3)
    x, y = _X - np.float32(place[0]), _Y - np.float32(place[1])
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    inside = _distance(scene.shape, (cos * x + sin * y) / radius, (cos * y - sin * x) / radius)
    cover = np.clip(0.5 - inside * radius, 0, 1)[..., None]

    colour = np.array(_RGB[scene.colour], dtype=np.float32) * np.float32(rng.uniform(0.9, 1.04))
    cos, sin = np.float32(np.cos(grain)), np.float32(np.sin(grain))
    shift = rng.uniform(0, 7, size=2).astype(np.float32)
    dark = _texture(scene.texture, cos * x + sin * y + shift[0], cos * y - sin * x + shift[1])
    fill = colour if dark is None else colour * (1 - np.float32(0.78) * dark[..., None])

    plane = _backdrop(scene, rng)
    plane += cover * (fill - plane)
    plane *= np.float32(rng.uniform(0.93, 1.07))
    plane += rng.standard_normal((SIDE, SIDE, 3), dtype=np.float32) * np.float32(5.0)
    return np.clip(plane, 0, 255).astype(np.uint8)


def render_all(scenes: Iterable[Scene], seed: int) -> Pixels:
    """Draw many scenes, image i with the seed (seed, i); the result is uint8 [N, SIDE, SIDE, 3]."""
    return np.stack([render(scene, (seed, i)) for i, scene in enumerate(scenes)])
