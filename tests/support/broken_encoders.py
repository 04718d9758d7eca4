"""Encoders that kill their process once, or always fail."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import fakes
import torch

MARKER = "CSP_INDEX_TEST_MARKER"  # names a file that is made before a worker kills itself


class Mortal(fakes.FakeEncoder):
    """Kills its process in the third batch, once: the marker tells that it did."""

    spec = "python:broken_encoders:mortal"
    batches = 0

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        self.batches += 1
        marker = Path(os.environ[MARKER])
        if self.batches == 3 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_images(pixels)


def mortal() -> Mortal:
    return Mortal()


class Failing(fakes.FakeEncoder):
    spec = "python:broken_encoders:failing"

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("out of\nluck")


def failing() -> Failing:
    return Failing()
