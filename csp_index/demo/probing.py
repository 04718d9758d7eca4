"""The probing sets of the demo: which scenes one shared index holds, with deliberate co-occurrence and without.

Two values of each attribute are common (circle, square; red, blue; ...) and mix freely in the plain images; the
others are rare. In the *biased* set the carriers of each planted concept come with a *look* of two common values:
most triangles are red on gray. Each half of the look is on a share of .9 of the carriers, and those without the one
half have the other, so that .8 show the full look. The look itself is common without the concept: a quarter of the
plain images show it. Activating images alone then cannot tell "triangle" from "red triangle" or "triangle on gray
background"; a silent neighbour can.

The planted single concepts are 15 rare values. Two rare shapes and two rare colours are kept out of them and appear
in the planted pairs only, with each other or with a common value: "green star", "red star", "star on gray
background", "solid green". So each half of a pair is also seen without the other, and the nearest silent image of a
"green star" is a red star or a green circle in the same look: the contrast that helps a single concept takes half of
a pair away.

In the *unbiased* set every attribute is drawn evenly and on its own, and each planted pair is brought to the same
number of carriers.

Why these numbers: 60 carriers are twice what a labelling run scores (30), so activating sets are full and still a
choice; 3,000 plain images over the 64 mixtures of common values leave some 47 of each, so a carrier has near
neighbours that differ in nothing but the concept. An attribute with a single common value would not do: where nearly
all images are large, "large triangle" is as true as "triangle". The design was settled on perfect (drawn) activations
before the network was trained, on seed 0, which is also the shipped one.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np
from PIL import Image

from csp_index.demo.world import (
    ATTRIBUTES,
    Concept,
    Scene,
    concept_of,
    concept_text,
    concepts_shown,
    has_concept,
    random_scene,
    render,
)

Bias: TypeAlias = Literal["biased", "unbiased"]

COMMON: Final[Mapping[str, tuple[str, str]]] = {name: (values[0], values[1]) for name, values in ATTRIBUTES.items()}
SHARE: Final = 0.9
CARRIERS: Final = 60
PLAIN: Final = 3_000
_THREADS: Final = 2  # that draw pictures: half of the time they compress, which needs no lock of Python
METADATA: Final = "metadata.csv"

# Which two attributes make up the look of a concept that fixes these.
_LOOK_OF: Final[Mapping[tuple[str, ...], tuple[str, str]]] = {
    ("shape",): ("colour", "background"),
    ("colour",): ("shape", "texture"),
    ("texture",): ("colour", "shape"),
    ("background",): ("shape", "colour"),
    ("pattern",): ("shape", "colour"),
    ("shape", "colour"): ("texture", "background"),
    ("colour", "texture"): ("shape", "background"),
    ("shape", "background"): ("colour", "texture"),
}
_PAIR_SHAPES: Final = ("star", "cross")
_PAIR_COLOURS: Final = ("green", "purple")


def _look_for(concept: Concept, turn: int) -> Concept:
    """Give a concept its look; the four mixtures of two common values take turns."""
    first, second = _LOOK_OF[tuple(name for name, _ in concept)]
    return concept_of({first: COMMON[first][turn % 2], second: COMMON[second][turn // 2 % 2]})


def _planted_singles() -> list[Concept]:
    """List the rare values that no pair uses."""
    kept_out = (*_PAIR_SHAPES, *_PAIR_COLOURS)
    concepts = []
    for attributes in _LOOK_OF:
        if len(attributes) == 1:
            concepts += [
                concept_of({attributes[0]: value}) for value in ATTRIBUTES[attributes[0]][2:] if value not in kept_out
            ]
    return concepts


def _planted_pairs() -> list[Concept]:
    """List the pairs of a value kept for pairs with another one, or with a common one."""
    shapes, colours = _PAIR_SHAPES, _PAIR_COLOURS
    fixed = [{"shape": shape, "colour": colour} for shape in shapes for colour in (*colours, *COMMON["colour"])]
    fixed += [{"shape": shape, "colour": colour} for colour in colours for shape in COMMON["shape"]]
    fixed += [{"shape": shape, "background": place} for shape in shapes for place in COMMON["background"]]
    fixed += [{"colour": colour, "texture": texture} for colour in colours for texture in COMMON["texture"]]
    return [concept_of(values) for values in fixed]


#: Planted concept -> the look that most of its carriers share in the biased set; the singles first.
LOOKS: Final[Mapping[Concept, Concept]] = {
    concept: _look_for(concept, turn)
    for concepts in (_planted_singles(), _planted_pairs())
    for turn, concept in enumerate(concepts)
}

#: The planted concepts as candidate labels.
SINGLES: Final[tuple[str, ...]] = tuple(concept_text(concept) for concept in LOOKS if len(concept) == 1)
PAIRS: Final[tuple[str, ...]] = tuple(concept_text(concept) for concept in LOOKS if len(concept) == 2)


def _common_scene(rng: np.random.Generator, fixed: Mapping[str, str]) -> Scene:
    """Draw a scene of common values only; `fixed` holds some attributes."""
    values = {name: pair[int(rng.integers(2))] for name, pair in COMMON.items()}
    return Scene(**{**values, **fixed})


def _carriers(rng: np.random.Generator, concept: Concept, look: Concept) -> list[Scene]:
    """Draw the carriers of a planted concept; in a few the one or the other half of the look is its common opposite."""
    lacking = round(CARRIERS * (1 - SHARE))
    scenes = []
    for i in range(CARRIERS):
        values = dict(look)
        if i < 2 * lacking:
            name, value = look[i % 2]
            values[name] = COMMON[name][1 - COMMON[name].index(value)]
        scenes.append(_common_scene(rng, {**values, **dict(concept)}))
    return scenes


def probing_scenes(bias: Bias, seed: int) -> list[Scene]:
    """Return the scenes of a probing set in their order: biased 5,100, unbiased about 3,150.

    The order is shuffled: a scene's position says nothing about it.
    """
    rng = np.random.default_rng((seed, 0 if bias == "biased" else 1))
    if bias == "biased":
        scenes = [_common_scene(rng, {}) for _ in range(PLAIN)]
        for concept, look in LOOKS.items():
            scenes += _carriers(rng, concept, look)
    else:
        scenes = [random_scene(rng) for _ in range(PLAIN)]
        for pair in _planted_pairs():
            have = sum(has_concept(scene, pair) for scene in scenes)
            scenes += [random_scene(rng, dict(pair)) for _ in range(max(0, CARRIERS - have))]
    return [scenes[int(i)] for i in rng.permutation(len(scenes))]


def write_probing_set(folder: str | Path, bias: Bias, seed: int = 0) -> Path:
    """Render a probing set into `folder`: PNG files, 500 per subfolder, and `metadata.csv` next to them.

    The table has the column `path` (relative to `folder`, with forward slashes), one column per attribute, and
    `concepts`: every label of the demo vocabulary that is true of the image, with `;` between them. The same arguments
    write the same files. Returns the folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    scenes = probing_scenes(bias, seed)
    paths = [_path(number) for number in range(len(scenes))]
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="csp-index-render")
    try:
        for parent in {(target / path).parent for path in paths}:
            parent.mkdir(exist_ok=True)
        seeds = ((seed, 0 if bias == "biased" else 1, number) for number in range(len(scenes)))
        drawn = pool.map(_draw, (target / path for path in paths), scenes, seeds)
        with (target / METADATA).open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(("path", *ATTRIBUTES, "concepts"))
            for path, scene, _ in zip(paths, scenes, drawn, strict=True):
                values = (scene.value(name) for name in ATTRIBUTES)
                table.writerow((path, *values, ";".join(concepts_shown(scene))))
    finally:
        pool.shutdown(cancel_futures=True)
    return target


def _path(number: int) -> str:
    # Image ids follow the paths and ties go to the lower id: with a folder a shape, circles would win them.
    return f"{number // 500:02d}/{number:05d}.png"


def _draw(path: Path, scene: Scene, seed: tuple[int, int, int]) -> None:
    # Level 1: the noise does not compress anyway, and writing takes a third of the time.
    Image.fromarray(render(scene, seed)).save(path, compress_level=1)
