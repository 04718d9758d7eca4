"""Encoders that run and yet say nothing: their values are random, or the same for every image."""

from __future__ import annotations

import fakes
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


def noisy() -> Noisy:
    return Noisy()


def cropping() -> Cropping:
    return Cropping()


def blind() -> Blind:
    return Blind()
