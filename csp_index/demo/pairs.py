"""Pairs of the demo's images that differ in one attribute, for the pair test of `csp-index evaluate --pairs`.

The first image shows a planted concept. The second is the same scene with one attribute of the concept changed, drawn
with the same seed, so that place, rotation, brightness and noise stay.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from csp_index.demo.probing import PAIRS, SINGLES
from csp_index.demo.world import ATTRIBUTES, Scene, concepts_shown, find_concept, random_scene, render

TABLE: Final = "pairs.csv"
_DRAWN = 7  # in the seed of a pair's pixels, apart from those of the probing sets


def scene_pairs(count: int, seed: int = 0) -> list[tuple[Scene, Scene]]:
    """Return `count` pairs of scenes for each planted concept; the attributes of a concept take turns."""
    rng = np.random.default_rng((seed, _DRAWN))
    pairs = []
    for text in (*SINGLES, *PAIRS):
        concept = find_concept(text)
        for number in range(count):
            scene = random_scene(rng, dict(concept))
            name, value = concept[number % len(concept)]
            others = [other for other in ATTRIBUTES[name] if other != value]
            values = {each: scene.value(each) for each in ATTRIBUTES} | {name: others[int(rng.integers(len(others)))]}
            pairs.append((scene, Scene(**values)))
    return pairs


def write_pairs(folder: str | Path, count: int = 20, seed: int = 0) -> Path:
    """Render pairs of images into `folder`, with their table: image_a, image_b, word.

    The words of a row are all labels of the demo vocabulary that are true of the first image and not of the second,
    with `;` between them. The same arguments write the same files. Returns the table.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with (target / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("image_a", "image_b", "word"))
        for number, sides in enumerate(scene_pairs(count, seed)):
            names = [f"{number:05d}{side}.png" for side in "ab"]
            for name, scene in zip(names, sides, strict=True):
                Image.fromarray(render(scene, (seed, _DRAWN, number))).save(target / name, compress_level=1)
            without = set(concepts_shown(sides[1]))
            table.writerow((*names, ";".join(text for text in concepts_shown(sides[0]) if text not in without)))
    return target / TABLE
