"""Variants of the demo's images: the same scene with one attribute changed.

The scene comes from the metadata of the image, not from its pixels. What a scene does not fix (place, rotation,
brightness, noise) is drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from csp_index.demo import world
from csp_index.errors import GeneratorError, SettingError
from csp_index.models.generators.image_generators import picture_seed
from csp_index.models.generators.variant_generators import Original, Variant


def vary(original: Original, count: int, seed: int) -> list[Variant]:
    """Return ``count`` variants of an image of the demo; 25 at most, one for each value that its scene does not have.

    The attributes take turns in a drawn order. Raises GeneratorError for an image whose metadata describes no scene.
    """
    scene = _scene(original)
    name = f"image {original.image_id}"
    changes = _changes(scene, np.random.default_rng((picture_seed(name, seed, 0), 0)))
    made = []
    for place, (attribute, value) in enumerate(changes[:count]):
        changed = world.Scene(**{**{each: scene.value(each) for each in world.ATTRIBUTES}, attribute: value})
        pixels = world.render(changed, (picture_seed(name, seed, place), 1))
        change = f"{attribute} {value} in place of {scene.value(attribute)}"
        made.append(Variant(Image.fromarray(pixels), change))
    return made


def _scene(original: Original) -> world.Scene:
    """Return the scene that an image's metadata describes."""
    values: Mapping[str, Any] = original.metadata
    try:
        fixed = dict(world.concept_of({name: str(values[name]) for name in world.ATTRIBUTES}))
    except (KeyError, SettingError) as exc:
        raise GeneratorError(
            f"image {original.image_id} is none of the demo's: its metadata names no scene ({exc})"
        ) from exc
    return world.Scene(**fixed)


def _changes(scene: world.Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Return every change of one attribute: a change of each attribute first, then another of each, and so on."""
    names = [list(world.ATTRIBUTES)[place] for place in rng.permutation(len(world.ATTRIBUTES))]
    others = {}
    for name in names:
        left = [value for value in world.ATTRIBUTES[name] if value != scene.value(name)]
        others[name] = [left[place] for place in rng.permutation(len(left))]
    rounds = max(len(left) for left in others.values())
    return [(name, others[name][turn]) for turn in range(rounds) for name in names if turn < len(others[name])]
