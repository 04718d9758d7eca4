"""Compose views of pictures in torch: a picture turned, moved and recolored on a background of a named color.

The same function makes the views that models train on and the probing images; `Strength` says how far a view may
stray. Views are drawn in batches from one generator: equal seeds and batches give equal views.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

#: The named backgrounds, RGB in 0..1.
BACKGROUNDS: Final = {
    "white": (0.97, 0.97, 0.97),
    "black": (0.06, 0.06, 0.06),
    "red": (0.86, 0.16, 0.16),
    "orange": (0.98, 0.58, 0.12),
    "yellow": (0.97, 0.91, 0.25),
    "green": (0.22, 0.66, 0.28),
    "blue": (0.18, 0.36, 0.86),
    "purple": (0.56, 0.24, 0.70),
}
PATTERNS: Final = ("plain", "striped", "dotted")


@dataclass(frozen=True, slots=True)
class Strength:
    """How far a view strays from its picture."""

    smallest: float
    largest: float
    #: Degrees to either side.
    turn: float
    #: Share of the half side by which the picture may move.
    shift: float
    #: Deviation of the entries of a random color matrix.
    recolor: float
    grey: float
    blur: float


TRAINING: Final = Strength(0.7, 1.05, turn=10.0, shift=0.1, recolor=0.08, grey=0.05, blur=0.2)
PROBING: Final = Strength(0.75, 1.0, turn=8.0, shift=0.08, recolor=0.05, grey=0.0, blur=0.1)


def background_rows() -> Tensor:
    """Return the colors of the named backgrounds, [8, 3]."""
    return torch.tensor(list(BACKGROUNDS.values()))


def compose(pixels: Tensor, backgrounds: Tensor, side: int, strength: Strength, generator: torch.Generator) -> Tensor:
    """Return views [N, 3, side, side] in 0..1 of RGBA uint8 pictures [N, 64, 64, 4] on named backgrounds, int64 [N]."""
    count = len(pixels)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(count, *shape, generator=generator)

    picture = pixels.permute(0, 3, 1, 2).float() / 255.0
    picture = torch.cat((picture[:, :3] * picture[:, 3:], picture[:, 3:]), dim=1)
    scale = strength.smallest + (strength.largest - strength.smallest) * uniform()
    angle = (2 * uniform() - 1) * math.radians(strength.turn)
    stretch = 1 + 0.5 * strength.recolor * (2 * uniform() - 1)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    move = (2 * uniform(2) - 1) * strength.shift
    rows = torch.stack((cosine * stretch, -sine, move[:, 0], sine, cosine / stretch, move[:, 1]), dim=1)
    grid = functional.affine_grid(rows.view(-1, 2, 3), [count, 4, side, side], align_corners=False)
    picture = functional.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    color, alpha = _recolored(picture, strength, uniform, generator)
    back = _background(backgrounds, side, uniform)
    views = color + (1 - alpha) * back
    soft = (uniform() < strength.blur)[:, None, None, None]
    return torch.where(soft, functional.avg_pool2d(views, 3, 1, 1, count_include_pad=False), views).clamp_(0, 1)


def _recolored(
    picture: Tensor, strength: Strength, uniform: Callable[..., Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    count = len(picture)
    color, alpha = picture[:, :3], picture[:, 3:]
    matrix = torch.eye(3) + strength.recolor * torch.randn(count, 3, 3, generator=generator)
    grey = (uniform() < strength.grey)[:, None, None]
    matrix = torch.where(grey, torch.full((3, 3), 1 / 3), matrix)
    light = strength.recolor * torch.randn(count, 1, generator=generator)
    moved = torch.bmm(matrix, color.flatten(2)).view_as(color) + light[..., None, None] * alpha
    return torch.minimum(moved.clamp_(min=0), alpha), alpha


def _background(backgrounds: Tensor, side: int, uniform: Callable[..., Tensor]) -> Tensor:
    base = (background_rows()[backgrounds] + 0.06 * (2 * uniform(3) - 1))[..., None, None]
    shade = torch.where(uniform()[:, None, None, None] < 0.5, base * 0.72, base * 0.72 + 0.28)
    axis = torch.linspace(-1, 1, side)
    angle, wave = uniform() * math.pi, 6 + 10 * uniform()
    phase = uniform(2) * 2 * math.pi
    x, y = axis[None, None, :], axis[None, :, None]
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along = torch.sin(wave[:, None, None] * (cosine * x + sine * y) + phase[:, :1, None])
    across = torch.sin(wave[:, None, None] * (cosine * y - sine * x) + phase[:, 1:, None])
    kind = (uniform() * len(PATTERNS)).long()[:, None, None]
    striped, dotted = along > 0, (along * across).abs() * (along > 0) * (across > 0) > 0.35
    pattern = (((kind == 1) & striped) | ((kind == 2) & dotted))[:, None]
    return torch.where(pattern, shade, base)


def as_input(views: Tensor) -> Tensor:
    """Return views in 0..1 as the models' preprocessing gives them: mean 0.5, deviation 0.25."""
    return ((views - 0.5) * 4.0).contiguous(memory_format=torch.channels_last)
