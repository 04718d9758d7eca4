"""The probing sets of the demo: which scenes one shared index holds, with deliberate co-occurrence and without.

Two values of each attribute are common (circle, square; red, blue; ...), the others are rare, and every rare value is
a planted single concept. In the *biased* set all common values mix freely in the plain images, but each rare value
comes with a *look* of two common values: most stars are red on gray. Each half of the look is on a share of .9 of the
carriers; the carriers without the one half have the other, so that .8 show the full look. The look itself is common
without the concept: a quarter of the plain images show it. Activating images alone then cannot tell "star" from "red
star" or "red on gray background"; a silent neighbour can.

The planted pairs are a rare value with one half of its look: "red star" and "star on gray background" lie inside
"star" and differ from it, and from each other, by the few carriers that lack one half. That is the hard case on
purpose: a neuron for "star" and one for "red star" share nearly all of their activating images and must still get two
labels.

In the *unbiased* set every attribute is drawn evenly and on its own, and each planted pair is brought to the same
number of carriers.

Why these numbers: 60 carriers are twice what a labelling run scores (30), so activating sets are full and still a
choice; 3,000 plain images over the 64 mixtures of common values leave some 47 of each, so a carrier has near
neighbours that differ in nothing but the concept. Both sets together render and index in well under the demo's 90
seconds.
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
CARRIERS: Final = 60
PLAIN: Final = 3_000
METADATA: Final = "metadata.csv"

# Which two attributes make up the look of a rare value of each attribute.
_LOOK_OF: Final[Mapping[str, tuple[str, str]]] = {
    "shape": ("colour", "background"),
    "colour": ("shape", "texture"),
    "texture": ("colour", "shape"),
    "background": ("shape", "colour"),
    "pattern": ("shape", "colour"),
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
    """Join each rare value with the first half of its look, and the first eleven with the second half as well."""
    halves = [(single, dict(look)) for single, look in LOOKS.items()]
    pairs = []
    for turn in (0, 1):
        for single, look in halves:
            ((attribute, value),) = single
            half = _LOOK_OF[attribute][turn]
            pairs.append(concept_of({attribute: value, half: look[half]}))
    return pairs[:30]


#: The planted concepts as candidate labels.
SINGLES: Final[tuple[str, ...]] = tuple(concept_text(concept) for concept in LOOKS)
PAIRS: Final[tuple[str, ...]] = tuple(concept_text(concept) for concept in _planted_pairs())


def _common_scene(rng: np.random.Generator, fixed: Mapping[str, str]) -> Scene:
    """Draw a scene of common values only; `fixed` holds some attributes."""
    values = {name: pair[int(rng.integers(2))] for name, pair in COMMON.items()}
    return Scene(**{**values, **fixed})


def _carriers(rng: np.random.Generator, single: Concept, look: Concept) -> list[Scene]:
    """Draw the carriers of a single concept; in a few the one or the other half of the look is its common opposite."""
    lacking = round(CARRIERS * (1 - SHARE))
    scenes = []
    for i in range(CARRIERS):
        shown = dict(look)
        if i < 2 * lacking:
            name, value = look[i % 2]
            shown[name] = COMMON[name][1 - COMMON[name].index(value)]
        scenes.append(_common_scene(rng, {**shown, **dict(single)}))
    return scenes


def probing_scenes(bias: Bias, seed: int) -> list[Scene]:
    """Return the scenes of a probing set in their order; biased 4,140, unbiased about 3,600.

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
            scenes += [random_scene(rng, dict(pair)) for _ in range(max(0, CARRIERS - have))]
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
