"""Neighbour lists by products: the nearest of all images to each of some, computed a tile at a time on all threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

from csp_index import settings
from csp_index.contrast.embeddings import Embeddings, cosines_of, free_bytes, give_back
from csp_index.contrast.exact_ranking import CosineError, Ranked, is_on_card
from csp_index.errors import SettingError
from csp_index.tensors.library import torch
from csp_index.torch_threads import spread

_CARD_BYTES, _CARD_SHARE = 2**31, 16  # of similarities on a card at once, and at most this part of its free memory


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
