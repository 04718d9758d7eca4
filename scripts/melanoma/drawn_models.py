"""An encoder and a network for drawn lesions, both planted by hand: neither was trained, and neither knows dermatology.

The encoder finds what `drawn_lesions` draws by its color and place, and gives each such thing an axis, which is also
that of its word. So a label is right if the steps before it are; how well a real encoder knows these words is another
question. The network's first neurons are sums of such colors; its head leans on one that sees the patch. Specs, from
this folder: `python:drawn_models:encoder`, `python:drawn_models:network`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

SIDE: Final = 64
LAYER: Final = "pooled"
PATCH_NEURON: Final = 1
CLASSES: Final = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
#: What the encoder finds, in the order of its axes; the first axis is of no word.
WORDS: Final = (
    "",
    "colored patch",
    "ruler",
    "ink marking",
    "hair",
    "vignette",
    "dark brown",
    "light brown",
    "red",
    "blue-gray",
    "several colors",
    "medium brown",
)
_FURTHER: Final = 12  # axes of words that it does not know, on which no image has a part


def _to_pixels(image: Image.Image) -> Tensor:
    """Return an image as [3, SIDE, SIDE] in [0, 1]."""
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1)


class DrawnEncoder:
    """Finds what is drawn by rules about colors and places."""

    spec = "python:drawn_models:encoder"
    width = len(WORDS) + _FURTHER
    logit_scale = 20.0
    device = torch.device("cpu")
    batch_size = 64

    def __init__(self) -> None:
        """Name the rules as the weights."""
        self.identity = {
            "spec": self.spec,
            "weights": "rules 1",
            "preprocessing": f"{SIDE} x {SIDE}",
            "library": "drawn_models 1",
        }

    preprocess = staticmethod(_to_pixels)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return unit vectors [B, D] of images [B, 3, SIDE, SIDE]: how much of each thing they show."""
        red, green, blue = pixels.unbind(1)
        light = pixels.mean(1)
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        middle = (torch.hypot(y - SIDE / 2, x - SIDE / 2) < 24).float()
        bottom = ((y > SIDE - 7) & (x > 16) & (x < SIDE - 16)).float()
        corners = ((y - SIDE / 2).abs() + (x - SIDE / 2).abs() > 56).float()
        dark = (light < 0.17).float()
        browns = {
            "dark brown": _near(pixels, (70, 42, 34)),
            "light brown": _near(pixels, (185, 145, 100)),
            "red": _near(pixels, (185, 45, 55)),
            "blue-gray": _near(pixels, (95, 100, 125)),
            "medium brown": _near(pixels, (125, 80, 55)),
        }
        shares = {word: _share(mask) for word, mask in browns.items()}
        shown = {
            "": torch.full((len(pixels),), 0.6),
            "colored patch": _share(((blue + green) / 2 - red > 0.2).float()),
            "ruler": _share(dark * bottom, bottom),
            "ink marking": _share(((blue - green > 0.25) & (red < 0.6)).float()) * 4,
            "hair": _share((light < 0.1).float() * middle, middle) * 3,
            "vignette": 1 - _share((light > 0.35).float() * corners, corners),
            **shares,
            "several colors": torch.minimum(shares["dark brown"], shares["blue-gray"]) * 6,
        }
        values = torch.stack(
            [shown[word].clamp(0, 1) if not word else (3 * shown[word]).clamp(0, 1) for word in WORDS], 1
        )
        return functional.normalize(functional.pad(values, (0, _FURTHER)), dim=1)

    def embed_texts(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Return unit vectors [T, D]: a word's own axis; of an unknown word a direction that no image has."""
        return torch.stack([self._direction(text) for text in texts])

    def _direction(self, text: str) -> Tensor:
        if text in WORDS[1:]:
            return functional.one_hot(torch.tensor(WORDS.index(text)), self.width).float()
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
        further = torch.randn(_FURTHER, generator=torch.Generator().manual_seed(seed))
        return functional.normalize(functional.pad(further, (len(WORDS), 0)), dim=0)


def _near(pixels: Tensor, color: tuple[int, int, int]) -> Tensor:
    """Return which pixels [B, H, W] have nearly a color."""
    return ((pixels - torch.tensor(color).view(3, 1, 1) / 255).abs().amax(1) < 0.09).float()


def _share(mask: Tensor, of: Tensor | None = None) -> Tensor:
    """Return the share [B] of an area that a mask [B, H, W] covers."""
    return mask.sum((1, 2)) / (SIDE * SIDE if of is None else of.sum())


class DrawnNetwork(nn.Module):
    """Images [B, 3, 64, 64] -> logits of `CLASSES`, by a linear head on the layer `pooled` [B, 8].

    Neurons, all of colors: 0 dark, 1 the patch, 2 red, 3 light brown, 4 ink, 5 blue-gray, 6 brown, 7 anything light.
    """

    def __init__(self) -> None:
        """Set the weights by hand."""
        super().__init__()
        weights = [
            [-1, -1, -1, 1.0],
            [-1, 0.5, 0.5, -0.15],
            [1, -1, 0, -0.35],
            [1, 0, -1, -0.28],
            [0, -1, 1, -0.2],
            [-1, 0, 1, -0.05],
            [0, -1, -1, 0.62],
            [0.3, 0.3, 0.3, -0.6],
        ]
        self.colors = nn.Conv2d(3, len(weights), 1)
        rows = torch.tensor(weights)
        self.colors.weight.data = rows[:, :3].reshape(len(weights), 3, 1, 1).clone()
        self.colors.bias = nn.Parameter(rows[:, 3].clone())
        self.pooled = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(len(weights), len(CLASSES))
        self.head.weight.data.zero_()
        self.head.bias.data = torch.tensor([0.0, -0.2, -9, -9, 0.1, -9, 0, -9])
        for code, neuron, weight in (
            *(("MEL", 0, 30.0), ("MEL", 5, 20.0), ("NV", 1, 60.0), ("NV", 6, 5.0)),
            *(("VASC", 2, 80.0), ("BKL", 3, 20.0), ("MEL", 1, -30.0), ("VASC", 1, -10.0), ("BKL", 1, -10.0)),
        ):
            self.head.weight.data[CLASSES.index(code), neuron] = weight

    preprocess = staticmethod(_to_pixels)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits [B, 8]."""
        logits: Tensor = self.head(self.pooled(self.colors(images)))
        return logits


def encoder() -> DrawnEncoder:
    """Return the encoder."""
    return DrawnEncoder()


def network() -> DrawnNetwork:
    """Return the network."""
    return DrawnNetwork()


def write_weights(path: Path) -> Path:
    """Write the network's weights as a file, as a trained network has one; returns the path."""
    save_file(DrawnNetwork().state_dict(), path)
    return path
