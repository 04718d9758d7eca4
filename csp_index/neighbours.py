"""Nearest silent images, found in two ways with one answer.

By products: for many neurons, matrix products over streamed embeddings. By search: for few neurons, LanceDB's vector
search filtered by low activation, which reads the activations of those neurons only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from csp_index import catalog, settings
from csp_index.leaders import Leaders, complete, leaders_wanted, merge_ranked, settle
from csp_index.records import ExampleOptions
from csp_index.store import Store
from csp_index.subjects import Subject

_LIST = 32  # unfiltered neighbours kept with each activating image: most contrastive images are among them
_BLOCK_BYTES = 512 * 2**20  # activations of a block of neurons held at once


@dataclass(frozen=True, slots=True)
class Question:
    """For which activating images [M, K] of which neurons [M] nearest images below the thresholds [M] are wanted."""

    store: Store
    subject: Subject
    activating: torch.Tensor
    thresholds: torch.Tensor
    images: int
    options: ExampleOptions
    device: torch.device

    @property
    def wanted(self) -> int:
        """How many leaders each activating image needs, r."""
        return leaders_wanted(self.activating.shape[1], self.options)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of image ids [I] as [I, D]."""
        return catalog.embeddings_of(self.store, self.subject.source, ids.numpy())

    def settle(self, activations: torch.Tensor, leaders: Leaders) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the chosen ids [M, K, m] and their activations, given those of all images [M, N]."""
        ids = settle(self.activating, leaders, self.options, self.embed)
        picked = activations.gather(1, ids.clamp(min=0).flatten(1)).view(ids.shape)
        return ids, picked.masked_fill(ids < 0, torch.nan)

    def part(self, pick: slice) -> Question:
        """Return the question for some of the neurons."""
        neurons = replace(self.subject, neurons=self.subject.neurons[pick])
        return replace(self, subject=neurons, activating=self.activating[pick], thresholds=self.thresholds[pick])

    def silent(self, activations: torch.Tensor) -> torch.Tensor:
        """Tell which images may be contrastive, given the neurons' activations [M, N]: the silent ones of the pool."""
        low = activations < self.thresholds[:, None]
        return low if self.subject.pool is None else low & self.subject.pool.mask


def by_products(asked: Question) -> tuple[torch.Tensor, torch.Tensor]:
    """Return contrastive ids and activations [M, K, m] by matrix products, a block of neurons at a time."""
    size = max(1, _BLOCK_BYTES // (4 * asked.images))
    marks = catalog.covered(asked.store, asked.subject.target.what, asked.images)
    found = []
    for start in range(0, len(asked.subject.neurons), size):
        part = asked.part(slice(start, start + size))
        tiles = list(catalog.activation_tiles(asked.store, asked.subject.target, marks, part.subject.neurons))
        activations = torch.cat(tiles, 1) if len(tiles) > 1 else tiles[0]
        del tiles
        leaders = _leaders_by_products(part, part.silent(activations))
        found.append(part.settle(activations, leaders))
    return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])


def _leaders_by_products(asked: Question, low: torch.Tensor) -> Leaders:
    """Leaders of each (neuron, activating image) among the images that `low` [M, N] allows.

    One product serves every neuron that an image activates. Its nearest images of any activation are looked up first;
    only where too few of those are silent are all images gone through under the neuron's own mask.
    """
    activating, width = asked.activating, asked.wanted
    present = activating >= 0
    if not bool(present.any()):  # no neuron of the block fires
        return Leaders.empty(*activating.shape, width)
    union, inverse = activating[present].unique(return_inverse=True)
    anchors = asked.embed(union).to(asked.device)
    slot = torch.full(activating.shape, -1, dtype=torch.int64)
    slot[present] = inverse
    lists = Leaders.empty(len(union), min(max(_LIST, 2 * width), asked.images))
    for first, cosines in _cosine_tiles(asked, anchors):
        lists.merge(cosines, first)
    leaders = Leaders.empty(*activating.shape, width)
    _take_silent(leaders, lists, slot, low, asked.options)
    if lists.ids.shape[1] < asked.images:
        reach = lists.cosines[slot.clamp(min=0), -1]
        settled = complete(leaders, reach, activating.shape[1], asked.options)
        _go_through_all(asked, leaders, anchors, slot, low, (present & ~settled).nonzero())
    return leaders


def _take_silent(
    leaders: Leaders, lists: Leaders, slot: torch.Tensor, low: torch.Tensor, options: ExampleOptions
) -> None:
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


def _go_through_all(
    asked: Question, leaders: Leaders, anchors: torch.Tensor, slot: torch.Tensor, low: torch.Tensor, rows: torch.Tensor
) -> None:
    """Fill the leaders of rows [R, 2] (neuron, activating image) from all images under each neuron's mask."""
    if not len(rows):
        return
    neuron, rank = rows[:, 0], rows[:, 1]
    needed, place = slot[neuron, rank].unique(return_inverse=True)
    found = Leaders.empty(len(rows), leaders.ids.shape[-1])
    for first, cosines in _cosine_tiles(asked, anchors[needed]):
        chunk = max(1, settings.number("tile_bytes") // (4 * cosines.shape[1]))
        for start in range(0, len(rows), chunk):
            pick = slice(start, start + chunk)
            values = cosines[place[pick].to(cosines.device)]
            allowed = low[neuron[pick], first : first + cosines.shape[1]].to(values.device)
            allowed &= values <= asked.options.near_duplicate
            part = Leaders(found.ids[pick], found.cosines[pick])
            ids = torch.arange(first, first + values.shape[1], device=values.device)
            merge_ranked(part, values.masked_fill_(~allowed, -torch.inf), ids)
            found.ids[pick], found.cosines[pick] = part.ids, part.cosines
    leaders.ids[neuron, rank], leaders.cosines[neuron, rank] = found.ids, found.cosines


def _cosine_tiles(asked: Question, anchors: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Stream the cosines [U, n] of anchors with all images, each tile within the memory the settings grant."""
    width = max(256, settings.number("tile_bytes") // (4 * max(1, len(anchors))))
    first = 0
    marks = catalog.covered(asked.store, asked.subject.source.what, asked.images)
    for tile in catalog.embedding_tiles(asked.store, asked.subject.source, marks):
        for part in tile.split(width):
            yield first, anchors @ part.to(anchors.device).T
            first += len(part)


def by_search(asked: Question) -> tuple[torch.Tensor, torch.Tensor]:
    """Return contrastive ids and activations [M, K, m] by vector search, neuron by neuron."""
    found = []
    for place in range(len(asked.subject.neurons)):
        part = asked.part(slice(place, place + 1))
        activations = catalog.activations_of(
            asked.store, asked.subject.target, int(part.subject.neurons[0]), asked.images
        )
        leaders = _leaders_by_search(part, part.silent(activations[None])[0])
        found.append(part.settle(activations[None], leaders))
    return torch.cat([ids for ids, _ in found]), torch.cat([values for _, values in found])


def _leaders_by_search(asked: Question, low: torch.Tensor) -> Leaders:
    """Leaders [1, K, r] of one neuron: over-fetched neighbours, and a filtered search where too few are silent."""
    width, images = asked.wanted, asked.images
    leaders = Leaders.empty(*asked.activating.shape, width)
    rows = (asked.activating[0] >= 0).nonzero()[:, 0]
    if not len(rows) or not bool(low.any()):
        return leaders
    anchors = asked.embed(asked.activating[0, rows])
    covered = f"image_id < {images}"
    fetch = min(max(_LIST, width), images)
    found = asked.store.search(asked.subject.source.table, anchors.numpy(), fetch, covered)
    reach = torch.full(asked.activating.shape, -torch.inf)
    reach[0, rows] = _take_found(asked, leaders, rows, anchors, found, low)
    short = ~complete(leaders, reach, asked.activating.shape[1], asked.options)[0, rows]
    if bool(short.any()) and fetch < images:
        _search_silent(asked, leaders, rows[short], anchors[short], low)
    return leaders


def _search_silent(
    asked: Question, leaders: Leaders, rows: torch.Tensor, anchors: torch.Tensor, low: torch.Tensor
) -> None:
    """Fill the leaders of rows by a search among silent images, wider where ties or near duplicates ask for it."""
    where = f"image_id < {asked.images} AND {_silent_filter(low)}"
    silent = int(low.sum())
    limit = min(asked.wanted, silent)
    while len(rows):
        found = asked.store.search(asked.subject.source.table, anchors.numpy(), limit, where)
        reach = torch.full(asked.activating.shape, -torch.inf)
        reach[0, rows] = _take_found(asked, leaders, rows, anchors, found, low)
        if limit == silent:
            return
        short = ~complete(leaders, reach, asked.activating.shape[1], asked.options)[0, rows]
        rows, anchors, limit = rows[short], anchors[short], min(4 * limit, silent)


def _silent_filter(low: torch.Tensor) -> str:
    """The shorter way to name the images of low activation."""
    silent = int(low.sum())
    few = silent <= len(low) // 2
    ids = (low if few else ~low).nonzero()[:, 0].tolist()
    if not ids:
        return "true"
    return f"image_id {'' if few else 'NOT '}IN ({','.join(map(str, ids))})"


def _take_found(
    asked: Question,
    leaders: Leaders,
    rows: torch.Tensor,
    anchors: torch.Tensor,
    found: list[np.ndarray],
    low: torch.Tensor,
) -> torch.Tensor:
    """Put the silent ones among the found images of each row into its leaders, nearest first by recomputed cosine.

    Returns the lowest cosine found for each row, whether silent or not.
    """
    distinct = torch.from_numpy(np.unique(np.concatenate(found)))
    vectors = asked.embed(distinct)
    reach = torch.empty(len(rows))
    for place, row in enumerate(rows.tolist()):
        ids = torch.from_numpy(found[place])
        cosines = vectors[torch.searchsorted(distinct, ids)] @ anchors[place]
        reach[place] = cosines.min()
        cosines, ids = cosines[low[ids]], ids[low[ids]]
        cosines = cosines.masked_fill(cosines > asked.options.near_duplicate, -torch.inf)
        best = Leaders.empty(1, leaders.ids.shape[-1])
        merge_ranked(best, cosines[None], ids)
        leaders.ids[0, row], leaders.cosines[0, row] = best.ids[0], best.cosines[0]
    return reach
