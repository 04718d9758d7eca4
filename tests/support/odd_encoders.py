"""Encoders that run and yet say nothing, their values random or the same for every image; and one of large inputs."""

from __future__ import annotations

import fakes
import numpy as np
import torch
from PIL import Image


class Noisy(fakes.FakeEncoder):
    spec = "python:odd_encoders:noisy"

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(super().embed_images(pixels) + torch.rand(len(pixels), fakes.WIDTH), dim=1)


class Cropping(fakes.FakeEncoder):
    spec = "python:odd_encoders:cropping"

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return super().preprocess(image) + torch.rand(3, fakes.SIDE, fakes.SIDE)


class Blind(fakes.FakeEncoder):
    spec = "python:odd_encoders:blind"

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(torch.ones(len(pixels), fakes.WIDTH), dim=1)


class Large(fakes.FakeEncoder):
    spec = "python:odd_encoders:large"

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        pixels = np.asarray(image.resize((96, 96)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().embed_images(torch.nn.functional.adaptive_avg_pool2d(pixels, fakes.SIDE))


def noisy() -> Noisy:
    return Noisy()


def cropping() -> Cropping:
    return Cropping()


def blind() -> Blind:
    return Blind()


def large() -> Large:
    return Large()
