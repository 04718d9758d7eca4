"""Images generated from a label alone, and the activations of neurons on them: the data of the CoSy metrics.

Two networks, and two runs, get the same pictures of a label. Knows nothing about indexes or metrics.

CoSy: Kopf et al., arXiv 2405.20331.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from csp_index.errors import EvaluationError, GeneratorError, ModelError, SourceError
from csp_index.images.decode import ImageFailure, read_images, uris_of
from csp_index.images.sources import open_source
from csp_index.models.generators.image_generators import CachedGenerator, ImageGenerator, load_generator, made_or_why
from csp_index.models.networks import LoadedNetwork
from csp_index.records import Progress

__all__ = [
    "COSY_TEMPLATE",
    "CachedGenerator",
    "Generated",
    "GenerationSettings",
    "ImageGenerator",
    "control_activations",
    "generated_activations",
    "load_generator",
    "sample_rows",
]

#: The prompt of CoSy's own runs; the CSP paper's code uses the bare label.
COSY_TEMPLATE: Final = "realistic photo of a close up of {}"


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """The number of pictures per label, their seed, and the prompt around the label.

    The CSP paper's code makes 20 pictures of the bare label; CoSy itself uses the prompt `COSY_TEMPLATE`.
    """

    count: int = 20
    seed: int = 0
    template: str = "{}"

    def __post_init__(self) -> None:
        """Refuse settings that no generator can use."""
        if self.count < 1:
            raise EvaluationError(f"pictures per label is {self.count}: expected at least 1")
        if "{}" not in self.template:
            raise EvaluationError(f"the prompt template {self.template!r} has no {{}}: write where the label goes")

    def prompt(self, text: str) -> str:
        """Return the generator's prompt for a label."""
        return self.template.replace("{}", text)


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """Activations on generated pictures, [P, G]: row i belongs to the i-th pair of the call.

    A row is NaN throughout where its label could not be drawn; `failures` says why, by label.
    """

    values: Tensor
    failures: dict[str, str] = field(default_factory=dict)


def generated_activations(
    network: LoadedNetwork,
    layer: str,
    generator: ImageGenerator,
    pairs: Sequence[tuple[int, str]],
    settings: GenerationSettings | None = None,
    progress: Progress | None = None,
) -> Generated:
    """Return the activations of neurons on pictures of their labels, [P, G] for P pairs of a neuron and a label.

    Each label is drawn once, however many neurons have it. Memory: the activations of the pairs, and the pictures of
    one label. `progress` counts labels. Raises EvaluationError for a neuron that the layer lacks, GeneratorError
    where the generator itself fails.
    """
    generation = GenerationSettings() if settings is None else settings
    output = network.layers.get(layer)
    if output is None:
        raise EvaluationError(f"layer {layer!r} was not loaded with {network.name} (has: {', '.join(network.layers)})")
    wrong = next((neuron for neuron, _ in pairs if not 0 <= neuron < output.neurons), None)
    if wrong is not None:
        raise EvaluationError(f"{network.name}/{layer} has no neuron {wrong} (has: 0 to {output.neurons - 1})")
    rows_of: dict[str, list[int]] = {}
    for row, (_, text) in enumerate(pairs):
        rows_of.setdefault(text, []).append(row)
    values = torch.full((len(pairs), generation.count), torch.nan)
    failures: dict[str, str] = {}
    for done, (text, rows) in enumerate(rows_of.items()):
        if progress is not None:
            progress(done, len(rows_of), "labels drawn")
        pictures = _draw(generator, generation.prompt(text), generation)
        if isinstance(pictures, str):
            failures[text] = pictures
        else:
            values[rows] = _run(network, layer, pictures)[:, [pairs[row][0] for row in rows]].T
    if progress is not None:
        progress(len(rows_of), len(rows_of), "labels drawn")
    return Generated(values, failures)


def control_activations(
    network: LoadedNetwork,
    layer: str,
    location: str | Path,
    count: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> Tensor:
    """Return a layer's activations on control images from a folder or another source: [C, M], C at most `count`.

    The images are a seeded sample in the order of the source, or all of them if there are no more. Raises
    SourceError for an image of the sample that cannot be read.
    """
    uris = list(uris_of(open_source(location)))
    sample = sample_rows(len(uris), count, seed).tolist()
    activations: list[Tensor] = []
    batch: list[Image.Image] = []
    for done, item in enumerate(read_images(uris[row] for row in sample), start=1):
        if isinstance(item, ImageFailure):
            raise SourceError(f"the control image {item.uri} cannot be read: {item.reason}; remove or restore it")
        batch.append(item.image)
        if len(batch) == network.batch_size or done == len(sample):
            activations.append(_run(network, layer, batch))
            batch = []
            if progress is not None:
                progress(done, len(sample), "control images")
    return torch.cat(activations)


def sample_rows(rows: int, count: int, seed: int = 0) -> Tensor:
    """Return a seeded sample of `count` of N rows, ascending, int64; all rows if N is at most `count`.

    >>> sample_rows(3, 10).tolist()
    [0, 1, 2]
    >>> sample_rows(1_000, 4, seed=1).tolist() == sample_rows(1_000, 4, seed=1).tolist()
    True
    """
    if rows < 1 or count < 1:
        raise EvaluationError(f"a sample of {count} of {rows} control images is empty: expected at least 1")
    if count >= rows:
        return torch.arange(rows)
    return torch.from_numpy(np.sort(np.random.default_rng(seed).choice(rows, count, replace=False)))


def _draw(generator: ImageGenerator, prompt: str, settings: GenerationSettings) -> list[Image.Image] | str:
    """Return the pictures of a prompt, or why it cannot be drawn."""
    pictures = made_or_why(
        generator.name, repr(prompt), lambda: generator.generate(prompt, settings.count, settings.seed)
    )
    if isinstance(pictures, str):
        return pictures
    if len(pictures) != settings.count:
        raise GeneratorError(
            f"the generator {generator.name} made {len(pictures)} pictures of {prompt!r}, expected {settings.count}"
        )
    return pictures


def _run(network: LoadedNetwork, layer: str, pictures: Sequence[Image.Image]) -> Tensor:
    """Return the activations [B, M] of a layer on pictures, computed in batches."""
    parts = []
    for start in range(0, len(pictures), network.batch_size):
        batch = pictures[start : start + network.batch_size]
        pixels = torch.stack([network.preprocess(picture.convert("RGB")) for picture in batch])
        parts.append(network.activations(pixels)[layer])
    values = torch.cat(parts)
    if not bool(torch.isfinite(values).all()):
        raise ModelError(f"{network.name}/{layer} gave values that are not finite on pictures: check the network")
    return values
