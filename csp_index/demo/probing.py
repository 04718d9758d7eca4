"""The probing sets of the demo: which scenes one shared index holds, with deliberate co-occurrence and without.

Two values of each attribute are common (circle, square; red, blue; ...), the others are rare, and every rare value is
a planted single concept. In the *biased* set all common values mix freely in the plain images, but each rare value
comes with a *look* of two common values: most striped things are red circles. Each half of the look is on a share of .9
of the carriers; the carriers without the one half have the other, so that .8 show the full look. The look itself is
common without the concept: a quarter of the plain images show it. Activating images alone then cannot tell "striped"
from "striped circle" or "striped red"; a silent neighbour can.

A planted pair is a rare value with a common value outside its look, which half of the carriers have: "red star". So a
pair comes with the look of its rare half (most red stars are solid, on gray), each half exists without the other (blue
stars with the same look, red circles), and the nearest silent image shares a half of the concept.

In the *unbiased* set every attribute is drawn evenly and on its own, and each planted pair is brought to the number of
carriers it has in the biased set.

Why these numbers: 100 carriers a single concept leave 50 a pair, well above the 30 that a labelling run scores, so
activating sets are full and still a choice; 2,500 plain images over the 64 mixtures of common values leave some 40 of
each, so a carrier has near neighbours that differ in nothing but the concept. Both sets together render and index in
well under the demo's 90 seconds.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from csp_index.demo.world import ATTRIBUTES, Concept, Scene, concept_of, concept_text, has_concept, random_scene, render

Bias: TypeAlias = Literal["biased", "unbiased"]

COMMON: Final[Mapping[str, tuple[str, str]]] = {name: (values[0], values[1]) for name, values in ATTRIBUTES.items()}
SHARE: Final = 0.9
CARRIERS: Final = 100
PLAIN: Final = 2_500
METADATA: Final = "metadata.csv"

# For a rare value of each attribute: the two attributes of its look, and those whose values make pairs with it.
_LOOK_OF: Final[Mapping[str, tuple[str, str]]] = {
    "shape": ("texture", "background"),
    "colour": ("texture", "background"),
    "texture": ("shape", "colour"),
    "background": ("shape", "colour"),
    "pattern": ("shape", "colour"),
}
_PAIRED_WITH: Final[Mapping[str, tuple[str, str]]] = {
    "shape": ("colour", "size"),
    "colour": ("shape", "size"),
    "texture": ("background", "size"),
    "background": ("texture", "size"),
    "pattern": ("texture", "size"),
}


def _planted_looks() -> dict[Concept, Concept]:
    """Give every rare value its look; the four mixtures of two common values take turns."""
    looks: dict[Concept, Concept] = {}
    for attribute, (first, second) in _LOOK_OF.items():
        for turn, value in enumerate(ATTRIBUTES[attribute][2:]):
            look = {first: COMMON[first][turn % 2], second: COMMON[second][turn // 2 % 2]}
            looks[concept_of({attribute: value})] = concept_of(look)
    return looks


#: Planted single concept -> the look that most of its carriers share in the biased set.
LOOKS: Final[Mapping[Concept, Concept]] = _planted_looks()


def _planted_pairs() -> list[Concept]:
    """Join each rare value with a common value of its first paired attribute, eleven with one of the second too."""
    pairs = []
    for column in (0, 1):
        for turn, single in enumerate(LOOKS):
            ((attribute, value),) = single
            other = _PAIRED_WITH[attribute][column]
            pairs.append(concept_of({attribute: value, other: COMMON[other][(turn + column) % 2]}))
    return pairs[:30]


#: The planted concepts as candidate labels.
SINGLES: Final[tuple[str, ...]] = tuple(concept_text(concept) for concept in LOOKS)
PAIRS: Final[tuple[str, ...]] = tuple(concept_text(concept) for concept in _planted_pairs())


def _common_scene(rng: np.random.Generator, fixed: Mapping[str, str]) -> Scene:
    """Draw a scene of common values only; `fixed` holds some attributes."""
    values = {name: pair[int(rng.integers(2))] for name, pair in COMMON.items()}
    return Scene(**{**values, **fixed})


def _carriers(rng: np.random.Generator, single: Concept, look: Concept) -> list[Scene]:
    """Draw the carriers of a single concept, a few without the one or the other half of the look, half of each pair."""
    ((attribute, _),) = single
    lacking = round(CARRIERS * (1 - SHARE))
    scenes = []
    for i in range(CARRIERS):
        fixed = {**dict(look), **dict(single)}
        if i < 2 * lacking:
            name, value = look[i % 2]
            fixed[name] = COMMON[name][1 - COMMON[name].index(value)]
        # The four mixtures of the paired attributes take turns, over carriers with the full look and without.
        for other, choice in zip(_PAIRED_WITH[attribute], (i // 2 % 2, i // 4 % 2), strict=True):
            fixed[other] = COMMON[other][choice]
        scenes.append(_common_scene(rng, fixed))
    return scenes


def probing_scenes(bias: Bias, seed: int) -> list[Scene]:
    """Return the scenes of a probing set in their order: biased 4,400, unbiased some 2,800.

    The order is shuffled: nothing about a scene can be told from its place.
    """
    rng = np.random.default_rng((seed, 0 if bias == "biased" else 1))
    if bias == "biased":
        scenes = [_common_scene(rng, {}) for _ in range(PLAIN)]
        for single, look in LOOKS.items():
            scenes += _carriers(rng, single, look)
    else:
        scenes = [random_scene(rng) for _ in range(PLAIN)]
        for pair in _planted_pairs():
            have = sum(has_concept(scene, pair) for scene in scenes)
            scenes += [random_scene(rng, dict(pair)) for _ in range(max(0, CARRIERS // 2 - have))]
    return [scenes[int(i)] for i in rng.permutation(len(scenes))]


def write_probing_set(folder: str | Path, bias: Bias, seed: int = 0) -> Path:
    """Render a probing set into `folder`: PNG files in a sub-folder a shape, and `metadata.csv` beside them.

    The table has the column `path` (relative to `folder`, with forward slashes) and one column an attribute. The same
    arguments write the same files. Returns the folder.
    """
    target = Path(folder)
    for shape in ATTRIBUTES["shape"]:
        (target / shape).mkdir(parents=True, exist_ok=True)
    with (target / METADATA).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", *ATTRIBUTES))
        for number, scene in enumerate(probing_scenes(bias, seed)):
            path = f"{scene.shape}/{number:05d}.png"
            pixels = render(scene, (seed, 0 if bias == "biased" else 1, number))
            # Level 1: the noise does not compress anyway, and writing takes a third of the time.
            Image.fromarray(pixels).save(target / path, compress_level=1)
            table.writerow((path, *(scene.value(name) for name in ATTRIBUTES)))
    return target
