"""What stands in for the paper's image generator and for one of its networks."""

from __future__ import annotations

import hashlib
import json
import os
import time

import numpy as np
import torch
from PIL import Image
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms.functional import pil_to_tensor

from csp_index.errors import GeneratorError


class Squares:
    """Draws a text as squares of a colour that its hash gives; writes down each text, and refuses "nothing"."""

    name = "squares"
    identity = {"spec": "python:paper_models:generator", "weights": "none", "library": "tests 1"}  # noqa: RUF012

    def generate(self, text: str, count: int, seed: int) -> list[Image.Image]:
        if "DRAWN" in os.environ:
            time.sleep(float(os.environ.get("DRAW_SECONDS", "0")))
            with open(os.environ["DRAWN"], "a") as file:
                file.write(json.dumps(text) + "\n")
        if text == "nothing":
            raise GeneratorError("nothing cannot be drawn")
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big"))
        pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-40, 40, (count, 8, 8, 3)), 0, 255).astype(np.uint8)
        return [Image.fromarray(one) for one in pixels]


def generator() -> Squares:
    return Squares()


class Small(ResNet):
    """A residual network of torchvision's class for pictures of 32 x 32."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [1, 1, 1, 1])

    def preprocess(self, image: Image.Image) -> torch.Tensor:
        return pil_to_tensor(image.resize((32, 32))).float() / 255


def small() -> Small:
    return Small()
