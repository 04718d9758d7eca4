"""Effects by ablation: how far each logit falls when one neuron alone is set to zero, or to its mean.

A neuron is set at every place that its activation is read from: a channel at all places of its map, a value of the
class token at that token alone, one of the other tokens at all of them. Its mean is over the images of the sample and
over these places. With a linear head this gives the linear effects of the same images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from csp_index.models.layers.replay import Replays
from csp_index.records import LayerKey, Progress
from csp_index.studies.class_sums import ClassSums
from csp_index.studies.effects.image_sample import ImageSample
from csp_index.studies.effects.stored_effects import LayerEffects, by_name, classes_of

_FIRST, _MOST = 16, 1024  # neurons whose effects are kept together
_SECONDS = 60  # that they should take: what an interruption can lose
_NUMBERS = 2**22  # differences of logits in memory at once, about


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a pass without a change showed: of each image of a sample its class, of each neuron what it is set to."""

    ids: np.ndarray  # [B]
    classes: np.ndarray  # [B]
    values: np.ndarray  # [M]
    logits: ClassSums


def look(
    replays: Replays, sample: ImageSample, given: np.ndarray | None, by: Literal["zero", "mean"], tell: Progress
) -> Sampled:
    """Return the class of each image of a sample, `given` by all images [N], else the one of the largest logit."""
    total, ids, classes = torch.zeros(0), list[np.ndarray](), list[np.ndarray]()
    logits = ClassSums(1, replays.logits.classes)
    for some, pixels in sample.batches():
        replay = replays.of(pixels)
        values = replay.logits.cpu()
        own = values.argmax(1).numpy() if given is None else given[some]
        logits.count(own)
        logits.add(values.numpy()[None], own)
        ids.append(some)
        classes.append(own)
        means = replays.opened.pooled(replay.tensor, mean=True).double().cpu().sum(0)
        total = means if not len(total) else total + means
        tell(sum(map(len, ids)), len(sample.ids), "images")
    every = np.concatenate(ids)
    set_to = (total / len(every)).numpy() if by == "mean" else np.zeros(len(total))
    return Sampled(every, np.concatenate(classes), set_to, logits)


def ablated_effects(
    replays: Replays,
    sample: ImageSample,
    found: Sampled,
    neurons: np.ndarray,
    by: Literal["zero", "mean"],
    names: tuple[str | None, ...],
    layer: LayerKey,
    tell: Progress,
) -> Iterator[LayerEffects]:
    """Yield the effects of neurons [m], block by block; the network runs on the sample once for each block."""
    described = classes_of(names, found.logits.counts, found.logits.contrast())
    start, size, done = 0, _FIRST, 0
    while start < len(neurons):
        began, some = time.monotonic(), neurons[start : start + size]
        sums, first = ClassSums(len(some), len(described)), 0
        for _, pixels in sample.batches():
            classes = found.classes[first : first + len(pixels)]
            sums.count(classes)
            replay = replays.of(pixels)
            step = max(1, _NUMBERS // (len(pixels) * len(described)))
            for place in range(0, len(some), step):
                part = some[place : place + step]
                fallen = replay.changed(part.tolist(), found.values[part].tolist())
                sums.add(fallen.cpu().numpy(), classes, place)
                done += len(part) * len(pixels)
                tell(done, len(neurons) * len(found.ids), "neurons x images")
            first += len(pixels)
        contrast = sums.contrast()
        ends = contrast.effect - contrast.half, contrast.effect + contrast.half
        yield LayerEffects(
            layer=layer,
            by=by,
            head=replays.logits.head,
            images=len(found.ids),
            check=None,
            classes=described,
            neurons=some,
            values=found.values[some],
            settings_hash="",
            **by_name((contrast.effect, *ends, contrast.on_class, contrast.elsewhere)),
        )
        start, size = start + size, next_size(size, time.monotonic() - began)


def next_size(size: int, seconds: float) -> int:
    """Return how many neurons the next block has: as many as take about a minute, at most twice as many as before.

    >>> next_size(16, 1.0), next_size(512, 600.0), next_size(1024, 0.0)
    (32, 51, 1024)
    """
    fitting = int(size * _SECONDS / max(seconds, 1e-3))
    return max(1, min(fitting, 2 * size, _MOST))
