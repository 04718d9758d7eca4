"""Activating and contrastive images of neurons: those that excite it, and those that look alike but leave it silent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from csp_index import catalog, schema, tiles
from csp_index.costs import Means, choose
from csp_index.errors import SettingError
from csp_index.leaders import exact_cosines
from csp_index.neighbours import Question, by_products, by_search
from csp_index.records import ExampleOptions
from csp_index.statistics import mix
from csp_index.store import Store
from csp_index.subjects import Subject
from csp_index.vectors import Vectors, vectors_of


@dataclass(frozen=True, slots=True)
class Examples:
    """The example sets of M neurons: K activating images each, m contrastive images for each of those.

    Absent entries are -1 in the ids (never an image), 0 in `activations`, NaN in the other values. `images` is N.
    """

    neurons: torch.Tensor  # [M] int64
    activating: torch.Tensor  # [M, K] int64, highest activation first, ties by lower id
    activations: torch.Tensor  # [M, K]
    contrastive: torch.Tensor  # [M, K, m] int64, nearest first
    contrast_activations: torch.Tensor  # [M, K, m]
    similarities: torch.Tensor  # [M, K, m] cosine of the pair
    thresholds: torch.Tensor  # [M] an image is a candidate below this
    images: int
    approximate: bool = False  # the contrastive images were found through a vector index

    @property
    def dead(self) -> torch.Tensor:
        """Which neurons [M] have no activating image at all."""
        return (self.activating < 0).all(1)

    @property
    def without_contrast(self) -> torch.Tensor:
        """Which neurons [M] have no contrastive image at all."""
        return (self.contrastive < 0).flatten(1).all(1)


def gather_examples(
    store: Store, subject: Subject, options: ExampleOptions, *, contrast: bool = True, means: Means | None = None
) -> Examples:
    """Return the example sets of the subject's neurons; `contrast=False` leaves the contrastive sets empty."""
    means = means or Means()
    found = replace(activating_sets(subject.statistics(store), options), images=subject.images(store))
    if not contrast:
        means.tell("contrastive images: none, the method does not look at any")
        return found
    if options.contrast == "random":
        means.tell("contrastive images: random ones of low activation")
        ids, activations = _random(store, subject, found, options)
        choice = None
    else:
        asked = _question(store, subject, found, options, means)
        choice = means.choice or choose(asked, means.search)
        means.tell(f"contrastive images: {choice.reason}")
        ids, activations = by_search(asked) if choice.search else by_products(asked)
    similarities = pair_similarities(vectors_of(store, subject.source, found.images), found.activating, ids)
    low = similarities < options.min_similarity
    return replace(
        found,
        contrastive=ids.masked_fill(low, -1),
        contrast_activations=activations.masked_fill(low, torch.nan),
        similarities=similarities.masked_fill(low, torch.nan),
        approximate=choice is not None and choice.approximate,
    )


def settle_means(store: Store, subject: Subject, options: ExampleOptions, means: Means) -> Means:
    """Return the means with the choice of a way to contrastive images made, where there is one."""
    if options.contrast == "random":
        return means
    found = replace(activating_sets(subject.statistics(store), options), images=subject.images(store))
    return replace(means, choice=choose(_question(store, subject, found, options, means), means.search))


def _question(store: Store, subject: Subject, found: Examples, options: ExampleOptions, means: Means) -> Question:
    device = torch.device(means.device)
    vectors = vectors_of(store, subject.source, found.images)
    return Question(
        store, subject, vectors, found.activating, found.thresholds, found.images, options, device, means.keep
    )


def activating_sets(rows: pa.Table, options: ExampleOptions) -> Examples:
    """Return the activating sets read from the neurons' stored top lists, without contrastive sets."""
    count = rows.num_rows
    images = int(rows["images"][0].as_py())
    ids = _matrix(rows, "top_images", np.int64)
    values = _matrix(rows, "top_activations", np.float32)
    kept = ids.shape[1]
    if options.examples > kept and kept < images:
        raise SettingError(
            f"examples is {options.examples}: expected at most {kept}, the top images kept with each neuron"
        )
    width = min(options.examples, kept)
    ids, values = ids[:, :width], values[:, :width]
    silent = ~(values > max(options.floor, 0.0))
    empty = torch.full((count, width, options.neighbours), torch.nan)
    return Examples(
        torch.from_numpy(rows["neuron"].to_numpy().astype(np.int64)),
        ids.masked_fill(silent, -1),
        values.masked_fill(silent, 0.0),
        torch.full(empty.shape, -1, dtype=torch.int64),
        empty,
        empty,
        thresholds(rows, options.threshold),
        images,
    )


def thresholds(rows: pa.Table, kind: str) -> torch.Tensor:
    """Return each neuron's low-activation threshold [M]: `mean`, `quantile:Q` or `max:F`."""
    name, _, text = kind.partition(":")
    if name == "mean" and not text:
        means = rows["mean"].to_numpy()
        rounded = means.astype(np.float32)
        # Rounded up, so that a float32 activation is below the rounded mean exactly where it is below the mean.
        return torch.from_numpy(np.where(rounded < means, np.nextafter(rounded, np.float32(np.inf)), rounded))
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if name == "quantile" and number in schema.QUANTILES:
        return _matrix(rows, "quantiles", np.float32)[:, schema.QUANTILES.index(number)]
    if name == "max" and 0.0 < number <= 1.0:
        return torch.from_numpy(rows["max"].to_numpy().astype(np.float32)) * number
    stored = ", ".join(map(str, schema.QUANTILES))
    raise SettingError(
        f"threshold {kind!r} is unknown: write mean, max:F with 0 < F <= 1, or quantile:Q with Q of {stored}"
    )


def pair_similarities(vectors: Vectors, activating: torch.Tensor, contrastive: torch.Tensor) -> torch.Tensor:
    """Return the cosine of every pair [M, K, m], NaN where there is none; summed in float64, alike for all callers."""
    found = exact_cosines(activating.flatten(), contrastive.flatten(0, 1), vectors.gather).view(contrastive.shape)
    return found.masked_fill(contrastive < 0, torch.nan).float()


def _random(
    store: Store, subject: Subject, found: Examples, options: ExampleOptions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw distinct random images of low activation for every neuron: those of highest seeded hash."""
    count, ranks = found.activating.shape
    wanted = ranks * options.neighbours
    best = torch.full((count, wanted), -1, dtype=torch.int64)
    ids = torch.full((count, wanted), -1, dtype=torch.int64)
    values = torch.full((count, wanted), torch.nan)
    first = 0
    marks = catalog.covered(store, subject.target.what, found.images)
    for tile in tiles.activation_tiles(store, subject.target, marks, subject.neurons):
        images = torch.arange(first, first + tile.shape[1])
        barred = tile >= found.thresholds[:, None]
        if subject.pool is not None:
            barred |= ~subject.pool.mask[images]
        priority = mix(images + (found.neurons[:, None] << 32), options.seed).masked_fill(barred, -1)
        joined = torch.cat([best, priority], 1).topk(wanted, dim=1)
        ids = torch.cat([ids, images.expand(count, -1)], 1).gather(1, joined.indices)
        values = torch.cat([values, tile], 1).gather(1, joined.indices)
        best = joined.values
        first += tile.shape[1]
    absent = (best < 0) | (found.activating < 0).repeat_interleave(options.neighbours, 1)
    shape = (count, ranks, options.neighbours)
    return ids.masked_fill(absent, -1).view(shape), values.masked_fill(absent, torch.nan).view(shape)


def _matrix(rows: pa.Table, column: str, dtype: type) -> torch.Tensor:
    values = rows[column].combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).astype(dtype).reshape(rows.num_rows, -1))
