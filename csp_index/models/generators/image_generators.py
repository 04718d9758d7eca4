"""Image generators, which turn a text into pictures. Knows nothing about indexes, neurons or metrics.

A generator is named as encoders and networks are: ``diffusers:ORG/NAME`` or ``diffusers:/local/directory`` for a
text-to-image pipeline, ``python:package.module:factory`` for one's own. A picture depends on the generator, the prompt,
the seed and its place among the pictures of that prompt alone, so that two runs see the same pictures.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol, TypeVar

import torch
from PIL import Image
from torch import nn

from csp_index.errors import CspIndexError, GeneratorError, StoreError, one_line
from csp_index.files.regular_files import user_path
from csp_index.models.plugins import call_factory, load_plugins
from csp_index.models.remote_code import NEVER
from csp_index.models.weights import hash_weights, lasting, local_directory, resolve_device

PICTURES_AT_ONCE: Final = {"cuda": 10, "mps": 2}  # by device; 1 on others
_T = TypeVar("_T")
_TRAITS: Final = ("spec", "weights", "library")


class ImageGenerator(Protocol):
    """An object that turns a text into pictures; ``python:`` factories return one.

    ``name`` is for people; ``identity`` has at least the keys spec, weights and library: two generators of equal
    identity make equal pictures.
    """

    name: str
    identity: dict[str, str]

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        """Return ``count`` RGB pictures of a text, the same at every call; a larger count begins with the same ones.

        Raises GeneratorError, in one line, for a text that cannot be drawn: that text is then left out.
        """
        ...


def load_generator(spec: str, *, device: str = "auto", cache: str | Path | None = None) -> ImageGenerator:
    """Return the generator that ``spec`` names; with ``cache``, a folder, no picture is made twice.

    Raises GeneratorError, in one line, for a spec without library and for what cannot be loaded.
    """
    if library_of(spec) == "python":
        generator: ImageGenerator = made_by(spec, "ImageGenerator", "generate")
    else:
        generator = DiffusersGenerator(lasting(spec), device=device)
    return generator if cache is None else CachedGenerator(generator, cache)


def library_of(spec: str) -> str:
    """Return the library that a generator's spec names, diffusers or python. Raises GeneratorError for others."""
    load_plugins()
    library, _, name = spec.partition(":")
    if library not in ("diffusers", "python") or not name:
        raise GeneratorError(
            f"generator {spec!r} names no library: write diffusers:ORG/NAME, diffusers:/local/directory or "
            "python:package.module:factory"
        )
    return library


def made_by(spec: str, protocol: str, *methods: str) -> Any:
    """Return the object that the factory of a ``python:`` spec makes; it has at least one of the methods.

    Raises GeneratorError if the object does not follow the protocol.
    """
    made: Any = call_factory(spec.partition(":")[2], GeneratorError)
    missing = [part for part in ("name", "identity") if not hasattr(made, part)]
    missing += [] if any(hasattr(made, method) for method in methods) else [" or ".join(methods)]
    missing += [f"identity[{trait!r}]" for trait in _TRAITS if not missing and trait not in made.identity]
    if missing:
        raise GeneratorError(f"{spec} made a {type(made).__name__} without {', '.join(missing)}: see {protocol}")
    return made


def made_or_why(generator: str, on: str, make: Callable[[], list[_T]]) -> list[_T] | str:
    """Return what a generator makes, or one line that says why it makes nothing for this text or picture.

    Raises GeneratorError, which names what it was working `on`, if the generator itself breaks.
    """
    try:
        return make()
    except GeneratorError as exc:
        return one_line(exc)
    except CspIndexError:  # not about this text or picture, such as a full disk
        raise
    except Exception as exc:  # it is somebody else's model
        message = f"{type(exc).__name__}: {one_line(exc)}"
        raise GeneratorError(f"the generator {generator} fails on {on}: {message}; check the model") from exc


def picture_seed(text: str, seed: int, place: int) -> int:
    """Return the seed of one picture of a text, from 0 to 2**63 - 1, independent of how many are made with it.

    >>> picture_seed("red star", 0, 0) == picture_seed("red star", 0, 0) != picture_seed("red star", 0, 1)
    True
    """
    digest = hashlib.sha256(f"{seed}\n{place}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# diffusers


class DiffusersGenerator:
    """A text-to-image pipeline of diffusers, at its own size, steps and guidance, in float32.

    Every picture has a seed of its own, drawn on the CPU, so that neither the batch nor the device decides what is
    drawn. A safety checker is left out: its black square would be judged as a picture of the label.
    """

    def __init__(self, spec: str, *, device: str = "auto") -> None:
        """Load the pipeline that ``diffusers:ORG/NAME`` or ``diffusers:/local/directory`` names."""
        self.name = spec
        self._device = resolve_device(device)
        self._pipeline, self.identity = load_pipeline(spec, "AutoPipelineForText2Image", self._device)

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        """Return ``count`` pictures of a text."""
        pictures: list[Image.Image] = []
        while len(pictures) < count:
            noise = noises(self._device, text, seed, len(pictures), count)
            with torch.inference_mode():
                pictures.extend(self._pipeline([text] * len(noise), generator=noise, output_type="pil").images)
        return pictures


def noises(device: torch.device, text: str, seed: int, first: int, count: int) -> list[torch.Generator]:
    """Return the sources of noise for the pictures of a text from ``first`` on, as many as fit at once."""
    places = range(first, min(first + PICTURES_AT_ONCE.get(device.type, 1), count))
    return [torch.Generator("cpu").manual_seed(picture_seed(text, seed, place)) for place in places]


def load_pipeline(spec: str, kind: str, device: torch.device) -> tuple[Any, dict[str, str]]:
    """Return the pipeline of diffusers that a spec names, by one of its auto classes, and the pipeline's identity.

    Raises GeneratorError, in one line, for what cannot be loaded, and if diffusers is not installed.
    """
    place = spec.partition(":")[2]
    directory = local_directory(place, GeneratorError)
    try:
        import diffusers
    except ImportError as exc:
        raise GeneratorError(f"the generator {spec} needs diffusers: pip install 'csp_index[diffusers]'") from exc
    try:
        pipeline = _pipeline(diffusers, kind, place if directory is None else str(directory))
    except Exception as exc:  # the library raises whatever its parts raise: hub, JSON, torch
        raise GeneratorError(f"the generator {spec} cannot be loaded: {one_line(exc)}") from exc
    pipeline.set_progress_bar_config(disable=True)
    parts = sorted((str(part), value) for part, value in pipeline.components.items())
    weights = {part: hash_weights(value) for part, value in parts if isinstance(value, nn.Module)}
    pipeline.to(device)
    scheduler: Any = pipeline.components.get("scheduler")
    return pipeline, {
        "spec": spec,
        "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
        "settings": json.dumps({"scheduler": dict(getattr(scheduler, "config", {}))}, sort_keys=True, default=str),
        "library": f"diffusers {diffusers.__version__}",
    }


def _pipeline(diffusers: ModuleType, kind: str, place: str) -> Any:
    # Only pipelines that have a checker accept the options that leave it out.
    checked = "safety_checker" in diffusers.DiffusionPipeline.load_config(place)
    options = {"safety_checker": None, "requires_safety_checker": False} if checked else {}
    return getattr(diffusers, kind).from_pretrained(place, **options, **NEVER)


# pictures as files


class CachedGenerator:
    """A generator that stores its pictures as PNG files, one folder per text, count and seed.

    A folder gets its name when it is complete, so a killed run leaves none that is half full.
    """

    def __init__(self, generator: ImageGenerator, folder: str | Path) -> None:
        """Put a folder in front of a generator; the folder is created if it does not exist."""
        self.name, self.identity = generator.name, generator.identity
        self._generator = generator
        self._root = user_path(folder) / _digest(dict(sorted(generator.identity.items())))
        try:
            self._root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"no folder for pictures can be made at {folder}: {one_line(exc)}") from exc

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        """Return the pictures of a text, from the folder if it has them."""
        place = self._root / _digest([text, count, seed])
        if not place.is_dir():
            self._keep(self._generator.generate(text, count, seed), place)
        return [_read(place / f"{number:04d}.png") for number in range(count)]

    def _keep(self, pictures: Sequence[Image.Image], place: Path) -> None:
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self._root))
        try:
            for number, picture in enumerate(pictures):
                picture.convert("RGB").save(draft / f"{number:04d}.png")
            if not place.is_dir():  # another run may have made the same ones meanwhile
                draft.rename(place)
        except OSError as exc:
            raise StoreError(f"pictures cannot be written to {place}: {one_line(exc)}") from exc
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _read(file: Path) -> Image.Image:
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            return picture.convert("RGB")
    except Exception as exc:  # Pillow raises many kinds of errors on damaged files
        raise StoreError(f"the kept picture {file} cannot be read: {one_line(exc)}; delete its folder") from exc


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
