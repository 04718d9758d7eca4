"""A tiny network that sees coloured spots, of which it is known where it looks."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE = 32


class Spot(nn.Module):
    """Neurons that count how red (0) and how blue (1) the brightest place is, by several kinds of layers.

    `maps` has places, `vector` has none, `ceiling` is at its ceiling wherever there is some colour at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 2, 5, padding=2, bias=False)
        self.maps.weight.data.zero_()
        self.maps.weight.data[0, 0] = 1 / 25
        self.maps.weight.data[1, 2] = 1 / 25
        self.maps.weight.data[:, 1] = -1 / 25
        self.vector, self.ceiling = nn.Identity(), nn.ReLU6()

    def forward(self, pixels: Tensor) -> Tensor:
        found = self.vector(self.maps(pixels).amax((2, 3)))
        seen: Tensor = self.ceiling(60 * found)
        return seen

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)


def spot() -> Spot:
    return Spot()


def spotted(left: int, top: int, size: tuple[int, int] = (SIDE, SIDE), colour: str = "red") -> Image.Image:
    picture = Image.new("RGB", size, (90, 90, 90))
    picture.paste(Image.new("RGB", (8, 8), colour), (left, top))
    return picture
