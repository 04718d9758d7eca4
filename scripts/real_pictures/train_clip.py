"""Train the tiny CLIP of the experiment: a table of text vectors first, the text tower onto it, then both together.

Names are learned as a classification over a table of free vectors (one per text), which is many times cheaper than a
contrastive loss with a text tower; the tower is then fitted onto the table, and a short joint phase with open_clip's
own ClipLoss makes one model of the two. Counted in steps, never in seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from picture_models import CLIP_SIDE, PictureTrunk
from picture_packages import Pictures
from picture_views import BACKGROUNDS, PROBING, TRAINING, as_input, compose
from picture_words import Words
from torch import Tensor, nn
from torch.nn import functional
from training import Training

WIDTH: Final = 128
RATE: Final = 4e-3


@dataclass(frozen=True, slots=True)
class TableSteps:
    """Steps of the first phase at rising resolution: pixels and steps of each part."""

    parts: tuple[tuple[int, int], ...] = ((32, 700), (48, 250))
    batch: int = 192


class TextTable(nn.Module):
    """A free unit vector per text and background, with the scales of the losses."""

    def __init__(self, texts: int) -> None:
        """Build the table with random vectors."""
        super().__init__()
        self.rows = nn.Parameter(torch.randn(texts + len(BACKGROUNDS), WIDTH) / WIDTH**0.5)
        self.scale = nn.Parameter(torch.tensor(2.7))
        self.keyword_scale = nn.Parameter(torch.tensor(2.3))
        self.keyword_bias = nn.Parameter(torch.tensor(-6.0))

    def vectors(self) -> Tensor:
        """Return unit vectors [T + 8, D]."""
        return functional.normalize(self.rows, dim=1)


def batches(rows: NDArray[np.int64], size: int, steps: int, rng: np.random.Generator) -> Iterator[Tensor]:
    """Yield `steps` batches of rows, epoch by epoch in random order."""
    order: NDArray[np.int64] = np.empty(0, np.int64)
    for _ in range(steps):
        while len(order) < size:
            order = np.concatenate((order, rng.permutation(rows)))
        yield torch.from_numpy(order[:size])
        order = order[size:]


def table_loss(cosines: Tensor, table: TextTable, words: Words, truth: Tensor, names: Tensor, back: Tensor) -> Tensor:
    """Return the loss of cosines [B, T + 8]: names and backgrounds by cross-entropy, keywords by sigmoids.

    `truth` is float [B, K], `names` the name's place among names [B], `back` the background [B].
    """
    name_rows = torch.from_numpy(words.name_row)
    scale = table.scale.exp()
    loss = functional.cross_entropy(scale * cosines[:, name_rows], names, label_smoothing=0.1)
    logits = table.keyword_scale.exp() * cosines[:, : words.keywords] + table.keyword_bias
    keyword = functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(cosines)
    color = functional.cross_entropy(scale * cosines[:, len(words.texts) :], back)
    return loss + 0.15 * keyword + 0.3 * color


def train_table(
    pictures: Pictures, words: Words, held_out: str, seed: int, steps: TableSteps, say: Callable[[str], None]
) -> tuple[PictureTrunk, nn.Linear, TextTable]:
    """Return the trunk, its projection and the table after the first phase."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    generator = torch.Generator().manual_seed(seed)
    trunk = PictureTrunk().to(memory_format=torch.channels_last)
    projection = nn.Linear(trunk.num_features, WIDTH, bias=False)
    table = TextTable(len(words.texts))
    pixels = torch.from_numpy(pictures.pixels)
    concept = torch.from_numpy(pictures.concept)
    truth = torch.from_numpy(words.truth[: words.keywords].T).float()
    seen = np.flatnonzero((pictures.concept >= 0) & (pictures.artist != held_out))
    total = sum(count for _, count in steps.parts)
    training = Training((trunk, projection), table.parameters(), RATE, total)
    start, step = time.monotonic(), 0
    for side, count in steps.parts:
        for chosen in batches(seen, steps.batch, count, rng):
            back = torch.randint(len(BACKGROUNDS), (len(chosen),), generator=generator)
            views = as_input(compose(pixels[chosen], back, side, TRAINING, generator))
            vectors = functional.normalize(projection(trunk(views)), dim=1)
            which = concept[chosen]
            loss = table_loss(vectors @ table.vectors().T, table, words, truth[which], which, back)
            training.step(loss)
            step += 1
            if step % 100 == 0 or step == total:
                trunk.eval()
                level = measure(
                    lambda views: functional.normalize(projection(trunk(views)), dim=1),
                    *(table.vectors(), pictures, words, held_out, side),
                )
                trunk.train()
                say(
                    f"table, seed {seed}: {step} of {total} at {side} px, loss {loss.item():.2f}, {held_out} "
                    f"top-1 {level.top1:.3f}, keywords {level.keyword_precision:.3f}, {time.monotonic() - start:.0f} s"
                )
    return trunk, projection, table


@dataclass(frozen=True, slots=True)
class Level:
    """How well an encoder knows one artist's pictures, one probing view each."""

    top1: float
    top5: float
    #: Mean average precision of the keywords that the network under study has outputs for, and how many reach .5.
    keyword_precision: float
    good_keywords: int
    background: float


@torch.no_grad()
def measure(
    encode: Callable[[Tensor], Tensor],
    vectors: Tensor,
    pictures: Pictures,
    words: Words,
    artist: str,
    side: int = CLIP_SIDE,
) -> Level:
    """Return the level of an encoder (images -> unit vectors) with unit vectors [T + 8, D] of all single texts."""
    rows = np.flatnonzero(pictures.artist == artist)
    generator = torch.Generator().manual_seed(1)
    back = torch.randint(len(BACKGROUNDS), (len(rows),), generator=generator)
    pixels, parts = torch.from_numpy(pictures.pixels), []
    for i in range(0, len(rows), 256):
        views = compose(pixels[rows[i : i + 256]], back[i : i + 256], side, PROBING, generator)
        parts.append(encode(as_input(views)))
    cosines = torch.cat(parts) @ vectors.T
    which = torch.from_numpy(pictures.concept[rows])
    ranked = cosines[:, torch.from_numpy(words.name_row)].topk(min(5, len(words.name_row))).indices
    color = cosines[:, len(words.texts) :].argmax(1) == back
    outputs = len(words.output_words)
    precision = average_precisions(cosines[:, :outputs], torch.from_numpy(words.truth[:outputs, which.numpy()].T))
    return Level(
        top1=round((ranked[:, 0] == which).float().mean().item(), 4),
        top5=round((ranked == which[:, None]).any(1).float().mean().item(), 4),
        keyword_precision=round(precision.nanmean().item(), 4),
        good_keywords=int((precision >= 0.5).sum()),
        background=round(color.float().mean().item(), 4),
    )


def average_precisions(scores: Tensor, truth: Tensor) -> Tensor:
    """Return the average precision of each column of scores [N, C] for truth [N, C]; NaN where nothing is true."""
    order = scores.argsort(0, descending=True)
    hits = truth.gather(0, order).double()
    ranks = torch.arange(1, len(scores) + 1, dtype=torch.float64)[:, None]
    return ((hits.cumsum(0) / ranks * hits).sum(0) / hits.sum(0)).float()
