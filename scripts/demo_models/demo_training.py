"""What the training of both demo models shares: rendering, batches, the learning rate, the warm start on attributes."""

from __future__ import annotations

import math
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from csp_index.demo.world import ATTRIBUTES, Concept, Scene, render

SEED: Final = 0
BATCH: Final = 256
WARM_STEPS: Final = 170
RATE: Final = 3e-3

Features: TypeAlias = Callable[[Tensor], Tensor]


def say(text: str) -> None:
    """Print one line of progress at once."""
    print(text, flush=True)


def _render_part(job: tuple[list[Scene], int, int]) -> NDArray[np.uint8]:
    scenes, seed, start = job
    return np.stack([render(scene, (seed, start + i)) for i, scene in enumerate(scenes)])


def pictures(scenes: Sequence[Scene], seed: int) -> NDArray[np.uint8]:
    """Render scenes on all cores; image i depends on (seed, i) alone, not on how the work is split."""
    jobs = [(list(scenes[i : i + 1000]), seed, i) for i in range(0, len(scenes), 1000)]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        return np.concatenate(pool.map(_render_part, jobs))


def codes(scenes: Sequence[Scene]) -> Tensor:
    """Return the value numbers of scenes, int64 [N, 6]."""
    return torch.tensor([[values.index(scene.value(name)) for name, values in ATTRIBUTES.items()] for scene in scenes])


def concept_codes(concepts: Sequence[Concept]) -> Tensor:
    """Return the value numbers of concepts, int64 [C, 6], -1 where an attribute is free."""
    rows = [dict(concept) for concept in concepts]
    return torch.tensor([[v.index(r[name]) if name in r else -1 for name, v in ATTRIBUTES.items()] for r in rows])


def matches(images: Tensor, concepts: Tensor) -> Tensor:
    """Tell which image [N, 6] has which concept [C, 6]: bool [N, C]."""
    return ((concepts[None] == -1) | (concepts[None] == images[:, None])).all(-1)


def to_input(pixels: NDArray[np.uint8]) -> Tensor:
    """Normalise pixels [N, H, W, 3] as the shipped preprocessing does: mean 0.5, deviation 0.25."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return (images.float().div_(255.0) - 0.5).mul_(4.0).contiguous(memory_format=torch.channels_last)


def batches(count: int, steps: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield `steps` batches of image numbers, epoch by epoch in seeded order."""
    rng = np.random.default_rng(seed)
    order: NDArray[np.int64] = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(count)
        yield order[:BATCH]
        order = order[BATCH:]


def schedule(optimiser: torch.optim.Optimizer, steps: int, warm: int = 20) -> torch.optim.lr_scheduler.LambdaLR:
    """Linear warm-up, then cosine to zero."""

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


class AttributeHeads(nn.Module):
    """One linear classifier an attribute."""

    def __init__(self, width: int) -> None:
        """Build a head for each attribute."""
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, len(values)) for values in ATTRIBUTES.values())

    def loss(self, features: Tensor, truth: Tensor) -> Tensor:
        """Return the summed cross-entropy of features [N, F] against value numbers [N, 6]."""
        losses = [functional.cross_entropy(head(features), truth[:, i]) for i, head in enumerate(self.heads)]
        return torch.stack(losses).sum()

    def accuracy(self, features: Tensor, truth: Tensor) -> list[float]:
        """Return the accuracy of each attribute."""
        return [(head(features).argmax(1) == truth[:, i]).float().mean().item() for i, head in enumerate(self.heads)]


def warm_up(
    body: nn.Module, features: Features, width: int, pixels: NDArray[np.uint8], truth: Tensor
) -> AttributeHeads:
    """Teach `body` the attributes by plain classification of its features [N, width]; return the heads it used."""
    heads = AttributeHeads(width)
    optimiser = torch.optim.AdamW([*body.parameters(), *heads.parameters()], lr=RATE, weight_decay=0.02)
    rates = schedule(optimiser, WARM_STEPS)
    start = time.monotonic()
    for step, chosen in enumerate(batches(len(pixels), WARM_STEPS, SEED + 1)):
        found = features(to_input(pixels[chosen]))
        loss = heads.loss(found, truth[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        rates.step()
        if step % 20 == 0 or step == WARM_STEPS - 1:
            marks = " ".join(f"{value:.2f}" for value in heads.accuracy(found.detach(), truth[chosen]))
            say(f"warm {step:4d} loss {loss.item():.3f} accuracy {marks} {time.monotonic() - start:.0f}s")
    return heads


def halve(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights in half precision, counters as they are."""
    return {k: (v.half() if v.is_floating_point() else v).contiguous().clone() for k, v in state.items()}
