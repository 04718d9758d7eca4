"""Activating and contrastive images of neurons: which images excite a neuron, and which look alike but leave it silent.

Two ways to a nearest contrastive set give one answer: matrix products over streamed embeddings (many neurons), and vector search
filtered by low activation (few neurons). Both end in the same exact re-ranking, so near ties fall the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from csp_index import catalog, schema, settings
from csp_index.catalog import EncoderInfo, LayerInfo
from csp_index.errors import SettingError
from csp_index.records import ExampleOptions
from csp_index.statistics import mix
from csp_index.store import Store

_LIST = 32  # unfiltered neighbours kept with each activating image: most contrastive images are among them
_SPARE = 8  # leaders beyond those asked for, re-ranked exactly where they nearly tie
_NOISE = 4e-6  # cosines in float32 closer than this may stand in the wrong order
_BLOCK_BYTES = 512 * 2**20  # activations of a block of neurons held at once


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

    @property
    def dead(self) -> torch.Tensor:
        """Which neurons [M] have no activating image at all."""
        return (self.activating < 0).all(1)

    @property
    def without_contrast(self) -> torch.Tensor:
        """Which neurons [M] have no contrastive image at all."""
        return (self.contrastive < 0).flatten(1).all(1)


def gather_examples(
    store: Store,
    source: EncoderInfo,
    target: LayerInfo,
    neurons: np.ndarray,
    options: ExampleOptions,
    *,
    contrast: bool = True,
    search: bool | None = None,
    device: str = "cpu",
) -> Examples:
    """Return the example sets of the given neurons (sorted); `contrast=False` leaves the contrastive sets empty.

    `search` chooses vector search over matrix products; by default few neurons go by search.
    """
    rows = catalog.neuron_rows(store, target, neurons.tolist())
    found = activating_sets(rows, options)
    if not contrast:
        return found
    if options.contrast == "random":
        ids, activations = _random(store, target, found, options)
    else:
        if search is None:
            search = len(neurons) <= settings.number("search_neurons")
        ids, activations = (_search if search else _products)(store, source, target, found, options, torch.device(device))
    similarities = pair_similarities(store, source, found.activating, ids)
    low = similarities < options.min_similarity
    return replace(
        found,
        contrastive=ids.masked_fill(low, -1),
        contrast_activations=activations.masked_fill(low, torch.nan),
        similarities=similarities.masked_fill(low, torch.nan),
    )


def activating_sets(rows: pa.Table, options: ExampleOptions) -> Examples:
    """Return the activating sets read from the neurons' stored top lists, without contrastive sets."""
    count = rows.num_rows
    images = int(rows["images"][0].as_py())
    ids = _matrix(rows, "top_images", np.int64)
    values = _matrix(rows, "top_activations", np.float32)
    kept = ids.shape[1]
    if options.examples > kept and kept < images:
        raise SettingError(f"examples is {options.examples}: expected at most {kept}, the top images kept with each neuron")
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
        return torch.from_numpy(rows["mean"].to_numpy().astype(np.float32))
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if name == "quantile" and number in schema.QUANTILES:
        return _matrix(rows, "quantiles", np.float32)[:, schema.QUANTILES.index(number)]
    if name == "max" and 0.0 < number <= 1.0:
        return torch.from_numpy(rows["max"].to_numpy().astype(np.float32)) * number
    stored = ", ".join(map(str, schema.QUANTILES))
    raise SettingError(f"threshold {kind!r} is unknown: write mean, max:F with 0 < F <= 1, or quantile:Q with Q of {stored}")


def pair_similarities(store: Store, source: EncoderInfo, activating: torch.Tensor, contrastive: torch.Tensor) -> torch.Tensor:
    """Return the cosine of every pair [M, K, m], NaN where there is none; summed in float64, one way for all callers."""
    result = torch.full(contrastive.shape, torch.nan)
    place = (contrastive >= 0).nonzero()
    left = activating[place[:, 0], place[:, 1]]
    right = contrastive[contrastive >= 0]
    distinct, inverse = torch.cat([left, right]).unique(return_inverse=True)
    vectors = catalog.embeddings_of(store, source, distinct.numpy())
    result[contrastive >= 0] = _cosines(vectors, inverse[: len(left)], inverse[len(left) :]).float()
    return result


def _cosines(vectors: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    parts = [
        (vectors[a].double() * vectors[b].double()).sum(1) for a, b in zip(left.split(16384), right.split(16384), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


@dataclass(slots=True)
class Leaders:
    """The best r candidates of each (neuron, activating image) so far: ids [.., r] (-1 absent), cosines [.., r]."""

    ids: torch.Tensor
    cosines: torch.Tensor

    @classmethod
    def empty(cls, *shape: int) -> Leaders:
        """Return leaders without a candidate."""
        return cls(torch.full(shape, -1, dtype=torch.int64), torch.full(shape, -torch.inf))

    def merge(self, cosines: torch.Tensor, first_image: int) -> None:
        """Take in a tile's cosines [.., n], -inf where the image is no candidate."""
        width = self.ids.shape[-1]
        best = cosines.topk(min(width, cosines.shape[-1]), dim=-1)
        ids = (best.indices + first_image).cpu().masked_fill(best.values.cpu() == -torch.inf, -1)
        joined = torch.cat([self.cosines, best.values.cpu()], -1)
        chosen = joined.topk(width, dim=-1)
        self.ids = torch.cat([self.ids, ids], -1).gather(-1, chosen.indices)
        self.cosines = chosen.values


def _products(
    store: Store, source: EncoderInfo, target: LayerInfo, found: Examples, options: ExampleOptions, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive ids and activations by matrix products, a block of neurons at a time."""
    size = max(1, _BLOCK_BYTES // (4 * found.images))
    blocks = []
    for start in range(0, len(found.neurons), size):
        pick = slice(start, start + size)
        neurons, activating = found.neurons[pick], found.activating[pick]
        marks = catalog.covered(store, target.what, found.images)
        held = list(catalog.activation_tiles(store, target, marks, neurons.numpy()))
        activations = torch.cat(held, 1) if len(held) > 1 else held[0]
        del held
        low = activations < found.thresholds[pick, None]
        leaders = _nearest_by_products(store, source, found.images, activating, low, options, device)
        ids = _settle(store, source, activating, leaders, options)
        blocks.append((ids, _pick_activations(activations, ids)))
    return torch.cat([ids for ids, _ in blocks]), torch.cat([values for _, values in blocks])


def _nearest_by_products(
    store: Store,
    source: EncoderInfo,
    images: int,
    activating: torch.Tensor,
    low: torch.Tensor,
    options: ExampleOptions,
    device: torch.device,
) -> Leaders:
    """Leaders of each (neuron, activating image) among the images that `low` [M, N] allows.

    One product serves every neuron that an image activates. Its nearest images of any activation are looked up first; only where
    too few of those are silent are all images gone through under the neuron's own mask.
    """
    present = activating >= 0
    union, inverse = activating[present].unique(return_inverse=True)
    anchors = catalog.embeddings_of(store, source, union.numpy()).to(device)
    slot = torch.full(activating.shape, -1, dtype=torch.int64)
    slot[present] = inverse
    width = _leaders_wanted(activating, options)
    lists = Leaders.empty(len(union), min(max(_LIST, width), images))
    for first, cosines in _cosine_tiles(store, source, images, anchors):
        lists.merge(cosines, first)
    leaders = Leaders.empty(*activating.shape, width)
    _take_silent(leaders, lists, slot, low, options)
    enough = (leaders.ids >= 0).sum(-1) >= min(width, images)
    open_rows = (present & ~enough).nonzero() if lists.ids.shape[1] < images else torch.zeros(0, 2, dtype=torch.int64)
    if len(open_rows):
        rest = Leaders.empty(len(open_rows), width)
        chunk = max(1, settings.number("tile_bytes") // (4 * 2048))
        needed, where = slot[open_rows[:, 0], open_rows[:, 1]].unique(return_inverse=True)
        for first, cosines in _cosine_tiles(store, source, images, anchors[needed]):
            for start in range(0, len(open_rows), chunk):
                part = slice(start, start + chunk)
                _merge_masked(rest, part, cosines, where[part], low[:, first : first + cosines.shape[1]], open_rows[part, 0], first, options)
        leaders.ids[open_rows[:, 0], open_rows[:, 1]] = rest.ids
        leaders.cosines[open_rows[:, 0], open_rows[:, 1]] = rest.cosines
    return leaders


def _merge_masked(
    rest: Leaders,
    part: slice,
    cosines: torch.Tensor,
    rows: torch.Tensor,
    low: torch.Tensor,
    neurons: torch.Tensor,
    first: int,
    options: ExampleOptions,
) -> None:
    values = cosines[rows.to(cosines.device)]
    allowed = low[neurons].to(values.device)
    if options.near_duplicate <= 1.0:
        allowed &= values <= options.near_duplicate
    sub = Leaders(rest.ids[part], rest.cosines[part])
    sub.merge(values.masked_fill_(~allowed, -torch.inf), first)
    rest.ids[part], rest.cosines[part] = sub.ids, sub.cosines


def _take_silent(leaders: Leaders, lists: Leaders, slot: torch.Tensor, low: torch.Tensor, options: ExampleOptions) -> None:
    """Fill leaders [M, K, r] with the first silent images of each activating image's neighbour list."""
    width = leaders.ids.shape[-1]
    for neuron in range(0, len(slot), 256):
        pick = slice(neuron, neuron + 256)
        ids = lists.ids[slot[pick].clamp(min=0)]
        cosines = lists.cosines[slot[pick].clamp(min=0)]
        owner = torch.arange(len(slot))[pick, None, None].expand(ids.shape)
        accepted = low[owner, ids.clamp(min=0)] & (ids >= 0) & (slot[pick] >= 0)[..., None]
        accepted &= cosines <= options.near_duplicate
        order = (~accepted).to(torch.uint8).sort(dim=-1, stable=True).indices[..., :width]
        got = accepted.gather(-1, order)
        count = order.shape[-1]
        leaders.ids[pick, :, :count] = ids.gather(-1, order).masked_fill(~got, -1)
        leaders.cosines[pick, :, :count] = cosines.gather(-1, order).masked_fill(~got, -torch.inf)


def _cosine_tiles(store: Store, source: EncoderInfo, images: int, anchors: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Stream the cosines [U, n] of anchors with all images, each tile within the memory the settings grant."""
    width = max(256, settings.number("tile_bytes") // (4 * max(1, len(anchors))))
    first = 0
    for tile in catalog.embedding_tiles(store, source, catalog.covered(store, source.what, images)):
        for part in tile.split(width):
            yield first, anchors @ part.to(anchors.device).T
            first += len(part)


def _search(
    store: Store, source: EncoderInfo, target: LayerInfo, found: Examples, options: ExampleOptions, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive ids and activations by vector search, neuron by neuron; reads the activations of those neurons only."""
    blocks = []
    for place in range(len(found.neurons)):
        values = catalog.activations_of(store, target, int(found.neurons[place]), found.images)
        low = values < found.thresholds[place]
        activating = found.activating[place : place + 1]
        leaders = _nearest_by_search(store, source, activating, low, options)
        ids = _settle(store, source, activating, leaders, options)
        blocks.append((ids, _pick_activations(values[None], ids)))
    return torch.cat([ids for ids, _ in blocks]), torch.cat([values for _, values in blocks])


def _nearest_by_search(
    store: Store, source: EncoderInfo, activating: torch.Tensor, low: torch.Tensor, options: ExampleOptions
) -> Leaders:
    """Leaders [1, K, r] of one neuron: over-fetched neighbours first, a filtered search where too few of them are silent."""
    images = len(low)
    width = _leaders_wanted(activating, options)
    leaders = Leaders.empty(*activating.shape, width)
    rows = (activating[0] >= 0).nonzero()[:, 0]
    if not len(rows) or not bool(low.any()):
        return leaders
    anchors = catalog.embeddings_of(store, source, activating[0, rows].numpy())
    covered = f"image_id < {images}"
    fetch = min(max(_LIST, width), images)
    found = store.search(source.table, anchors.numpy(), fetch, covered)
    _take_found(store, source, leaders, rows, anchors, found, low, options)
    open_rows = rows[(leaders.ids[0, rows] >= 0).sum(-1) < width]
    if len(open_rows) and fetch < images:
        anchors = anchors[torch.isin(rows, open_rows)]
        where = f"{covered} AND {_silent_filter(low)}"
        limit = min(images, width if options.near_duplicate > 1.0 else width + 64)
        _take_found(store, source, leaders, open_rows, anchors, store.search(source.table, anchors.numpy(), limit, where), low, options)
    return leaders


def _silent_filter(low: torch.Tensor) -> str:
    """The shorter way to name the images of low activation."""
    silent = int(low.sum())
    few = silent <= len(low) // 2
    ids = (low if few else ~low).nonzero()[:, 0].tolist()
    if not ids:
        return "true"
    return f"image_id {'' if few else 'NOT '}IN ({','.join(map(str, ids))})"


def _take_found(
    store: Store,
    source: EncoderInfo,
    leaders: Leaders,
    rows: torch.Tensor,
    anchors: torch.Tensor,
    found: list[np.ndarray],
    low: torch.Tensor,
    options: ExampleOptions,
) -> None:
    """Put the silent ones among the found images of each row into its leaders, nearest first by recomputed cosine."""
    distinct = np.unique(np.concatenate(found))
    vectors = catalog.embeddings_of(store, source, distinct)
    for place, row in enumerate(rows.tolist()):
        ids = torch.from_numpy(found[place])
        ids = ids[low[ids]]
        cosines = vectors[torch.from_numpy(np.searchsorted(distinct, ids.numpy()))] @ anchors[place]
        cosines = cosines.masked_fill(cosines > options.near_duplicate, -torch.inf)
        best = Leaders.empty(leaders.ids.shape[-1])
        if len(ids):
            best.merge(cosines, 0)
            best.ids = torch.where(best.ids >= 0, ids[best.ids.clamp(min=0)], -1)
        leaders.ids[0, row], leaders.cosines[0, row] = best.ids, best.cosines


def _leaders_wanted(activating: torch.Tensor, options: ExampleOptions) -> int:
    needed = options.neighbours if options.reuse else options.neighbours * activating.shape[1]
    return needed + _SPARE


def _settle(store: Store, source: EncoderInfo, activating: torch.Tensor, leaders: Leaders, options: ExampleOptions) -> torch.Tensor:
    """Choose the contrastive ids [M, K, m] from leaders: near ties re-ranked exactly, equal cosines by lower id."""
    wanted = options.neighbours
    gaps = leaders.cosines[..., :-1] - leaders.cosines[..., 1:]
    gaps = gaps.masked_fill(leaders.ids[..., 1:] < 0, torch.inf)
    reach = wanted if options.reuse else gaps.shape[-1]
    rows = (gaps[..., :reach] < _NOISE).any(-1).nonzero()
    if len(rows):
        pick = (rows[:, 0], rows[:, 1])
        ids = leaders.ids[pick]
        exact = pair_similarities_exact(store, source, activating[pick], ids)
        by_id = ids.sort(-1)
        order = exact.gather(-1, by_id.indices).sort(dim=-1, descending=True, stable=True)
        leaders.ids[pick] = by_id.values.gather(-1, order.indices)
    if options.reuse:
        return leaders.ids[..., :wanted].clone()
    return _without_reuse(leaders.ids, wanted)


def pair_similarities_exact(store: Store, source: EncoderInfo, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the float64 cosines of images left [R] with images right [R, r], -inf where right is -1."""
    distinct, inverse = torch.cat([left, right.clamp(min=0).flatten()]).unique(return_inverse=True)
    vectors = catalog.embeddings_of(store, source, distinct.numpy())
    first = inverse[: len(left)].repeat_interleave(right.shape[1])
    return _cosines(vectors, first, inverse[len(left) :]).view(right.shape).masked_fill(right < 0, -torch.inf)


def _without_reuse(ids: torch.Tensor, wanted: int) -> torch.Tensor:
    """Choose greedily in rank order so that no image serves a neuron twice, all neurons at once."""
    count, ranks, _ = ids.shape
    chosen = torch.full((count, ranks * wanted), -1, dtype=torch.int64)
    for step in range(ranks * wanted):
        options = ids[:, step // wanted]
        used = (options[:, :, None] == chosen[:, None, :step]).any(-1) | (options < 0)
        first = (~used).to(torch.uint8).argmax(1)
        chosen[:, step] = options.gather(1, first[:, None])[:, 0].masked_fill(used.all(1), -1)
    return chosen.view(count, ranks, wanted)


def _random(store: Store, target: LayerInfo, found: Examples, options: ExampleOptions) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw distinct random images of low activation for every neuron: those of highest seeded hash."""
    count, ranks = found.activating.shape
    wanted = ranks * options.neighbours
    best = torch.full((count, wanted), -1, dtype=torch.int64)
    ids = torch.full((count, wanted), -1, dtype=torch.int64)
    values = torch.full((count, wanted), torch.nan)
    first = 0
    for tile in catalog.activation_tiles(store, target, catalog.covered(store, target.what, found.images), found.neurons.numpy()):
        images = torch.arange(first, first + tile.shape[1])
        priority = mix(images + (found.neurons[:, None] << 32), options.seed).masked_fill(tile >= found.thresholds[:, None], -1)
        joined = torch.cat([best, priority], 1).topk(wanted, dim=1)
        ids = torch.cat([ids, images.expand(count, -1)], 1).gather(1, joined.indices)
        values = torch.cat([values, tile], 1).gather(1, joined.indices)
        best = joined.values
        first += tile.shape[1]
    absent = (best < 0) | (found.activating < 0).repeat_interleave(options.neighbours, 1)
    shape = (count, ranks, options.neighbours)
    return ids.masked_fill(absent, -1).view(shape), values.masked_fill(absent, torch.nan).view(shape)


def _pick_activations(activations: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    picked = activations.gather(1, ids.clamp(min=0).flatten(1)).view(ids.shape)
    return picked.masked_fill(ids < 0, torch.nan)


def _matrix(rows: pa.Table, column: str, dtype: type) -> torch.Tensor:
    values = rows[column].combine_chunks()
    return torch.from_numpy(values.flatten().to_numpy(zero_copy_only=False).astype(dtype).reshape(rows.num_rows, -1))
