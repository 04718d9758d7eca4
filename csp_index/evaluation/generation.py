"""Images made from a label alone, and what a neuron does on them: the data of the CoSy metrics.

A generator is named as encoders and networks are: ``diffusers:ORG/NAME`` or ``diffusers:/local/directory`` for a
text-to-image pipeline, ``python:package.module:factory`` for one's own. Pictures depend on the generator, the prompt,
the seed and their place among the pictures of that prompt, on nothing else, so that two networks, and two runs, see
the same ones. Knows nothing about indexes or metrics.

CoSy: Kopf et al., arXiv 2405.20331.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.build import Progress
from csp_index.errors import CspIndexError, EvaluationError, StoreError, one_line
from csp_index.images import ImageFailure, read_images
from csp_index.networks import Network
from csp_index.plugins import call_factory, load_plugins
from csp_index.sources import open_source
from csp_index.weights import hash_weights, lasting, local_directory, resolve_device

__all__ = [
    "COSY_TEMPLATE",
    "CachedGenerator",
    "Generated",
    "GenerationSettings",
    "ImageGenerator",
    "control_activations",
    "generated_activations",
    "load_generator",
    "picture_seed",
    "sample_rows",
]

#: What CoSy's own runs say to a diffusion model around a label; the CSP paper's code gives it the bare label.
COSY_TEMPLATE: Final = "realistic photo of a close up of {}"

_PICTURES_AT_ONCE = {"cuda": 10, "mps": 2}  # by device; 1 on others


class ImageGenerator(Protocol):
    """What turns a text into pictures; ``python:`` factories return one.

    ``name`` is for people; ``identity`` has at least the keys spec, weights and library: two generators of equal
    identity make equal pictures.
    """

    name: str
    identity: dict[str, str]

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        """Return ``count`` RGB pictures of a text, the same ones at every call; more of them begin with the same.

        Raises EvaluationError, in one line, for a text that cannot be drawn: that text is then left out.
        """
        ...


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """How many pictures are made of a label, from which seed, and what is said around the label.

    The CSP paper's code makes 20 of the bare label; CoSy itself puts a sentence around it, `COSY_TEMPLATE`.
    """

    count: int = 20
    seed: int = 0
    template: str = "{}"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn."""
        if self.count < 1:
            raise EvaluationError(f"{self.count} pictures a label were asked for: at least 1 is needed")
        if "{}" not in self.template:
            raise EvaluationError(f"the prompt template {self.template!r} has no {{}}: write where the label goes")

    def prompt(self, text: str) -> str:
        """Return what the generator is told for a label."""
        return self.template.replace("{}", text)


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """Activations on generated pictures, [P, G]: row i belongs to the i-th pair asked for.

    A row is NaN throughout where its label could not be drawn; ``failures`` says why, by label.
    """

    values: Tensor
    failures: dict[str, str] = field(default_factory=dict)


def generated_activations(
    network: Network,
    layer: str,
    generator: ImageGenerator,
    pairs: Sequence[tuple[int, str]],
    settings: GenerationSettings | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Return what neurons do on pictures of their labels, [P, G] for P pairs of a neuron and a label.

    Each label is drawn once, whichever neurons have it, and only the activations asked for are kept: beside them the
    pictures of one label are in memory. ``progress`` is told of the labels done. Raises EvaluationError for a neuron
    the layer does not have and where the generator itself breaks.
    """
    chosen = GenerationSettings() if settings is None else settings
    output = network.layers.get(layer)
    if output is None:
        raise EvaluationError(f"layer {layer!r} was not loaded with {network.name} (has: {', '.join(network.layers)})")
    wrong = next((neuron for neuron, _ in pairs if not 0 <= neuron < output.neurons), None)
    if wrong is not None:
        raise EvaluationError(f"{network.name}/{layer} has no neuron {wrong} (has: 0 to {output.neurons - 1})")
    rows_of: dict[str, list[int]] = {}
    for row, (_, text) in enumerate(pairs):
        rows_of.setdefault(text, []).append(row)
    values = torch.full((len(pairs), chosen.count), torch.nan)
    failures: dict[str, str] = {}
    for done, (text, rows) in enumerate(rows_of.items()):
        if progress is not None:
            progress(done, len(rows_of), "labels drawn")
        pictures = _draw(generator, chosen.prompt(text), chosen)
        if isinstance(pictures, str):
            failures[text] = pictures
        else:
            values[rows] = _run(network, layer, pictures)[:, [pairs[row][0] for row in rows]].T
    if progress is not None:
        progress(len(rows_of), len(rows_of), "labels drawn")
    return Generated(values, failures)


def control_activations(
    network: Network, layer: str, location: str | Path, count: int, seed: int = 0, progress: Progress | None = None
) -> Tensor:
    """Return what a layer does on control images from a folder or another source: [C, M], C at most ``count``.

    The images are a seeded sample in the order of the source; all of them if it holds no more. Raises EvaluationError
    for an image of the sample that cannot be read.
    """
    uris = [ref.uri for ref in open_source(location).refs()]
    kept = sample_rows(len(uris), count, seed).tolist()
    found: list[Tensor] = []
    batch: list[Image.Image] = []
    for done, item in enumerate(read_images(uris[place] for place in kept), start=1):
        if isinstance(item, ImageFailure):
            raise EvaluationError(f"the control image {item.uri} cannot be read: {item.reason}; remove or restore it")
        batch.append(item.image)
        if len(batch) == network.batch_size or done == len(kept):
            found.append(_run(network, layer, batch))
            batch = []
            if progress is not None:
                progress(done, len(kept), "control images")
    return torch.cat(found)


def sample_rows(rows: int, count: int, seed: int = 0) -> Tensor:
    """Return which of N rows a seeded sample of ``count`` holds, ascending, int64; all of them if N is no more.

    >>> sample_rows(3, 10).tolist()
    [0, 1, 2]
    >>> sample_rows(1_000, 4, seed=1).tolist() == sample_rows(1_000, 4, seed=1).tolist()
    True
    """
    if rows < 1 or count < 1:
        raise EvaluationError(f"a sample of {count} control images from {rows} was asked for: at least 1 is needed")
    if count >= rows:
        return torch.arange(rows)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(rows, count, replace=False)))


def picture_seed(text: str, seed: int, place: int) -> int:
    """Return the seed of one picture of a text, from 0 to 2**63 - 1, independent of how many are made with it.

    >>> picture_seed("red star", 0, 0) == picture_seed("red star", 0, 0) != picture_seed("red star", 0, 1)
    True
    """
    digest = hashlib.sha256(f"{seed}\n{place}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _draw(generator: ImageGenerator, prompt: str, settings: GenerationSettings) -> list[Image.Image] | str:
    """Return the pictures of a prompt, or why it cannot be drawn."""
    try:
        pictures = generator.generate(prompt, settings.count, settings.seed)
    except EvaluationError as exc:
        return one_line(exc)
    except CspIndexError:  # not about this text: a full disk, say
        raise
    except Exception as exc:  # it is somebody else's model
        told = f"{type(exc).__name__}: {one_line(exc)}"
        raise EvaluationError(f"the generator {generator.name} fails on {prompt!r}: {told}; check the model") from exc
    if len(pictures) != settings.count:
        raise EvaluationError(
            f"the generator {generator.name} made {len(pictures)} pictures of {prompt!r}, expected {settings.count}"
        )
    return pictures


def _run(network: Network, layer: str, pictures: Sequence[Image.Image]) -> Tensor:
    """Return the activations [B, M] of a layer on pictures, a batch at a time."""
    found = []
    for start in range(0, len(pictures), network.batch_size):
        some = pictures[start : start + network.batch_size]
        pixels = torch.stack([network.preprocess(picture.convert("RGB")) for picture in some])
        found.append(network.activations(pixels)[layer])
    values = torch.cat(found)
    if not bool(torch.isfinite(values).all()):
        raise EvaluationError(f"{network.name}/{layer} gave values that are not finite on pictures: check the network")
    return values


# generators


def load_generator(spec: str, *, device: str = "auto", cache: str | Path | None = None) -> ImageGenerator:
    """Return the generator that ``spec`` names; with ``cache``, a folder, no picture is made twice.

    Raises EvaluationError, in one line, for a spec without library and for what cannot be loaded.
    """
    load_plugins()
    library, _, name = spec.partition(":")
    if library not in ("diffusers", "python") or not name:
        raise EvaluationError(
            f"generator {spec!r} names no library: write diffusers:ORG/NAME, diffusers:/local/directory or "
            "python:package.module:factory"
        )
    if library == "python":
        generator = _checked(call_factory(name, EvaluationError), spec)
    else:
        generator = DiffusersGenerator(lasting(spec), device=device)
    return generator if cache is None else CachedGenerator(generator, cache)


class DiffusersGenerator:
    """A text-to-image pipeline of diffusers, at its own size, steps and guidance, in float32.

    Every picture has a seed of its own, drawn on the CPU, so that neither the batch nor the device decides what is
    drawn. A safety checker is left out: the black square it puts in a picture's place would be judged as the label's.
    """

    def __init__(self, spec: str, *, device: str = "auto") -> None:
        """Load the pipeline that ``diffusers:ORG/NAME`` or ``diffusers:/local/directory`` names."""
        self.name = spec
        place = spec.partition(":")[2]
        directory = local_directory(place, EvaluationError)
        self._device = resolve_device(device, EvaluationError)
        try:
            import diffusers
        except ImportError as exc:
            raise EvaluationError(f"the generator {spec} needs diffusers: pip install 'csp_index[diffusers]'") from exc
        try:
            self._pipeline = _pipeline(diffusers, place if directory is None else str(directory))
        except Exception as exc:  # the library raises whatever its parts raise: hub, JSON, torch
            raise EvaluationError(f"the generator {spec} cannot be loaded: {one_line(exc)}") from exc
        self._pipeline.set_progress_bar_config(disable=True)
        parts = sorted((str(part), held) for part, held in self._pipeline.components.items())
        weights = {part: hash_weights(held) for part, held in parts if isinstance(held, nn.Module)}
        self._pipeline.to(self._device)
        scheduler: Any = self._pipeline.components.get("scheduler")
        self.identity = {
            "spec": spec,
            "weights": hashlib.sha256(json.dumps(weights).encode()).hexdigest(),
            "settings": json.dumps({"scheduler": dict(getattr(scheduler, "config", {}))}, sort_keys=True, default=str),
            "library": f"diffusers {diffusers.__version__}",
        }

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        """Return ``count`` pictures of a text."""
        at_once = _PICTURES_AT_ONCE.get(self._device.type, 1)
        pictures: list[Image.Image] = []
        while len(pictures) < count:
            places = range(len(pictures), min(len(pictures) + at_once, count))
            noise = [torch.Generator("cpu").manual_seed(picture_seed(text, seed, place)) for place in places]
            with torch.inference_mode():
                pictures.extend(self._pipeline([text] * len(places), generator=noise, output_type="pil").images)
        return pictures


def _pipeline(diffusers: Any, place: str) -> Any:
    # Only pipelines that have a checker may be told to do without one.
    checked = "safety_checker" in diffusers.DiffusionPipeline.load_config(place)
    options = {"safety_checker": None, "requires_safety_checker": False} if checked else {}
    return diffusers.AutoPipelineForText2Image.from_pretrained(place, **options)


def _checked(made: object, spec: str) -> ImageGenerator:
    generator: Any = made
    missing = [part for part in ("name", "identity", "generate") if not hasattr(made, part)]
    missing += [
        f"identity[{trait!r}]"
        for trait in ("spec", "weights", "library")
        if not missing and trait not in generator.identity
    ]
    if missing:
        raise EvaluationError(f"{spec} made a {type(made).__name__} without {', '.join(missing)}: see ImageGenerator")
    found: ImageGenerator = generator
    return found


class CachedGenerator:
    """A generator that keeps its pictures as PNG files, one folder a text, count and seed.

    A folder is renamed to its place when it is complete, so a killed run leaves none that is half full.
    """

    def __init__(self, generator: ImageGenerator, folder: str | Path) -> None:
        """Put a folder in front of a generator; the folder is made if need be."""
        self.name, self.identity = generator.name, generator.identity
        self._generator = generator
        self._root = Path(folder).expanduser() / _digest(dict(sorted(generator.identity.items())))
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
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except OSError as exc:
        raise StoreError(f"the kept picture {file} cannot be read: {one_line(exc)}; delete its folder") from exc


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:32]
