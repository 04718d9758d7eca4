"""How well a label fits its neuron's activating images, and no other images: what a sure label needs besides stability.

The fit is the chance that an activating image is nearer to the label than a random image that activates the neuron
little. A neuron of a network that has learned nothing has a label that comes first in most resamples nearly as often as
not, for some text must come first; but it fits other images almost as well. The threshold was chosen on the biased set
of the demo (seed 0) and seven untrained or redrawn networks: `scripts/nulls/sure_labels.py` measures it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from csp_index.concurrency import go_on
from csp_index.contrast.selection import Selection
from csp_index.labelling.evidence import Evidence
from csp_index.ordering import seeded_sample
from csp_index.store import catalog
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.arrays import fetch_tiles
from csp_index.tensors import library
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import spread

LEAST_FIT = 0.98
"""The least fit of a sure label."""
_IMAGES, _SHARDS = 1000, 8  # of the sample, at most
_FEWEST = 20  # images that activate a neuron little; with fewer there is no fit
_SEED = 1 << 42  # makes the draw differ from others
_BLOCK = 2048  # neurons whose activations are read at once
_COMPARED = 256  # neurons whose labels are compared with the sample at once


@dataclass(frozen=True, slots=True)
class Sample:
    """R images drawn at random: their embeddings [R, D], the shards they lie in, and their places [R] in these."""

    embeddings: torch.Tensor
    shards: tuple[catalog.Shard, ...]
    places: np.ndarray


def read_sample(store: Store, selection: Selection) -> Sample:
    """Return a random sample of the images that the selection's statistics cover, from eight shards at most.

    It is the same for all neurons of the layer, and read once: a label asked for alone reads its neuron's rows only.
    """
    images = selection.images(store)
    key = "sampled images", selection.target.what
    variant = images, library.name()
    return store.memo(selection.source.table, key, lambda: _sample(store, selection), variant=variant)


def _sample(store: Store, selection: Selection) -> Sample:
    marks = catalog.covered(store, selection.target.what, selection.images(store))
    few = np.unique(np.linspace(0, len(marks) - 1, _SHARDS).round().astype(np.int64))
    shards = tuple(marks[place] for place in few.tolist())
    ids = np.concatenate([np.arange(mark.first_image, mark.first_image + mark.rows) for mark in shards])
    places = np.sort(seeded_sample(torch.from_numpy(ids), _IMAGES, _SEED).numpy())
    return Sample(streams.embeddings_of(store, selection.source, ids[places]), shards, places)


def sampled_activations(store: Store, selection: Selection, sample: Sample) -> torch.Tensor:
    """Return the activations [M, R] of the selection's neurons on a sample."""
    blocks = []
    for start in range(0, len(selection.neurons), _BLOCK):
        neurons, first, parts = selection.neurons[start : start + _BLOCK], 0, []
        for tile in fetch_tiles(store, selection.target, sample.shards, neurons):
            inside = (sample.places >= first) & (sample.places < first + tile.shape[1])
            parts.append(tile[:, sample.places[inside] - first])
            first += tile.shape[1]
        blocks.append(np.concatenate(parts, axis=1))
    return torch.from_numpy(np.concatenate(blocks))


def label_fit(
    evidence: Evidence,
    labels: torch.Tensor,
    means: torch.Tensor,
    sample: Sample,
    sampled: torch.Tensor,
    check: Callable[[], None] = go_on,
) -> torch.Tensor:
    """Return the fit [M] in [0, 1] of labels with embeddings [M, D]; 0.5 is chance, NaN where too few images differ.

    A sampled image counts if its activation lies below the middle between the neuron's mean (`means` [M]) and that of
    its activating images; equal nearness counts one half.
    """
    fits = torch.empty(len(labels))

    def add(start: int) -> None:
        check()
        rows = slice(start, start + _COMPARED)
        present = evidence.activating[rows] >= 0
        count = present.sum(1)
        top = (evidence.activations[rows] * present).sum(1) / count.clamp(min=1)
        other = sampled[rows] < ((means[rows] + top) / 2)[:, None]
        near = labels[rows] @ sample.embeddings.T
        ordered = near.masked_fill(~other, torch.inf).sort(dim=1).values
        images = evidence.vectors[evidence.activating[rows].clamp(min=0)]
        own = (images @ labels[rows][:, :, None])[..., 0].contiguous()
        ends = [torch.searchsorted(ordered, own, right=right) for right in (False, True)]
        others = other.sum(1)
        beaten = (ends[0] + ends[1]).float() / 2 / others.clamp(min=1)[:, None]
        fit = (beaten * present).sum(1) / count.clamp(min=1)
        fits[rows] = fit.masked_fill((count == 0) | (others < _FEWEST), torch.nan)

    spread(add, range(0, len(labels), _COMPARED))
    return fits


def fit_notes(fit: torch.Tensor) -> list[str]:
    """Return why labels of this fit [M] are not sure, "" where they may be."""
    return [
        f"its label fits other images nearly as well ({value:.2f} of pairs in order, {LEAST_FIT} expected)"
        if value < LEAST_FIT
        else ""
        for value in fit.tolist()
    ]
