"""What a preprocessing of the user's own returns, made the input of a network: a tensor in the weights' precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError


@dataclass(frozen=True, slots=True)
class Prepared:
    """A preprocessing of the caller, checked to return a tensor."""

    preprocess: Callable[[Image.Image], Any]
    name: str

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the model's input for one RGB image. Raises ModelError if it is not a tensor."""
        result = self.preprocess(image)
        if isinstance(result, Mapping):  # of a processor of transformers, or of albumentations
            key = next((key for key in ("pixel_values", "image") if key in result), None)
            if key is None:
                keys = ", ".join(map(str, result)) or "nothing"
                raise ModelError(
                    f"the preprocess of {self.name} returns a dictionary of {keys}: "
                    "expected a tensor [C, H, W], or a dictionary with pixel_values or image"
                )
            result = result[key]
        if isinstance(result, list | tuple) and len(result) == 1:
            result = result[0]
        pixels = torch.from_numpy(result) if isinstance(result, np.ndarray) else result
        if not isinstance(pixels, Tensor):
            raise ModelError(
                f"the preprocess of {self.name} returns {type(result).__name__}: expected a tensor [C, H, W]; add "
                "torchvision.transforms.ToTensor()"
            )
        return pixels[0] if pixels.ndim == 4 and len(pixels) == 1 else pixels


def cast(module: nn.Module, pixels: Tensor) -> Tensor:
    """Return an input in the precision of the weights; whole numbers stay unchanged."""
    kind = next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), pixels.dtype)
    return pixels.to(kind) if pixels.is_floating_point() else pixels
