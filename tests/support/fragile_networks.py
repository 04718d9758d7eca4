"""Networks that fail on some images, in their preprocessing or behind it."""

from __future__ import annotations

import fakes
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index import NetworkSource


class Fragile(fakes.FakeNetwork):
    """Not finite on pure red, an error on pure blue, and a preprocessing that refuses pure green."""

    def forward(self, pixels: Tensor) -> Tensor:
        if bool(((pixels[:, 2] > 0.99) & (pixels[:, 0] < 0.01)).flatten(1).all(1).any()):
            raise ValueError("no blue, please")
        red = ((pixels[:, 0] > 0.99) & (pixels[:, 2] < 0.01)).flatten(1).all(1)
        return self.concepts(self.head(self.conv(pixels).mean((2, 3))) + torch.where(red, float("nan"), 0.0)[:, None])

    def preprocess(self, image: Image.Image) -> Tensor:
        if image.getpixel((0, 0)) == (0, 255, 0):
            raise ValueError("no green, please")
        return super().preprocess(image)


def fragile() -> nn.Module:
    return Fragile()


class Choosy(fakes.FakeNetwork):
    """A preprocessing that takes only the pictures with which a network is tried when it is loaded."""

    def preprocess(self, image: Image.Image) -> Tensor:
        if image.size == (8, 8):
            raise ValueError("too small")
        return super().preprocess(image)


def choosy() -> nn.Module:
    return Choosy()


FRAGILE = NetworkSource("python:fragile_networks:fragile", ("concepts",), name="net")
