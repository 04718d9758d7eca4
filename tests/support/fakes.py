"""The smallest models and images that exercise the pass: an encoder, a network of 10 neurons, coloured squares."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.models.generators.variant_generators import Original, Variant

WIDTH, SIDE, NEURONS = 12, 8, 10


class FakeEncoder:
    """A fixed random projection of the pixels; texts are hashed to directions."""

    spec = "python:fakes:encoder"
    width = WIDTH
    logit_scale = 20.0
    device = torch.device("cpu")
    batch_size = 4

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._projection = torch.randn(3 * SIDE * SIDE, WIDTH, generator=generator)
        self.identity = {
            "spec": self.spec,
            "weights": f"projection {seed}",
            "preprocessing": "8 x 8",
            "library": "fakes 1",
        }

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def embed_images(self, pixels: Tensor) -> Tensor:
        time.sleep(float(os.environ.get("FAKE_SECONDS", "0")))
        return torch.nn.functional.normalize((pixels.flatten(1) - 0.5) @ self._projection, dim=1)

    def embed_texts(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        rows = []
        for text in texts:
            found = [self._direction(template.replace("{}", text)) for template in templates]
            rows.append(torch.stack(found).mean(0))
        return torch.stack(rows)

    def _direction(self, sentence: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:4], "big")
        return torch.nn.functional.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0)


def encoder() -> FakeEncoder:
    return FakeEncoder(int(os.environ.get("FAKE_SEED", "0")))


def other_encoder() -> FakeEncoder:
    made = FakeEncoder(1)
    made.spec = "python:fakes:other_encoder"
    made.identity = {**made.identity, "spec": made.spec}
    return made


class FakeNetwork(nn.Module):
    """Two layers to hook: `conv` [B, 6, 8, 8] and `concepts` [B, 10]; neuron 9 never fires."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, NEURONS)
        self.concepts = nn.ReLU()
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.head.weight.data[NEURONS - 1] = 0
        self.head.bias.data[NEURONS - 1] = -1

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.conv(pixels)
        found: Tensor = self.concepts(self.head(features.mean((2, 3))))
        return found

    def preprocess(self, image: Image.Image) -> Tensor:
        return FakeEncoder.preprocess(self, image)  # type: ignore[arg-type]


def network() -> FakeNetwork:
    return FakeNetwork()


def write_images(folder: Path, count: int, *, seed: int = 0, start: int = 0) -> Path:
    """Write coloured squares `img00000.png`, ... into two sub-folders."""
    for number in range(start, start + count):
        rng = np.random.default_rng((seed, number))
        pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-60, 60, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"img{number:05d}.png")
    return folder


def write_arrays(
    folder: Path, images: int = 60, neurons: int = 8, width: int = 12, texts: int = 20, *, seed: int = 0
) -> dict[str, Path]:
    """Write embeddings, activations (neuron 3 is dead, neuron 4 fires on few images), text embeddings and texts."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    centres = rng.standard_normal((6, width))
    embeddings = centres[rng.integers(0, 6, images)] + 0.7 * rng.standard_normal((images, width))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    activations = np.maximum(
        embeddings @ rng.standard_normal((width, neurons)) + 0.1 * rng.standard_normal((images, neurons)), 0
    )
    if neurons > 4:
        activations[:, 3] = 0
        activations[5:, 4] = 0
    activations = np.round(activations, 2)  # ties
    vectors = rng.standard_normal((texts, width))
    vectors *= rng.uniform(0.7, 1, (texts, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = {name: folder / f"{name}.npy" for name in ("embeddings", "activations", "text_embeddings")}
    np.save(paths["embeddings"], embeddings.astype(np.float32))
    np.save(paths["activations"], activations.astype(np.float32))
    np.save(paths["text_embeddings"], vectors.astype(np.float32))
    paths["texts"] = folder / "texts.txt"
    paths["texts"].write_text("".join(f"text {i}\n" for i in range(texts)))
    return paths


class Painter:
    """An image generator: plain squares whose colour hangs on the text."""

    name = "painter"
    identity = {"spec": "python:fakes:painter", "weights": "none", "library": "fakes 1"}  # noqa: RUF012

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        rng = np.random.default_rng([seed, *text.encode()])
        colour = rng.integers(0, 256, 3)
        shades = np.clip(colour + rng.integers(-30, 30, (count, 3)), 0, 255)
        return [Image.new("RGB", (SIDE, SIDE), tuple(map(int, shade))) for shade in shades]


def painter() -> Painter:
    return Painter()


class Shader:
    """A generator of variants: the picture itself, ever darker; counts the images it is asked about."""

    name = "shader"

    def __init__(self) -> None:
        self.identity = {
            "spec": "python:fakes:shader",
            "weights": os.environ.get("FAKE_SHADER", "0"),
            "library": "fakes 1",
        }
        self.asked: list[int] = []

    def variants(self, original: Original, count: int, seed: int) -> list[Variant]:
        self.asked.append(original.image_id)
        shades = [1 - (place + 1 + seed % 2 / 2) / (count + 1) for place in range(count)]
        pixels = np.asarray(original.picture, dtype=np.float32)
        made = [Image.fromarray((pixels * shade).astype(np.uint8)) for shade in shades]
        return [Variant(one, f"shade {shade:.2f}") for one, shade in zip(made, shades, strict=True)]


def shader() -> Shader:
    return Shader()


def write_activations(file: Path, embeddings: np.ndarray, neurons: int = NEURONS, *, seed: int = 0) -> Path:
    """Write activations [N, M] that follow the embeddings: every neuron fires on some images, only the last is dead."""
    rng = np.random.default_rng(seed)
    centred = embeddings - embeddings.mean(0)
    values = np.maximum(centred @ rng.standard_normal((embeddings.shape[1], neurons)), 0)
    values[:, -1] = 0
    np.save(file, values.astype(np.float32))
    return file
