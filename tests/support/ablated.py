"""Small classifiers of many builds, for tests that change single neurons: maps, residuals, tokens, heads."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE, CLASSES = 8, 3


class Prepared(nn.Module):
    """A network with its preprocessing."""

    def preprocess(self, image: Image.Image) -> Tensor:
        pixels = np.asarray(image.resize((SIDE, SIDE)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)


class Residual(Prepared):
    """Convolutions with batch norm, an activation that works in place, and a sum around a block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.conv = nn.Conv2d(6, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, CLASSES)
        self.calls = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        maps = self.stem(pixels)
        inside = self.norm(self.conv(maps))
        inside += maps
        result: Tensor = self.head(self.act(inside).mean((2, 3)))
        return result


class Tokens(Prepared):
    """Patches with a class token, an attention of two heads, and a head that reads the class token, in a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 8))
        self.block = Attention()
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        patches = self.patches(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], 1)
        tokens = tokens + self.block(tokens)
        return {"logits": self.head(self.norm(tokens)[:, 0])}


class Attention(nn.Module):
    num_heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(tokens).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


class Twice(Prepared):
    """One activation that is used twice, and a tensor in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.act, self.pair = nn.ReLU(), Pair()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        maps, mean = self.pair(self.act(self.second(self.act(self.first(pixels)))))
        result: Tensor = self.head(mean + maps.amax((2, 3)))
        return result


class Pair(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * maps, maps.mean((2, 3))


class Colors(Prepared):
    """Six maps of colors, a linear head on their means that says which color prevails, and a ReLU behind it.

    Classes 0 to 2 are red, green, blue; class 3 is never the highest.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.concepts = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4), nn.ReLU()
        self.conv.weight.data *= 0.2
        self.conv.weight.data[range(3), range(3), 1, 1] += 1
        self.head.weight.data[range(3), range(3)] += 9
        self.head.bias.data[3] = -9

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.concepts(self.head(self.conv(pixels).mean((2, 3))))
        return logits


def seeded(kind: type[Prepared]) -> Prepared:
    torch.manual_seed(0)
    module = kind()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()  # type: ignore[union-attr]
    return module.eval()


def residual() -> Prepared:
    return seeded(Residual)


def tokens() -> Prepared:
    return seeded(Tokens)


def twice() -> Prepared:
    return seeded(Twice)


def colors() -> Prepared:
    return seeded(Colors)
