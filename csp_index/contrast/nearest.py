"""Nearest silent images, found in two ways with one answer.

By products: matrix products over all embeddings, in memory or streamed, screened in low precision if that is faster.
By search: LanceDB's vector search, filtered by low activation. Both read only the activations of the selected neurons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, fields, replace

import numpy as np

from csp_index.concurrency import go_on
from csp_index.contrast.embeddings import Embeddings, cosines_of, give_back
from csp_index.contrast.exact_ranking import (
    EXACT,
    CosineError,
    FinalChoice,
    Nearest,
    Ranked,
    choose,
    exact_cosines,
    leaders_needed,
    nearest,
)
from csp_index.contrast.list_products import CANDIDATES, from_lists, lists_of, rows_of_tile
from csp_index.contrast.selection import Selection
from csp_index.records import ExampleOptions
from csp_index.store import catalog
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import one_thread

_FETCH, _WIDER = 32, 4  # unfiltered neighbours that a vector search asks for first, and how many times as many next
_FETCH_MOST, _FETCH_SHARE = 512, 512  # of them at most, one in so many images: a filter by many ids takes seconds
_SPARE = 24  # candidates beyond those needed: they may be near enough to the last one to be compared again
_BLOCK_BYTES = 32 * 2**20  # activations of a block of neurons; the next is read while one is processed
_WAITING_BYTES = 128 * 2**20  # masks of neurons that wait for a pass over embeddings that are not in memory


@dataclass(frozen=True, slots=True)
class NearestQuery:
    """Asks for the nearest images below the thresholds [M] to activating images [M, K] of the selected neurons [M]."""

    store: Store
    selection: Selection
    vectors: Embeddings
    activating: torch.Tensor
    thresholds: torch.Tensor
    images: int
    options: ExampleOptions
    device: torch.device
    check: Callable[[], None] = go_on  # called for every tile and block; raises to end the work
    keep: bool = False  # store neighbour lists for later questions; the caller has the write lock

    @property
    def leader_count(self) -> int:
        """The number r of leaders that each activating image needs."""
        return leaders_needed(self.activating.shape[1], self.options)

    def choice(self, error: CosineError) -> FinalChoice:
        """Return the rule that decides on candidates with rough cosines."""
        return FinalChoice(self.leader_count, error, self.options.near_duplicate, self.vectors.gather)

    def part(self, pick: slice | np.ndarray) -> NearestQuery:
        """Return the query for some of the neurons."""
        neurons = replace(self.selection, neurons=self.selection.neurons[pick])
        return replace(self, selection=neurons, activating=self.activating[pick], thresholds=self.thresholds[pick])

    def activations(self) -> torch.Tensor:
        """Return the neurons' activations [M, N]."""
        activations = torch.empty(len(self.selection.neurons), self.images)
        marks = catalog.covered(self.store, self.selection.target.what, self.images)
        first = 0
        for tile in streams.activation_tiles(self.store, self.selection.target, marks, self.selection.neurons):
            activations[:, first : first + tile.shape[1]] = tile
            first += tile.shape[1]
        return activations

    def silent(self, activations: torch.Tensor) -> torch.Tensor:
        """Return which images may be contrastive, given activations [M, N]: the silent ones of the pool."""
        low = activations < self.thresholds[:, None]
        return low if self.selection.pool is None else low & self.selection.pool.mask

    def no_leaders(self) -> Leaders:
        """Return leaders to fill."""
        shape = self.activating.shape
        ids = torch.full((*shape, self.leader_count), -1, dtype=torch.int64)
        return Leaders(ids, torch.zeros(shape, dtype=torch.bool))

    def answer(self, leaders: Leaders, activations: torch.Tensor) -> NearestSilent:
        """Return the selected images, given the leaders and all activations [M, N]."""
        ids = choose(leaders.ids, self.options)
        picked = activations.gather(1, ids.clamp(min=0).flatten(1)).view(ids.shape)
        return NearestSilent(ids, picked.masked_fill(ids < 0, torch.nan), leaders.near_duplicate.sum(1))


@dataclass(frozen=True, slots=True)
class Leaders:
    """The nearest silent images of each activating one, to select from, and whether it has a silent near duplicate."""

    ids: torch.Tensor  # [M, K, r]
    near_duplicate: torch.Tensor  # [M, K]

    def fill(self, neuron: torch.Tensor | int, rank: torch.Tensor, best: Nearest, rows: torch.Tensor) -> None:
        """Set the leaders of activating images (neuron, rank) to those rows of the nearest."""
        self.ids[neuron, rank] = best.ids[rows]
        self.near_duplicate[neuron, rank] = best.near_duplicate[rows]


@dataclass(frozen=True, slots=True)
class NearestSilent:
    """Selected images with their activations [M, K, m], and how many activating images have a near duplicate, [M]."""

    ids: torch.Tensor
    activations: torch.Tensor
    near_duplicates: torch.Tensor  # silent ones count, whether or not the options leave them out

    @classmethod
    def joined(cls, parts: Sequence[NearestSilent]) -> NearestSilent:
        """Return the selections of several blocks of neurons as one."""
        names = [part.name for part in fields(cls)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


def by_products(query: NearestQuery) -> NearestSilent:
    """Return the nearest silent images by matrix products, a block of neurons at a time.

    An image that excites many neurons is compared with all others once, and its neighbours are put in a list. A neuron
    searches by itself only if too few images of the list are silent, or if few neurons share images.
    """
    union, slot = _distinct(query.activating)
    size = max(1, _BLOCK_BYTES // (4 * query.images))
    picks = [slice(start, start + size) for start in range(0, len(query.selection.neurons), size)]
    parts = []
    waiting = _Waiting(query, size)
    with ThreadPoolExecutor(1) as reader:
        lists = lists_of(query, union)
        unlisted = not lists or bool(torch.stack([some.missing for some in lists]).all(0).any())
        overlapping = len(picks) > 1 or unlisted  # there is work to do meanwhile
        following = _Block(query.part(picks[0]), reader if overlapping else None)
        for place, pick in enumerate(picks):
            query.check()
            block = following
            if place + 1 < len(picks):
                following = _Block(query.part(picks[place + 1]), reader)
            part, leaders = block.part, block.part.no_leaders()
            rows = (part.activating >= 0).nonzero()
            with one_thread():  # another one reads the next block
                for some in lists:
                    rows = from_lists(part, leaders, rows, some, slot[pick], block.low)
            if query.vectors.holds or len(picks) == 1:
                _from_all(block, leaders, rows)
            else:
                waiting.add(block, leaders, rows, pick.start)
            parts.append(part.answer(leaders, block.activations))
            if len(picks) > 1:
                give_back()
    return waiting.put_into(NearestSilent.joined(parts))


class _Block:
    """A block of neurons; with a reader, their activations are already being read."""

    # No cached_property: up to Python 3.11 all objects share its lock, and queries would wait for each other.

    def __init__(self, part: NearestQuery, reader: ThreadPoolExecutor | None) -> None:
        self.part = part
        self._coming = None if reader is None else reader.submit(copy_context().run, part.activations)
        self._activations: torch.Tensor | None = None
        self._low: torch.Tensor | None = None

    @property
    def activations(self) -> torch.Tensor:
        """The activations [M, N]."""
        if self._activations is None:
            self._activations = self.part.activations() if self._coming is None else self._coming.result()
        return self._activations

    @property
    def low(self) -> torch.Tensor:
        """Which images may be contrastive, [M, N]."""
        if self._low is None:
            self._low = self.part.silent(self.activations)
        return self._low

    @low.setter
    def low(self, mask: torch.Tensor) -> None:
        self._low = mask


class _Waiting:
    """Neurons with activating images whose lists did not do: they share passes over embeddings read from the store."""

    def __init__(self, query: NearestQuery, size: int) -> None:
        """Start without a neuron; the activations of `size` of them are in memory at once."""
        self._query, self._size = query, size
        self._blocks: list[tuple[np.ndarray, torch.Tensor, Leaders, torch.Tensor]] = []
        self._bytes = 0
        self._answers: list[tuple[np.ndarray, NearestSilent]] = []

    def add(self, block: _Block, leaders: Leaders, rows: torch.Tensor, first: int) -> None:
        """Add the rows [R, 2] (neuron, activating image) of a block whose first neuron has the place `first`."""
        neurons, row = rows[:, 0].unique(return_inverse=True)
        if not len(neurons):
            return
        own = Leaders(leaders.ids[neurons], leaders.near_duplicate[neurons])
        rows = torch.stack([row, rows[:, 1]], 1)
        self._blocks.append((first + neurons.numpy(), block.low[neurons], own, rows))
        self._bytes += len(neurons) * self._query.images
        if self._bytes > _WAITING_BYTES:
            self._search()

    def put_into(self, answer: NearestSilent) -> NearestSilent:
        """Return the answer of all neurons with those that waited in their places."""
        self._search()
        for places, own in self._answers:
            for part in fields(answer):
                getattr(answer, part.name)[places] = getattr(own, part.name)
        return answer

    def _search(self) -> None:
        if not self._blocks:
            return
        places, low, leaders, rows = zip(*self._blocks, strict=True)
        starts = np.cumsum([0, *map(len, places)])
        every = np.concatenate(places)
        block = _Block(self._query.part(every), None)
        block.low = torch.cat(low)
        found = Leaders(*(torch.cat([getattr(one, part.name) for one in leaders]) for part in fields(Leaders)))
        first = torch.cat([torch.full((len(some), 1), start) for some, start in zip(rows, starts, strict=False)])
        rows = torch.cat(rows)
        rows[:, :1] += first
        _from_all(block, found, rows)
        for start in range(0, len(every), self._size):
            pick = slice(start, start + self._size)
            part = block.part.part(pick)
            own = Leaders(found.ids[pick], found.near_duplicate[pick])
            self._answers.append((every[pick], part.answer(own, part.activations())))
        self._blocks, self._bytes = [], 0


def _distinct(activating: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the distinct activating images [U], and the place of each [M, K] among them (-1 absent)."""
    present = activating >= 0
    union, inverse = activating[present].unique(return_inverse=True)
    slot = torch.full(activating.shape, -1, dtype=torch.int64)
    slot[present] = inverse
    return union, slot


def _from_all(block: _Block, leaders: Leaders, rows: torch.Tensor) -> None:
    """Fill the leaders of rows [R, 2] (neuron, activating image) from all images under each neuron's own mask."""
    if not len(rows):
        return
    vectors, part = block.part.vectors, block.part
    width = min(part.leader_count + _SPARE, part.images)
    dtype = vectors.dtype(part.device, len(rows))
    rows = _sweep(block, leaders, rows, width, dtype)
    if dtype != torch.float32:
        rows = _sweep(block, leaders, rows, width, torch.float32)
    if len(rows):
        block.low = _without_copies(part, rows, block.low)
    while len(rows):
        rows = _sweep(block, leaders, rows, width, torch.float32)
        width = min(8 * width, part.images)


def _without_copies(query: NearestQuery, rows: torch.Tensor, low: torch.Tensor) -> torch.Tensor:
    """Return the mask [M, N] with at most r + 1 silent images of equal embedding: r, and one that asks for itself."""
    digests = query.vectors.digests()
    low = low.clone()
    for neuron in rows[:, 0].unique().tolist():
        silent = low[neuron].nonzero()[:, 0]
        order = digests[silent].argsort(stable=True)
        ordered = digests[silent][order]
        begins = torch.cat([torch.ones(1, dtype=torch.bool), ordered[1:] != ordered[:-1]])
        place = torch.arange(len(ordered))
        first = torch.where(begins, place, 0).cummax(0).values
        low[neuron, silent[order[place - first > query.leader_count]]] = False
    return low


def _sweep(block: _Block, leaders: Leaders, rows: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Fill the leaders of rows from the `width` nearest silent images of each; return the rows left over."""
    if not len(rows):
        return rows
    anchors = block.part.activating[rows[:, 0], rows[:, 1]]
    rows = rows[anchors.argsort(stable=True)]  # so that the similarities of each image are computed once
    parts = rows.split(max(1, CANDIDATES // width))
    return torch.cat([_searched(block, leaders, some, width, dtype) for some in parts])


def _searched(block: _Block, leaders: Leaders, rows: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Fill the leaders of some rows, all at once; return the rows left over."""
    query = block.part
    neuron = rows[:, 0]
    owners = query.activating[neuron, rows[:, 1]]
    ranked = Ranked.empty(len(rows), width, query.device)
    distinct, place = owners.unique(return_inverse=True)
    anchors = query.vectors.of(distinct).to(query.device, dtype)
    for first, tile in query.vectors.screen(query.device, dtype):
        query.check()
        size = max(1, rows_of_tile(tile) // 2)  # the similarities, and those under the mask
        low = block.low[:, first : first + len(tile)].to(query.device)
        for start in range(0, len(rows), size):
            pick = slice(start, start + size)
            used, inverse = place[pick].unique(return_inverse=True)
            cosines = cosines_of(anchors[used.to(anchors.device)], tile)
            if len(used) < len(inverse):
                cosines = cosines[inverse.to(cosines.device)]
            ranked.merge(pick, _masked(cosines, low, neuron[pick]), first)
    ranked = ranked.on_cpu()
    best, settled = query.choice(query.vectors.error(dtype)).decide(owners, ranked, ranked.ids >= 0)
    leaders.fill(neuron[settled], rows[settled, 1], best, settled)
    return rows[~settled]


def _masked(cosines: torch.Tensor, low: torch.Tensor, neuron: torch.Tensor) -> torch.Tensor:
    """Put -inf where an image [n] is not silent for the neuron of its row [R], given cosines [R, n] and low [M, n].

    Cosines and mask are on one device; the neurons are on the CPU, so that looking at them does not wait for a card.
    """
    if len(neuron) and bool((neuron == neuron[0]).all()):  # one mask for all rows: adding it is fastest
        bar = cosines.new_zeros(low.shape[1]).masked_fill_(~low[int(neuron[0])], -torch.inf)
        return cosines.add_(bar)
    return cosines.masked_fill_(~low[neuron.to(low.device)], -torch.inf)


def by_search(query: NearestQuery) -> NearestSilent:
    """Return the nearest silent images by vector search, neuron by neuron."""
    parts = []
    for place in range(len(query.selection.neurons)):
        query.check()
        part = query.part(slice(place, place + 1))
        activations = part.activations()
        leaders = part.no_leaders()
        _search_one(part, leaders, part.silent(activations)[0])
        parts.append(part.answer(leaders, activations))
    return NearestSilent.joined(parts)


def _search_one(query: NearestQuery, leaders: Leaders, low: torch.Tensor) -> None:
    """Fill the leaders [1, K, r] of one neuron: over-fetched neighbours, then a search among silent images alone.

    The second search widens if ties or near duplicates require it.
    """
    ranks = (query.activating[0] >= 0).nonzero()[:, 0]
    silent = int(low.sum())
    if not silent:
        return
    where, limit = f"image_id < {query.images}", min(max(_FETCH, query.leader_count), query.images)
    most = max(limit, min(_FETCH_MOST, query.images // _FETCH_SHARE))
    while len(ranks) and limit <= most:
        query.check()
        ranks = _take_neighbours(query, leaders, ranks, low, where, limit)
        limit *= _WIDER
    where, limit = f"{where} AND {_silent_filter(low)}", min(query.leader_count + 8, silent)
    while len(ranks):
        query.check()
        left = _take_neighbours(query, leaders, ranks, low, where, limit)
        ranks, limit = (left, min(_WIDER * limit, silent)) if limit < silent else (left[:0], limit)


def _take_neighbours(
    query: NearestQuery, leaders: Leaders, ranks: torch.Tensor, low: torch.Tensor, where: str, limit: int
) -> torch.Tensor:
    """Fill the leaders of one neuron's activating images `ranks` from a vector search; return the ranks left over."""
    if not len(ranks):
        return ranks
    owners = query.activating[0, ranks]
    neighbours = query.store.search(query.selection.source.table, query.vectors.of(owners).numpy(), limit, where)
    ids = torch.full((len(ranks), limit), -1, dtype=torch.int64)
    for place, row in enumerate(neighbours):
        ids[place, : len(row)] = torch.from_numpy(row)
    choice = query.choice(EXACT)
    silent = ids.masked_fill(~low[ids.clamp(min=0)], -1)
    best = nearest(owners, silent, choice)
    leaders.fill(0, ranks, best, torch.ones(len(ranks), dtype=torch.bool))
    exact = exact_cosines(owners, ids, choice.gather)
    reach = exact.masked_fill(ids < 0, torch.inf).amin(1)
    last = exact_cosines(owners, best.ids[:, -1:], choice.gather)[:, 0]
    return ranks[(last - reach <= EXACT.absolute) & (reach < torch.inf)]


def _silent_filter(low: torch.Tensor) -> str:
    """Return the shorter SQL condition for the images of low activation."""
    silent = int(low.sum())
    few = silent <= len(low) // 2
    ids = (low if few else ~low).nonzero()[:, 0].tolist()
    if not ids:
        return "true"
    return f"image_id {'' if few else 'NOT '}IN ({','.join(map(str, ids))})"
