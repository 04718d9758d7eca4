"""The demo's image generator: labels of the demo vocabulary, and variants of its images, by the demo's own renderer.

``python:csp_index.demo.generator:renderer`` names it. A picture of a label has the attributes the label fixes; the
others are drawn at random, evenly, so no picture says more than its label does.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from csp_index import __version__
from csp_index.demo import scene_variants, world
from csp_index.errors import GeneratorError, SettingError
from csp_index.models.generators.image_generators import picture_seed
from csp_index.models.generators.variant_generators import Original, Variant


class Renderer:
    """An `ImageGenerator` of 64 x 64 pictures that draws the 415 labels of the demo vocabulary and no others.

    It is a `VariantGenerator`, too, of the demo's own images.
    """

    def __init__(self) -> None:
        """Take the renderer's own code for its weights: pictures are the same as long as it is."""
        self.name = "demo renderer"
        code = b"".join(Path(str(module.__file__)).read_bytes() for module in (world, scene_variants))
        self.identity = {
            "spec": "python:csp_index.demo.generator:renderer",
            "weights": hashlib.sha256(code).hexdigest(),
            "library": f"csp_index {__version__}",
        }

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        """Return ``count`` pictures of a label. Errors: GeneratorError for a text outside the demo vocabulary."""
        try:
            fixed = dict(world.find_concept(text))
        except SettingError as exc:
            raise GeneratorError(str(exc)) from exc
        seeds = [picture_seed(text, seed, place) for place in range(count)]
        scenes = [world.random_scene(np.random.default_rng((number, 0)), fixed) for number in seeds]
        return [Image.fromarray(world.render(scene, (number, 1))) for scene, number in zip(scenes, seeds, strict=True)]

    def variants(self, original: Original, count: int, seed: int) -> list[Variant]:
        """Return ``count`` variants of an image of the demo, or all there are: its scene, one attribute changed."""
        return scene_variants.vary(original, count, seed)


def renderer() -> Renderer:
    """Return the demo's generator."""
    return Renderer()
