"""A small classifier of the images of `shortcuts`, trained in seconds: convolutions, a pooled layer, a linear head.

`classifier()` builds it; its layer `pooled` (the mean of each map after ReLU, [N, 32]) is the one to index, and `head`
reads its ten logits off that layer alone. `train` fits one from fresh weights, the same for the same kind and seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms

from csp_index.demo.shortcuts import CLASSES, ShortcutKind, draw_examples, leaked_class, pictures, training_examples
from csp_index.demo.world import SIDE

POOLED: Final = "pooled"
HEAD: Final = "head"
SPEC: Final = "python:csp_index.demo.classifier:classifier"
NEURONS: Final = 32
TRAIN_IMAGES: Final = 6_000
STEPS: Final = 400
_BATCH: Final = 64
_RATE: Final = 4e-3
_AT_ONCE: Final = 250  # images of one pass without training


class Classifier(nn.Module):
    """Images [N, 3, 64, 64] -> logits of `CLASSES` [N, 10], read off the layer `pooled` [N, 32] by a linear head."""

    def __init__(self) -> None:
        """Build the network with fresh weights."""
        super().__init__()
        blocks: list[nn.Module] = []
        for before, width, size, stride, pool in (
            (3, 16, 5, 2, True),
            (16, 32, 3, 1, False),
            (32, 48, 3, 1, True),
            (48, NEURONS, 3, 1, False),
        ):
            blocks += [nn.Conv2d(before, width, size, stride, size // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            blocks += [nn.MaxPool2d(2)] * pool
        self.maps = nn.Sequential(*blocks)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(NEURONS, len(CLASSES))
        self.config = SimpleNamespace(id2label=dict(enumerate(CLASSES)))
        self.preprocess: Callable[[Image.Image], Tensor] = transforms.Compose(
            [
                transforms.Resize(SIDE, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(SIDE),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits [N, 10]."""
        logits: Tensor = self.head(self.pooled(self.maps(images)))
        return logits


def classifier() -> Classifier:
    """Build the network under study, with fresh weights: its spec is `SPEC`."""
    return Classifier()


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Shares of images whose class a network says, in [0, 1].

    `usual` is of fresh images of the set, `broken` of images on which the shortcut is drawn evenly, `leaked` and
    `leaked_broken` the same of the leaked class alone; the last two are NaN without a shortcut.
    """

    usual: float
    broken: float
    leaked: float
    leaked_broken: float


def train(kind: ShortcutKind, seed: int, *, images: int = TRAIN_IMAGES, steps: int = STEPS) -> Classifier:
    """Train a classifier on the part `train` of a set, in counted steps: about half a minute on one core.

    Leaves the global random state as it was. The same arguments give the same weights on the same versions of torch.
    """
    examples, classes = training_examples(kind, seed, images)
    pixels = to_input(pictures(examples, seed, "train"))
    truth = torch.tensor([CLASSES.index(name) for name in classes])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.02)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    rng, order = np.random.default_rng((seed, 3)), np.empty(0, dtype=np.int64)
    network.train()
    for _ in range(steps):
        if len(order) < _BATCH:
            order = rng.permutation(images)
        chosen, order = torch.from_numpy(order[:_BATCH]), order[_BATCH:]
        loss = functional.cross_entropy(network(pixels[chosen]), truth[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
    return network.eval()


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Return pixels [N, H, W, 3] as the network's `preprocess` makes them of images: mean 0.5, deviation 0.25."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return (images.float().div_(255.0) - 0.5).mul_(4.0).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def measure(network: Classifier, kind: ShortcutKind, seed: int, images: int = 1_000) -> Accuracies:
    """Return how often a network is right, on fresh images of its set and on such with the shortcut broken."""
    leaked = leaked_class(kind, seed)
    shares: list[tuple[float, float]] = []
    for broken in (False, True):
        examples = draw_examples(kind, seed, "test", images, broken=broken)
        drawn = to_input(pictures(examples, seed, "test", broken=broken))
        said = torch.cat([network(part).argmax(1) for part in drawn.split(_AT_ONCE)]).numpy()
        truth = np.array([CLASSES.index(example.class_name) for example in examples])
        own = truth == (CLASSES.index(leaked) if leaked else -1)
        shares.append((float((said == truth).mean()), float((said == truth)[own].mean()) if leaked else float("nan")))
    (usual, of_leaked), (broken_usual, of_leaked_broken) = shares
    return Accuracies(usual, broken_usual, of_leaked, of_leaked_broken)


def save(network: Classifier, path: Path) -> Path:
    """Write the weights as safetensors; returns the path."""
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    return path
