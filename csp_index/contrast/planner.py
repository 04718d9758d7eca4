"""Which of the two ways to the nearest silent images costs less here, by what this process measured.

Products are exact. A search goes through a vector index if the encoder has one, and is then approximate.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from csp_index import settings
from csp_index.contrast.context import SearchPlan
from csp_index.contrast.embeddings import product_rate
from csp_index.contrast.nearest import NearestQuery
from csp_index.contrast.neighbour_lists import listed
from csp_index.store import streams
from csp_index.store.catalog import shards
from csp_index.store.tables import VectorIndex

_PROBES = 4  # activating images whose search is timed
_NEIGHBOURS = 32


def choose(asked: NearestQuery, search: bool | None = None) -> SearchPlan:
    """Return the way that costs less, or the one said; without a vector index that is by products."""
    index = asked.store.vector_index(asked.selection.source.table)
    if search is not None:
        through = _through(index) if search and index else ""
        told = f"by {'vector search' if search else 'matrix products'}, {'approximate' if through else 'exact'}"
        return SearchPlan(search, f"{told}: as asked", through=through)
    activating = asked.activating[asked.activating >= 0].unique()
    with_list = listed(asked.store, asked.selection.source, asked.images, activating)
    if bool(with_list.all()):
        return SearchPlan(
            False, f"by kept lists of neighbours, exact: {len(activating):,} activating images have one", True
        )
    distinct = int((~with_list).sum())
    products = _product_seconds(asked, distinct)
    told = f"by matrix products, exact: {distinct:,} activating images with {asked.images:,} images"
    if distinct < len(activating):
        told += f" ({len(activating) - distinct:,} others have a kept list of neighbours)"
    held = "in memory" if asked.vectors.in_memory else "read from the store"
    if asked.selection.pool is not None:
        return SearchPlan(False, f"{told}; they are confined to a part of the images")
    if index is None:
        reason = "no vector index is there (`csp-index optimize` builds one)"
        return SearchPlan(False, f"{told}, {held}, some {products:.3f} s; {reason}")
    searching = _search_seconds(asked, activating)
    compared = f"products some {products:.3f} s (embeddings {held}), search some {searching:.3f} s, as measured here"
    if searching < products:
        return SearchPlan(True, f"by vector search in {index.kind}, approximate: {compared}", through=_through(index))
    return SearchPlan(False, f"{told}: {compared}")


def _through(index: VectorIndex) -> str:
    probes, refine = settings.SEARCH_PROBES.value(), settings.SEARCH_REFINE.value()
    return f"{index.kind} of {index.rows} images, {probes} probes, refine {refine}"


def _product_seconds(asked: NearestQuery, distinct: int) -> float:
    """Return what the products will take: reading the embeddings, if they are not in memory, and multiplying."""
    vectors, width = asked.vectors, asked.selection.source.width
    rate = max(product_rate(str(asked.device), dtype) for dtype in (torch.float32, torch.bfloat16))
    seconds = distinct * asked.images * width / rate
    if not vectors.in_memory:
        seconds += asked.images * _seconds_to_read(asked)
    return seconds


def _seconds_to_read(asked: NearestQuery) -> float:
    """Return the time to read one image's embedding, measured on the last shard."""

    def measure() -> float:
        source = asked.selection.source
        last = shards(asked.store, source.what)[-1]
        started = time.perf_counter()
        streams.embeddings_of(asked.store, source, torch.arange(last.first_image, last.first_image + last.rows).numpy())
        return (time.perf_counter() - started) / last.rows

    return _measured(asked, "read", measure)


def _search_seconds(asked: NearestQuery, activating: torch.Tensor) -> float:
    """Return what a search for every activating image will take, twice over: one among all, one among the silent."""

    def measure() -> float:
        probes = asked.vectors.of(activating[:_PROBES]).numpy()
        started = time.perf_counter()
        asked.store.search(asked.selection.source.table, probes, _NEIGHBOURS, f"image_id < {asked.images}")
        return (time.perf_counter() - started) / max(1, len(probes))

    return 2 * len(activating) * _measured(asked, "search", measure)


def _measured(asked: NearestQuery, what: str, measure: Callable[[], float]) -> float:
    """Return what was measured once for a table as it is now."""

    def second() -> float:
        measure()  # opens what has to be opened
        return measure()

    return asked.store.memo(asked.selection.source.table, ("seconds", what), second)
