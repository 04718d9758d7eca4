"""Neighbour lists by products: the nearest of all images to each of some, computed a tile at a time on all threads.

And the nearest silent images of neurons, as far as such lists have enough of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from csp_index import settings
from csp_index.contrast.embeddings import Embeddings, cosines_of, free_bytes, give_back
from csp_index.contrast.exact_ranking import CosineError, Ranked, is_on_card
from csp_index.contrast.neighbour_lists import KEPT, NeighbourLists, store_lists, stored_lists
from csp_index.errors import SettingError
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import spread

if TYPE_CHECKING:
    from csp_index.contrast.nearest import Leaders, NearestQuery

CANDIDATES = 2**18  # decided on at once
_LISTS_BYTES = 24 * 2**20  # of neighbour lists, whatever the activation, in one batch
_LONGEST, _FIRST = 512, (16, 64)  # entries of such a list, and of the parts that are tried first
_PER_LEADER = 8  # entries for each leader: of 8 near images, one leaves a neuron silent that the image activates
_CARD_BYTES, _CARD_SHARE = 2**31, 16  # of similarities on a card at once, and at most this part of its free memory


def lists_of(query: NearestQuery, union: torch.Tensor) -> list[NeighbourLists]:
    """Return lists of the nearest images of the images `union` [U], whatever their activation.

    Stored lists are reused; missing ones, and those too short for the leaders that are needed, are computed only if
    the neurons share enough images.
    """
    lists = stored_lists(query.store, query.selection.source, query.images, union)
    long = min(max(KEPT, min(_LONGEST, _PER_LEADER * query.leader_count)), query.images)
    missing = torch.ones(len(union), dtype=torch.bool)
    for some in lists:
        if some.ranked.ids.shape[1] >= long:  # of a shorter one too few images may be silent
            missing &= some.missing
    shared = int((query.activating >= 0).sum()) > 2 * len(union)
    if shared and bool(missing.any()):
        lacking = union[missing]
        width = min(max(long, 2 * query.leader_count, min(_LONGEST, _LISTS_BYTES // (12 * len(lacking)))), query.images)
        ranked, error = computed_lists(query.vectors, lacking, width, query.device, query.check)
        place = torch.full(union.shape, -1, dtype=torch.int64)
        place[missing] = torch.arange(len(ranked.ids))
        lists.insert(0, NeighbourLists(place, ranked, error))
        if query.keep:
            kept = Ranked(ranked.ids[:, :long], ranked.cosines[:, :long])
            store_lists(query.store, query.selection.source, query.images, lacking, kept, error)
    return lists


def from_lists(
    query: NearestQuery,
    leaders: Leaders,
    rows: torch.Tensor,
    lists: NeighbourLists,
    slot: torch.Tensor,
    low: torch.Tensor,
) -> torch.Tensor:
    """Fill the leaders of rows [R, 2] (neuron, activating image) from neighbour lists; return the rows left over."""
    ranked, choice = lists.ranked, query.choice(lists.error)
    listed = ~lists.missing[slot[rows[:, 0], rows[:, 1]]]
    rows, others = rows[listed], rows[~listed]
    longest = ranked.ids.shape[1]
    for width in dict.fromkeys((*(min(max(first, 2 * query.leader_count), longest) for first in _FIRST), longest)):
        left = []
        for part in rows.split(max(1, CANDIDATES // width)):
            neuron, rank = part[:, 0], part[:, 1]
            places = lists.place[slot[neuron, rank]]
            head = Ranked(ranked.ids[places, :width], ranked.cosines[places, :width])
            allowed = low[neuron[:, None], head.ids.clamp(min=0)]
            best, settled = choice.decide(query.activating[neuron, rank], head, allowed)
            leaders.fill(neuron[settled], rank[settled], best, settled)
            left.append(part[~settled])
        rows = torch.cat(left) if left else rows
    return torch.cat([rows, others])


def computed_lists(
    vectors: Embeddings, image_ids: torch.Tensor, width: int, device: torch.device, check: Callable[[], None]
) -> tuple[Ranked, CosineError]:
    """Return the `width` nearest images of the images [U], whatever their activation, and the error of their cosines.

    `check` is called for every tile; it raises to end the work.
    """
    dtype = vectors.dtype(device, len(image_ids))
    anchors = vectors.of(image_ids).to(device, dtype)
    lists = Ranked.empty(len(image_ids), width, device)
    for first, tile in vectors.screen(device, dtype):
        check()
        threads = torch.get_num_threads() if device.type == "cpu" else 1
        size = max(1, rows_of_tile(tile) // threads)
        products = _Products(anchors, tile, size)

        def merge(pick: slice, products: _Products = products, first: int = first) -> None:
            lists.merge(pick, products.of(pick), first)

        picks = [slice(start, start + size) for start in range(0, len(image_ids), size)]
        if device.type == "cpu":
            spread(merge, picks)
        else:
            for pick in picks:
                merge(pick)
    give_back()
    return lists.on_cpu(), vectors.error(dtype)


def rows_of_tile(tile: torch.Tensor) -> int:
    """Return how many rows of similarities with a tile [n, D] fit in the memory that the settings allow.

    On a card a part of its free memory is allowed too: it is idle while the CPU prepares many small products.
    """
    granted, row = settings.TILE_BYTES.value(), len(tile) * tile.element_size()
    if is_on_card(tile):
        granted = max(granted, min(_CARD_BYTES, free_bytes(tile.device) // _CARD_SHARE))
    if granted < row:
        raise SettingError(f"tile_bytes is {granted}: expected at least {row}, one row of similarities; set it higher")
    return granted // row


class _Products:
    """Products of some anchors with a tile; each thread writes its own into the same memory again and again."""

    def __init__(self, anchors: torch.Tensor, tile: torch.Tensor, size: int) -> None:
        self._anchors, self._tile, self._size = anchors, tile, size
        self._of_thread = threading.local()

    def of(self, pick: slice) -> torch.Tensor:
        """Return the products of the picked anchors, at most `size`; valid until the thread asks for others."""
        made = getattr(self._of_thread, "made", None)
        if made is None:
            made = self._of_thread.made = self._anchors.new_empty(self._size, len(self._tile))
        anchors = self._anchors[pick]
        return cosines_of(anchors, self._tile, made[: len(anchors)])
