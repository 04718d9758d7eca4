"""All embeddings of an encoder: in memory if the settings allow it, else streamed from the store.

They stay in memory between questions until the table changes.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache, partial

import numpy as np

from csp_index import settings
from csp_index.contrast import neighbour_lists
from csp_index.contrast.exact_ranking import EXACT, CosineError, Embed
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.derived_images import is_derived
from csp_index.store.values.streams import embeddings_of_derived
from csp_index.tensors import library
from csp_index.tensors.library import torch

_MEMO = "embeddings"
_ROWS = 65_536  # images of a tile, at most
_LAST_BYTES = 8 * 2**20  # of rows that stay in memory for the next step
_STREAMED_BYTES = 64 * 2**20  # of a tile read from the store

_HALF = 2.0**-9  # the largest relative error of bfloat16, which keeps 8 bits


class Embeddings:
    """The embeddings [N, D] of the images 0 .. N - 1, unit length; safe to share between threads."""

    def __init__(self, store: Store, source: EncoderInfo, images: int) -> None:
        """Refer to the embeddings; they are read when first needed. A rounded copy takes half as much memory again."""
        self.store, self.source, self.images = store, source, images
        self.holds = images * source.width * 6 <= settings.HELD_BYTES.value()
        self._held: dict[tuple[str, torch.dtype], torch.Tensor] = {}
        self._reading = threading.Lock()  # one thread reads or rounds the embeddings
        self._asked = self._fetched = 0
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None  # ids, sorted, and embeddings read last
        self._digests: torch.Tensor | None = None
        self._rounded = _HALF  # the largest length that rounding takes from a vector

    @property
    def in_memory(self) -> bool:
        """Whether the embeddings are in memory already."""
        return bool(self._held)

    def of(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of image ids [I], in their order, as [I, D]."""
        return self.gather(ids)(ids)

    def lasting(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of image ids [I], as `of`, for a caller that refers to them for long.

        Those too large to stay in memory are in a temporary file without a name, mapped into memory: the system drops
        pages that it needs for others.
        """
        if 4 * len(ids) * self.source.width <= settings.HELD_BYTES.value():
            return self.of(ids)
        try:
            return self._mapped(ids)
        except OSError:  # no room for the file
            return self.of(ids)

    def _mapped(self, ids: torch.Tensor) -> torch.Tensor:
        with tempfile.TemporaryFile() as file:
            for some in ids.split(max(1, _LAST_BYTES // (4 * self.source.width))):
                file.write(self.of(some).contiguous().numpy().data)
            file.flush()
            return torch.from_numpy(np.memmap(file, np.float32, "c", shape=(len(ids), self.source.width)))

    def gather(self, ids: torch.Tensor) -> Embed:
        """Return a function that embeds image ids among these [I]; rows that are not in memory are read once.

        Rows fetched one by one cost more each, so after enough of them all embeddings are read. Derived images may be
        among the ids.
        """
        if len(ids) and bool(is_derived(ids.max())):
            return self._with_derived(ids)
        if self.holds and (self.in_memory or 8 * (self._fetched + len(ids)) > self.images):
            return partial(self._all().index_select, 0)
        distinct, table = self._fetch(ids.unique())
        return lambda some: table[torch.searchsorted(distinct, some)]

    def _fetch(self, distinct: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return image ids that include these, sorted, and their embeddings.

        The steps of one question ask for the same images: the last rows are kept.
        """
        last = self._last
        if last is not None and bool(torch.isin(distinct, last[0]).all()):
            return last
        self._fetched += len(distinct)
        rows = distinct, streams.embeddings_of(self.store, self.source, distinct.numpy())
        if 4 * len(distinct) * self.source.width <= _LAST_BYTES:
            self._last = rows
        return rows

    def _with_derived(self, ids: torch.Tensor) -> Embed:
        """Return a function that embeds image ids among these [I], some of which are derived images."""
        made = is_derived(ids)
        indexed, distinct = self.gather(ids[~made]), ids[made].unique()
        table = embeddings_of_derived(self.store, self.source, distinct.numpy())

        def embed(some: torch.Tensor) -> torch.Tensor:
            rows = torch.empty(len(some), self.source.width)
            own = is_derived(some)
            rows[own] = table[torch.searchsorted(distinct, some[own])]
            rows[~own] = indexed(some[~own])
            return rows

        return embed

    def screen(self, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[int, torch.Tensor]]:
        """Stream (first image, embeddings [n, D]) on a device, rounded to `dtype`.

        They stay on a card if they fit there, whatever may stay in the memory of the CPU.
        """
        key = (str(device), dtype)
        if not (self.holds or key in self._held or self._fit_on(device, dtype)):
            for first, tile in self._streamed():
                yield first, uploaded(tile, device).to(dtype)
            return
        embeddings = self._all() if self.holds else None
        if key not in self._held:
            with self._reading:
                if key not in self._held:
                    self._held[key] = self._rounded_copy(embeddings, device, dtype)
        for first in range(0, self.images, _ROWS):
            yield first, self._held[key][first : first + _ROWS]

    def dtype(self, device: torch.device, anchors: int) -> torch.dtype:
        """Return the precision in which a search for the nearest images of `anchors` images is fastest on the device.

        A single question is answered before a rounded copy of all embeddings would be ready.
        """
        self._asked += 1
        worth = anchors > 256 or self._asked > 1 or not self.holds
        return torch.bfloat16 if worth and _bfloat16_pays(str(device)) else torch.float32

    def digests(self) -> torch.Tensor:
        """Return a 64-bit digest [N] of each image's embedding: equal embeddings have equal digests.

        Different embeddings share one by chance only: among N images some pair does with probability N^2 / 2^65, for
        a million images 3e-8.
        """
        if self._digests is None:
            digests = [
                int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little", signed=True)
                for _, tile in self.screen(torch.device("cpu"), torch.float32)
                for row in tile.numpy()
            ]
            self._digests = torch.tensor(digests, dtype=torch.int64)
        return self._digests

    def error(self, dtype: torch.dtype) -> CosineError:
        """Return the largest error of a cosine in that precision: both factors and the product are rounded.

        Products are summed in float32.
        """
        if dtype == torch.float32:
            return EXACT
        return CosineError(self._rounded * (2 + self._rounded) + 1e-4, _HALF)

    def _all(self) -> torch.Tensor:
        key = ("cpu", torch.float32)
        if key not in self._held:
            with self._reading:
                if key not in self._held:
                    self._held[key] = self._read()
        return self._held[key]

    def _read(self) -> torch.Tensor:
        embeddings = torch.empty(self.images, self.source.width)
        marks = catalog.covered(self.store, self.source.what, self.images)
        first = 0
        for tile in streams.embedding_tiles(self.store, self.source, marks):
            embeddings[first : first + len(tile)] = tile
            first += len(tile)
        return embeddings

    def _fit_on(self, device: torch.device, dtype: torch.dtype) -> bool:
        """Return whether a copy takes at most half of what is free on a card; never on the CPU."""
        return 2 * self.images * self.source.width * dtype.itemsize <= free_bytes(device)

    def _rounded_copy(self, embeddings: torch.Tensor | None, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Return the embeddings on a device, rounded to `dtype`, and record the largest rounding error.

        They are read from the store if they are not in memory. What is uploaded is rounded, and compared, on the card.
        """
        made = torch.empty(self.images, self.source.width, device=device, dtype=dtype)
        rows = _ROWS // 16
        tiles = (
            self._streamed()
            if embeddings is None
            else ((first, embeddings[first : first + rows]) for first in range(0, self.images, rows))
        )
        largest = torch.zeros((), device=device)
        for first, tile in tiles:
            exact, rounded = uploaded(tile, device), made[first : first + len(tile)]
            rounded.copy_(exact)
            if dtype != torch.float32:
                largest = torch.maximum(largest, (exact - rounded.float()).norm(dim=1).max())
        if dtype != torch.float32:
            self._rounded = float(largest)
        return made

    def _streamed(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Join the shards' embeddings into tiles large enough to work on."""
        rows = max(256, min(_ROWS, _STREAMED_BYTES // (4 * self.source.width)))
        marks = catalog.covered(self.store, self.source.what, self.images)
        waiting: list[torch.Tensor] = []
        first = rows_waiting = 0
        for tile in streams.embedding_tiles(self.store, self.source, marks):
            waiting.append(tile)
            rows_waiting += len(tile)
            if rows_waiting >= rows:
                yield first, torch.cat(waiting)
                first, rows_waiting, waiting = first + rows_waiting, 0, []
        if rows_waiting:
            yield first, torch.cat(waiting)


def uploaded(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; CUDA copies it from pinned memory, for which the CPU does not wait."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a CUDA card, with what torch keeps of it for reuse; 0 for other devices."""
    if device.type != "cuda":
        return 0
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + kept


def all_embeddings(store: Store, source: EncoderInfo, images: int) -> Embeddings:
    """Return the embeddings of the first `images` images, shared within this process until the table changes."""
    return store.memo(source.table, _MEMO, lambda: Embeddings(store, source, images), variant=(images, library.name()))


def cosines_of(anchors: torch.Tensor, tile: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
    """Return the products [U, n] of anchors [U, D] with a tile [n, D], summed in float32 as `Embeddings.error` has it.

    Settings of the process for faster products (TF32, sums in bfloat16 on CUDA) are switched off meanwhile.
    """
    with _full_precision:
        return torch.mm(anchors, tile.T) if out is None else torch.mm(anchors, tile.T, out=out)


class _FullPrecision:
    """Products as exact as their numbers, whatever the process has set; several threads may be inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = "highest", True

    def __enter__(self) -> None:
        matmul = torch.backends.cuda.matmul
        with self._lock:
            if self._inside == 0:
                self._before = torch.get_float32_matmul_precision(), matmul.allow_bf16_reduced_precision_reduction
                torch.set_float32_matmul_precision("highest")
                matmul.allow_bf16_reduced_precision_reduction = False
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                precision, torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = self._before
                torch.set_float32_matmul_precision(precision)


_full_precision = _FullPrecision()


def release(store: Store) -> None:
    """Free the memory of embeddings and neighbour lists; the next question reads them again."""
    store.forget(_MEMO, neighbour_lists.MEMO)
    give_back()


@cache
def product_rate(device: str, dtype: torch.dtype) -> float:
    """Return the multiply-adds per second of the device in a product of typical shape, measured once.

    On a card the product is 128 times as large: a small one takes as long as its start, in any precision.
    """
    rows, images = (256, 2048) if torch.device(device).type == "cpu" else (2048, 32_768)
    left = torch.ones(rows, 512, device=device, dtype=dtype)
    right = torch.ones(images, 512, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        float((left @ right.T)[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return left.numel() * len(right) / best


def _bfloat16_pays(device: str) -> bool:
    return product_rate(device, torch.bfloat16) > 1.5 * product_rate(device, torch.float32)


def give_back() -> None:
    """Return freed memory to the system, if the C library can (glibc); takes milliseconds."""
    trim = _trim()
    if trim is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
