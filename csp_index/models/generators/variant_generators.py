"""Variants of a picture: the same content, somewhat changed. Knows nothing about indexes or neurons.

A variant generator is named as image generators are. ``diffusers:ORG/NAME`` or ``diffusers:/local/directory`` is an
image-to-image pipeline; ``python:package.module:factory`` is one's own, and makes variants (`VariantGenerator`) or, as
an `ImageGenerator` does, pictures of a text: then the variants are pictures of the original's prompt.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from PIL import Image

from csp_index import settings
from csp_index.errors import GeneratorError, SettingError
from csp_index.models.generators.image_generators import (
    ImageGenerator,
    library_of,
    load_pipeline,
    made_by,
    made_or_why,
    noises,
)
from csp_index.models.weights import lasting, resolve_device

CAPTION: Final = "{caption}"
_SIDE = 512  # of pictures, in pixels, if a pipeline does not name its own
_STEP = 8  # pixels: sides of pictures are multiples of it


@dataclass(frozen=True, slots=True)
class Original:
    """A picture to vary: RGB, with its metadata and prompt.

    `metadata` are the columns of the image source. `prompt` describes the picture; "" if nothing is known.
    """

    picture: Image.Image
    image_id: int
    metadata: Mapping[str, Any]
    prompt: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant of a picture, RGB, and the words for it: the prompt it was made from, or the change."""

    picture: Image.Image
    prompt: str


class VariantGenerator(Protocol):
    """An object that makes variants of a picture; ``python:`` factories return one.

    ``name`` is for people; ``identity`` has at least the keys spec, weights and library: two generators of equal
    identity make equal variants.
    """

    name: str
    identity: dict[str, str]

    def variants(self, original: Original, count: int, seed: int) -> list[Variant]:
        """Return ``count`` variants, or fewer if there are no more; the same at every call.

        Raises GeneratorError, in one line, for a picture that cannot be varied: it then has none.
        """
        ...


def load_variants(spec: str, *, prompted: bool = False, device: str = "auto") -> VariantGenerator:
    """Return the generator of variants that ``spec`` names; ``prompted``: the originals come with a prompt.

    Raises GeneratorError, in one line, for a spec without library, for what cannot be loaded, and without prompts for a
    generator that makes pictures of texts only.
    """
    if library_of(spec) == "diffusers":
        return DiffusersVariants(lasting(spec), device=device)
    made: Any = made_by(spec, "VariantGenerator", "variants", "generate")
    if hasattr(made, "variants"):
        generator: VariantGenerator = made
        return generator
    if not prompted:
        raise GeneratorError(
            f"the generator {spec} makes pictures of texts only: name the metadata column that describes the images "
            "(--caption-column)"
        )
    return Drawings(made)


def make_variants(generator: VariantGenerator, original: Original, count: int, seed: int) -> list[Variant] | str:
    """Return the variants of a picture, or one line that says why there are none.

    Raises GeneratorError if the generator itself breaks, and if it makes more than ``count``.
    """
    on = f"image {original.image_id}"
    made = made_or_why(generator.name, on, lambda: generator.variants(original, count, seed))
    if isinstance(made, str):
        return made
    if len(made) > count:
        raise GeneratorError(
            f"the generator {generator.name} made {len(made)} variants of image {original.image_id}, "
            f"expected {count} at most"
        )
    return made or "the generator made no variant"


class Drawings:
    """Pictures of an original's prompt: any `ImageGenerator` as a `VariantGenerator`."""

    def __init__(self, generator: ImageGenerator) -> None:
        """Take the generator that draws."""
        self._generator = generator
        self.name = generator.name
        self.identity = {**generator.identity, "variants": "drawn from the prompt"}

    def variants(self, original: Original, count: int, seed: int) -> list[Variant]:
        """Return ``count`` pictures of the original's prompt."""
        if not original.prompt:
            raise GeneratorError(f"image {original.image_id} has no caption to draw")
        pictures = self._generator.generate(original.prompt, count, seed)
        return [Variant(picture, original.prompt) for picture in pictures]


class DiffusersVariants:
    """An image-to-image pipeline of diffusers: it adds noise to the original and removes it again, in float32.

    `variant_strength` of the settings is the share of noise, 0 to 1, and `variant_steps` the number of steps, or
    auto for the pipeline's own; a pipeline without these options runs without them. The original is resized to the
    pipeline's own size. Every variant has a seed of its own, drawn on the CPU; a safety checker is left out.
    """

    def __init__(self, spec: str, *, device: str = "auto") -> None:
        """Load the pipeline that ``diffusers:ORG/NAME`` or ``diffusers:/local/directory`` names."""
        self.name = spec
        self._device = resolve_device(device)
        self._pipeline, identity = load_pipeline(spec, "AutoPipelineForImage2Image", self._device)
        known = inspect.signature(self._pipeline.__call__).parameters
        self._options = {name: value for name, value in _pipeline_options().items() if name in known}
        described = json.loads(identity["settings"]) | self._options | {"kind": type(self._pipeline).__name__}
        self.identity = identity | {"settings": json.dumps(described, sort_keys=True, default=str)}

    def variants(self, original: Original, count: int, seed: int) -> list[Variant]:
        """Return ``count`` variants of a picture."""
        picture = fitted(original.picture, _own_side(self._pipeline))
        made: list[Variant] = []
        while len(made) < count:
            noise = noises(self._device, f"image {original.image_id}", seed, len(made), count)
            with torch.inference_mode():
                result = self._pipeline(
                    prompt=[original.prompt] * len(noise),
                    image=[picture] * len(noise),
                    generator=noise,
                    output_type="pil",
                    **self._options,
                )
            made += [Variant(variant, original.prompt) for variant in result.images]
        return made


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture with as many pixels as a square of `side`, the same shape, and sides that are multiples of 8.

    >>> fitted(Image.new("RGB", (400, 100)), 64).size
    (128, 32)
    """
    scale = side / math.sqrt(picture.width * picture.height)
    width, height = (max(_STEP, round(length * scale / _STEP) * _STEP) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _own_side(pipeline: Any) -> int:
    """Return the side of the pictures that a pipeline was made for, in pixels."""
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    size = getattr(getattr(denoiser, "config", None), "sample_size", None)
    factor = getattr(pipeline, "vae_scale_factor", None)
    return size * factor if isinstance(size, int) and isinstance(factor, int) else _SIDE


def _pipeline_options() -> dict[str, float | int]:
    """Return the settings of an image-to-image pipeline."""
    strength = settings.VARIANT_STRENGTH.value()
    if not 0.0 < strength <= 1.0:
        raise SettingError(f"setting variant_strength is {strength}: expected more than 0 and at most 1")
    steps = settings.VARIANT_STEPS.value()
    return {"strength": strength} | ({} if not steps else {"num_inference_steps": steps})
