"""Activating images of neurons, and contrastive ones: images that look alike but leave the neuron silent."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from csp_index.concurrency import checked
from csp_index.contrast.context import ComputeContext, DerivedRequest
from csp_index.contrast.embeddings import Embeddings, all_embeddings
from csp_index.contrast.exact_ranking import EXACT, FinalChoice, exact_cosines, nearest
from csp_index.contrast.exact_ranking import choose as choose_leaders
from csp_index.contrast.falcon import KEPT, similar_silent
from csp_index.contrast.nearest import NearestQuery, by_products, by_search
from csp_index.contrast.planner import choose
from csp_index.contrast.quality import ContrastQuality, quality_of_arrays, similarity_floor
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError, SettingError
from csp_index.ordering import mix, rank_keys
from csp_index.records import ContrastKind, DerivedKind, ExampleOptions
from csp_index.store import catalog, schema
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.derived_images import find_derived
from csp_index.tensors import library
from csp_index.tensors.library import torch

_OF_MADE = ("image_id", "origin", "activation")  # columns of the table of derived images


@dataclass(frozen=True, slots=True)
class Examples:
    """The example sets of M neurons: K activating images each, m contrastive images for each of those.

    Absent entries are -1 in the ids (never an image), 0 in `activations`, NaN in the other values. `images` is N.
    """

    neurons: torch.Tensor  # [M] int64
    activating: torch.Tensor  # [M, K] int64, highest activation first, ties by lower id
    activations: torch.Tensor  # [M, K]
    contrastive: torch.Tensor  # [M, K, m] int64, the nearest of each kind first
    contrast_activations: torch.Tensor  # [M, K, m]
    similarities: torch.Tensor  # [M, K, m] cosine of the pair
    thresholds: torch.Tensor  # [M] an image is a candidate below this
    images: int
    approximate: bool = False  # the contrastive images come from a search through a vector index
    kinds: tuple[ContrastKind, ...] = ()  # of contrastive images: each has an equal share of the m, in this order
    near_duplicates: torch.Tensor | None = None  # [M] partners dropped as the same picture; None without the filter
    uncropped: torch.Tensor | None = None  # [M] activating images that stay whole: lost pictures; None without crops
    whole_partners: torch.Tensor | None = None  # [M] contrastive images of cropped ones that stay whole; as uncropped

    @property
    def of_each_kind(self) -> int:
        """The number of contrastive images of each kind."""
        return self.contrastive.shape[2] // max(1, len(self.kinds))

    @property
    def dead(self) -> torch.Tensor:
        """Which neurons [M] have no activating image."""
        return (self.activating < 0).all(1)

    @property
    def without_contrast(self) -> torch.Tensor:
        """Which neurons [M] have no contrastive image."""
        return (self.contrastive < 0).flatten(1).all(1)


def gather_examples(
    store: Store,
    selection: Selection,
    options: ExampleOptions,
    *,
    contrast: bool = True,
    context: ComputeContext | None = None,
    activating: Examples | None = None,
    compared: int | None = None,
) -> Examples:
    """Return the example sets of the selected neurons; `contrast=False` leaves the contrastive sets empty.

    Missing derived images are made here, by `context.derive`. A caller that has read the activating sets passes them
    as `activating`. With `compared` the similarities of so many pairs of an activating image and a kind are computed:
    those of the others are NaN, unless the options need them.
    """
    context = context or ComputeContext()
    examples = activating_examples(store, selection, options) if activating is None else activating
    if not contrast:
        context.tell("contrastive images: none, the method does not use any")
        return examples
    kinds = checked(options.kinds, context.check)
    parts = [_MAKERS[kind](store, selection, examples, options, context) for kind in kinds]
    if not options.reuse:
        parts = _distinct(parts)
    ids = torch.cat([part.ids for part in parts], 2)
    some = ids
    if compared is not None and options.min_similarity <= -1 and "random" not in options.kinds:
        some = ids.clone()
        some[..., torch.arange(ids.shape[2]) % options.neighbours >= compared] = -1
    similarities = pair_similarities(
        all_embeddings(store, selection.source, examples.images), examples.activating, some
    )
    low = similarities < options.min_similarity
    if "random" in options.kinds:  # the other kinds dropped near duplicates when they selected
        place = options.kinds.index("random") * options.neighbours
        drawn = slice(place, place + options.neighbours)
        low[..., drawn] |= similarities[..., drawn] > options.near_duplicate
    return replace(
        examples,
        contrastive=ids.masked_fill(low, -1),
        contrast_activations=torch.cat([part.activations for part in parts], 2).masked_fill(low, torch.nan),
        similarities=similarities.masked_fill(low, torch.nan),
        approximate=any(part.approximate for part in parts),
        kinds=options.kinds,
        near_duplicates=_sum([part.near_duplicates for part in parts if part.near_duplicates is not None]),
    )


def _sum(counts: Sequence[torch.Tensor]) -> torch.Tensor | None:
    return torch.stack(list(counts)).sum(0) if counts else None


def with_plan(
    store: Store, selection: Selection, activating: Examples, options: ExampleOptions, context: ComputeContext
) -> ComputeContext:
    """Return the context with its search plan made, if nearest silent images are requested."""
    if "nearest" not in options.kinds:
        return context
    return replace(context, plan=choose(_query(store, selection, activating, options, context), context.search))


@dataclass(frozen=True, slots=True)
class _Partners:
    """Partners of one kind for activating images [M, K]: ids [M, K, m] (-1 absent) and their activations."""

    ids: torch.Tensor
    activations: torch.Tensor
    approximate: bool = False
    near_duplicates: torch.Tensor | None = None  # [M] partners dropped as the same picture; None without the filter


def _distinct(parts: Sequence[_Partners]) -> list[_Partners]:
    """Drop partners that an earlier kind gave to the same neuron; within a kind they are distinct already."""
    distinct = [parts[0]]
    for part in parts[1:]:
        used = torch.zeros(part.ids.shape, dtype=torch.bool)
        for neuron in range(len(used)):
            used[neuron] = torch.isin(part.ids[neuron], torch.cat([other.ids[neuron].flatten() for other in distinct]))
        ids, activations = part.ids.masked_fill(used, -1), part.activations.masked_fill(used, torch.nan)
        distinct.append(replace(part, ids=ids, activations=activations))
    return distinct


def _nearest(
    store: Store, selection: Selection, examples: Examples, options: ExampleOptions, context: ComputeContext
) -> _Partners:
    """Return the nearest silent images of each activating one."""
    query = _query(store, selection, examples, options, context)
    plan = context.plan or choose(query, context.search)
    context.tell(f"contrastive images: {plan.reason}")
    find = by_search if plan.search else by_products
    images = find(query)
    dropped = images.near_duplicates if options.near_duplicate < 1.0 else None
    return _Partners(images.ids, images.activations, plan.approximate, dropped)


def _falcon(
    store: Store, selection: Selection, examples: Examples, options: ExampleOptions, context: ComputeContext
) -> _Partners:
    """Return the nearest of FALCON's ten images to each activating one, by the encoder; each may serve several."""
    context.tell("contrastive images: silent ones near the mean activating one in the layer's own space (falcon)")
    ten = similar_silent(store, selection, examples.activating, examples.thresholds, examples.images, context.check)
    neuron, rank = (examples.activating >= 0).nonzero(as_tuple=True)
    vectors = all_embeddings(store, selection.source, examples.images)
    choice = FinalChoice(max(options.neighbours, KEPT), EXACT, options.near_duplicate, vectors.gather)
    leaders = torch.full((*examples.activating.shape, choice.leader_count), -1, dtype=torch.int64)
    leaders[neuron, rank] = nearest(examples.activating[neuron, rank], ten.ids[neuron], choice).ids
    ids = choose_leaders(leaders, options)
    return _Partners(ids, ten.activations_of(ids))


def _made(
    kind: DerivedKind,
    store: Store,
    selection: Selection,
    examples: Examples,
    options: ExampleOptions,
    context: ComputeContext,
) -> _Partners:
    """Return the derived images of each activating one that leave the neuron silent, most similar first."""
    if kind not in context.derive:
        raise LabelError(f"contrast {kind} makes images, which is not possible here: use `csp-index label`")
    request = DerivedRequest(
        selection,
        examples.activating,
        examples.activations,
        examples.thresholds,
        examples.images,
        options,
        context.keep,
        context.run_id,
    )
    rows = find_derived(
        store, selection.source, selection.target, selection.neurons.tolist(), kind, context.derive[kind](request)
    )
    context.tell(f"contrastive images: derived ones ({kind})")
    # An edit is near its original by design; a generated image may repeat it.
    limit = math.inf if kind == "perturbation" else options.near_duplicate
    return _placed(rows, all_embeddings(store, selection.source, examples.images), examples, options.neighbours, limit)


def _placed(rows: pa.Table, vectors: Embeddings, examples: Examples, neighbours: int, limit: float) -> _Partners:
    """Return rows of derived images as partners of the activating images they come from, most similar first.

    Rows are left out if they do not leave the neuron silent, come from other images, or have a cosine above `limit`.
    """
    made, origin, value = (torch.from_numpy(rows[name].to_numpy().copy()) for name in _OF_MADE)
    owner = torch.searchsorted(examples.neurons, torch.from_numpy(rows["neuron"].to_numpy().astype(np.int64)))
    same = examples.activating[owner] == origin[:, None]
    usable = same.any(1) & (value < examples.thresholds[owner])
    made, origin, value, owner = made[usable], origin[usable], value[usable], owner[usable]
    slot = owner * same.shape[1] + same[usable].to(torch.uint8).argmax(1)
    cosines = pair_similarities(vectors, origin[:, None], made[:, None, None]).flatten()
    same_picture = cosines > limit
    dropped = owner[same_picture].bincount(minlength=len(examples.neurons))
    made, cosines, slot, value = (part[~same_picture] for part in (made, cosines, slot, value))
    order = rank_keys(cosines, torch.arange(len(made))).argsort(descending=True)
    order = order[slot[order].argsort(stable=True)]
    slot = slot[order]
    place = torch.arange(len(slot)) - torch.searchsorted(slot, slot)
    first = place < neighbours
    shape = (*examples.activating.shape, neighbours)
    ids, activations = torch.full(shape, -1, dtype=torch.int64), torch.full(shape, torch.nan)
    ids.view(-1, neighbours)[slot[first], place[first]] = made[order][first]
    activations.view(-1, neighbours)[slot[first], place[first]] = value[order][first]
    return _Partners(ids, activations, near_duplicates=dropped)


def _query(
    store: Store, selection: Selection, examples: Examples, options: ExampleOptions, context: ComputeContext
) -> NearestQuery:
    vectors = all_embeddings(store, selection.source, examples.images)
    return NearestQuery(
        store,
        selection,
        vectors,
        examples.activating,
        examples.thresholds,
        examples.images,
        options,
        _device(context.device),
        context.check,
        context.keep,
    )


def _device(name: str) -> torch.device:
    """Return the device of products. By NumPy there is one alone, and who asks for another does not come here."""
    if library.name() == "numpy":
        return torch.device("cpu")
    from csp_index.models.weights import device_name  # loads torch

    return torch.device(device_name(name))


def activating_examples(store: Store, selection: Selection, options: ExampleOptions) -> Examples:
    """Return the activating sets of the selected neurons, without contrastive sets."""
    return replace(activating_sets(selection.statistics(store), options), images=selection.images(store))


def activating_sets(rows: pa.Table, options: ExampleOptions) -> Examples:
    """Return the activating sets in the neurons' stored top lists, without contrastive sets."""
    count = rows.num_rows
    images = int(rows["images"][0].as_py())
    ids = _matrix(rows, "top_images", np.int64)
    values = _matrix(rows, "top_activations", np.float32)
    stored = ids.shape[1]
    if options.examples > stored and stored < images:
        raise SettingError(
            f"examples is {options.examples}: expected at most {stored}, the top images stored with each neuron"
        )
    width = min(options.examples, stored)
    ids, values = ids[:, :width], values[:, :width]
    silent = ~(values > options.floor)
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
        # Rounded up: a float32 activation is below the rounded mean exactly if it is below the mean.
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


def pair_similarities(vectors: Embeddings, activating: torch.Tensor, contrastive: torch.Tensor) -> torch.Tensor:
    """Return the cosine of every pair [M, K, m], NaN without a pair; summed in float64, equal for all callers."""
    cosines = exact_cosines(activating.flatten(), contrastive.flatten(0, 1), vectors.gather).view(contrastive.shape)
    return cosines.masked_fill(contrastive < 0, torch.nan).float()


def _random(
    store: Store, selection: Selection, examples: Examples, options: ExampleOptions, context: ComputeContext
) -> _Partners:
    """Draw distinct random images of low activation for every neuron: those of highest seeded hash."""
    context.tell("contrastive images: random ones of low activation")
    count, ranks = examples.activating.shape
    count_each = ranks * options.neighbours
    best = torch.full((count, count_each), -1, dtype=torch.int64)
    ids = torch.full((count, count_each), -1, dtype=torch.int64)
    values = torch.full((count, count_each), torch.nan)
    first = 0
    marks = catalog.covered(store, selection.target.what, examples.images)
    for tile in checked(streams.activation_tiles(store, selection.target, marks, selection.neurons), context.check):
        images = torch.arange(first, first + tile.shape[1])
        barred = tile >= examples.thresholds[:, None]
        if selection.pool is not None:
            barred |= ~selection.pool.mask[images]
        priority = mix(images + (examples.neurons[:, None] << 32), options.seed).masked_fill(barred, -1)
        joined = torch.cat([best, priority], 1).topk(count_each, dim=1)
        ids = torch.cat([ids, images.expand(count, -1)], 1).gather(1, joined.indices)
        values = torch.cat([values, tile], 1).gather(1, joined.indices)
        best = joined.values
        first += tile.shape[1]
    owners = examples.activating.repeat_interleave(options.neighbours, 1)
    absent = (best < 0) | (owners < 0) | (ids == owners)
    shape = (count, ranks, options.neighbours)
    return _Partners(ids.masked_fill(absent, -1).view(shape), values.masked_fill(absent, torch.nan).view(shape))


def _matrix(rows: pa.Table, column: str, dtype: type) -> torch.Tensor:
    values = rows[column].combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).astype(dtype).reshape(rows.num_rows, -1))


_Maker = Callable[[Store, Selection, Examples, ExampleOptions, ComputeContext], _Partners]
_MAKERS: dict[ContrastKind, _Maker] = {
    "nearest": _nearest,
    "falcon": _falcon,
    "perturbation": partial(_made, "perturbation"),
    "synthetic": partial(_made, "synthetic"),
    "random": _random,
}


def quality_of(examples: Examples, floor: float | None = None) -> ContrastQuality:
    """Return the quality of example sets; `floor` is a cosine (default: the setting similarity_floor)."""
    first = slice(None, None, examples.of_each_kind)
    return quality_of_arrays(
        (examples.activating >= 0).sum(1).numpy(),
        examples.activations.numpy()[..., None],
        (examples.contrastive[..., first] >= 0).numpy(),
        examples.contrast_activations[..., first].numpy(),
        examples.similarities[..., first].numpy(),
        None if examples.near_duplicates is None else examples.near_duplicates.numpy(),
        similarity_floor(floor),
    )
