"""Train the network under study: sigmoid outputs for the most frequent keywords and the backgrounds.

Its own seed, trunk and views; a head of names helps the hidden layer to tell emoji apart and is thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from picture_models import HIDDEN, NETWORK_SIDE, StudiedNetwork
from picture_packages import Pictures
from picture_views import BACKGROUNDS, PROBING, TRAINING, as_input, compose
from picture_words import Words
from torch import nn
from torch.nn import functional
from train_clip import average_precisions, batches
from training import Training

RATE: Final = 4e-3


@dataclass(frozen=True, slots=True)
class NetworkSteps:
    """Steps at rising resolution: pixels and steps of each part."""

    parts: tuple[tuple[int, int], ...] = ((32, 500), (NETWORK_SIDE, 200))
    batch: int = 192


def train_network(
    pictures: Pictures, words: Words, held_out: str, seed: int, steps: NetworkSteps, say: Callable[[str], None]
) -> StudiedNetwork:
    """Return the trained network, in evaluation mode."""
    torch.manual_seed(10_000 + seed)
    rng = np.random.default_rng(10_000 + seed)
    generator = torch.Generator().manual_seed(10_000 + seed)
    outputs = len(words.output_words)
    network = StudiedNetwork(outputs + len(BACKGROUNDS)).to(memory_format=torch.channels_last)
    names = nn.Linear(HIDDEN, words.truth.shape[1])
    pixels, concept = torch.from_numpy(pictures.pixels), torch.from_numpy(pictures.concept)
    truth = torch.from_numpy(words.truth[:outputs].T).float()
    seen = np.flatnonzero((pictures.concept >= 0) & (pictures.artist != held_out))
    total = sum(count for _, count in steps.parts)
    shares = torch.cat((truth.mean(0), torch.full((len(BACKGROUNDS),), 1 / len(BACKGROUNDS))))
    last = network.outputs[0]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():  # a rare keyword starts as a rare keyword
        last.bias.copy_(shares.logit())
    heads = [*network.outputs.parameters(), *names.parameters()]
    training = Training((network.layers, network.hidden), heads, RATE, total)
    some = min(pictures.artist[seen].tolist())
    start, step = time.monotonic(), 0
    for side, count in steps.parts:
        for chosen in batches(seen, steps.batch, count, rng):
            back = torch.randint(len(BACKGROUNDS), (len(chosen),), generator=generator)
            hidden = network.features(as_input(compose(pixels[chosen], back, side, TRAINING, generator)))
            which = concept[chosen]
            wanted = torch.cat((truth[which], functional.one_hot(back, len(BACKGROUNDS)).float()), dim=1)
            logits = network.outputs[0](hidden)
            loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(chosen)
            helped = functional.cross_entropy(names(hidden), which, label_smoothing=0.1)
            training.step(loss + 0.5 * helped)
            step += 1
            if step % 100 == 0 or step == total:
                network.eval()
                marks = [measure_network(network, pictures, words, artist, side) for artist in (some, held_out)]
                network.train()
                say(
                    f"network, seed {seed}: {step} of {total} at {side} px, loss {loss.item():.2f}, "
                    f"{'; '.join(marks)}, {time.monotonic() - start:.0f} s"
                )
    return network.eval()


@torch.no_grad()
def measure_network(
    network: StudiedNetwork, pictures: Pictures, words: Words, artist: str, side: int = NETWORK_SIDE
) -> str:
    """Return in words how well the outputs rank one artist's pictures."""
    rows = np.flatnonzero(pictures.artist == artist)
    generator = torch.Generator().manual_seed(2)
    back = torch.randint(len(BACKGROUNDS), (len(rows),), generator=generator)
    pixels = torch.from_numpy(pictures.pixels)
    parts = []
    for i in range(0, len(rows), 256):
        views = compose(pixels[rows[i : i + 256]], back[i : i + 256], side, PROBING, generator)
        parts.append(network(as_input(views)))
    outputs = len(words.output_words)
    truth = torch.from_numpy(words.truth[:outputs, pictures.concept[rows]].T)
    precision = average_precisions(torch.cat(parts)[:, :outputs], truth)
    return f"{artist}: mAP {precision.nanmean():.3f}, {int((precision >= 0.5).sum())} of {outputs} outputs >= .5"
