"""Choose between matrix products and vector search from timings taken in this process.

Products are exact. A search goes through a vector index if the encoder has one, and is then approximate.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from csp_index import settings
from csp_index.contrast.context import SearchPlan
from csp_index.contrast.embeddings import product_rate
from csp_index.contrast.nearest import NearestQuery
from csp_index.contrast.neighbour_lists import listed
from csp_index.store.catalog import shards
from csp_index.store.tables import VectorIndex
from csp_index.store.values import streams
from csp_index.tensors.library import torch

_PROBES = 4  # activating images whose search is timed
_NEIGHBOURS = 32


def choose(query: NearestQuery, search: bool | None = None) -> SearchPlan:
    """Return the cheaper plan, or the one `search` asks for; without a vector index the default is products."""
    index = query.store.vector_index(query.selection.source.table)
    if search is not None:
        through = _through(index) if search and index else ""
        reason = f"by {'vector search' if search else 'matrix products'}, {'approximate' if through else 'exact'}"
        return SearchPlan(search, f"{reason}: as requested", through=through)
    activating = query.activating[query.activating >= 0].unique()
    with_list = listed(query.store, query.selection.source, query.images, activating)
    if bool(with_list.all()):
        return SearchPlan(
            False, f"by stored lists of neighbours, exact: {len(activating):,} activating images have one", True
        )
    distinct = int((~with_list).sum())
    products = _product_seconds(query, distinct)
    reason = f"by matrix products, exact: {distinct:,} activating images with {query.images:,} images"
    if distinct < len(activating):
        reason += f" ({len(activating) - distinct:,} others have a stored list of neighbours)"
    source = "in memory" if query.vectors.in_memory else "read from the store"
    if query.selection.pool is not None:
        return SearchPlan(False, f"{reason}; they are confined to a part of the images")
    if index is None:
        return SearchPlan(
            False,
            f"{reason}, {source}, some {products:.3f} s; there is no vector index (`csp-index optimize` builds one)",
        )
    searching = _search_seconds(query, activating)
    compared = f"products some {products:.3f} s (embeddings {source}), search some {searching:.3f} s, as measured here"
    if searching < products:
        return SearchPlan(True, f"by vector search in {index.kind}, approximate: {compared}", through=_through(index))
    return SearchPlan(False, f"{reason}: {compared}")


def _through(index: VectorIndex) -> str:
    probes, refine = settings.SEARCH_PROBES.value(), settings.SEARCH_REFINE.value()
    return f"{index.kind} of {index.rows} images, {probes} probes, refine {refine}"


def _product_seconds(query: NearestQuery, distinct: int) -> float:
    """Return the seconds of matrix products: multiplying, and reading the embeddings unless they are in memory."""
    vectors, width = query.vectors, query.selection.source.width
    rate = max(product_rate(str(query.device), dtype) for dtype in (torch.float32, torch.bfloat16))
    seconds = distinct * query.images * width / rate
    if not vectors.in_memory:
        seconds += query.images * _seconds_to_read(query)
    return seconds


def _seconds_to_read(query: NearestQuery) -> float:
    """Return the seconds to read one image's embedding, measured on the last shard."""

    def measure() -> float:
        source = query.selection.source
        last = shards(query.store, source.what)[-1]
        started = time.perf_counter()
        streams.embeddings_of(query.store, source, torch.arange(last.first_image, last.first_image + last.rows).numpy())
        return (time.perf_counter() - started) / last.rows

    return _measured(query, "read", measure)


def _search_seconds(query: NearestQuery, activating: torch.Tensor) -> float:
    """Return the seconds of two vector searches per activating image: one among all images, one among silent ones."""

    def measure() -> float:
        probes = query.vectors.of(activating[:_PROBES]).numpy()
        started = time.perf_counter()
        query.store.search(query.selection.source.table, probes, _NEIGHBOURS, f"image_id < {query.images}")
        return (time.perf_counter() - started) / max(1, len(probes))

    return 2 * len(activating) * _measured(query, "search", measure)


def _measured(query: NearestQuery, what: str, measure: Callable[[], float]) -> float:
    """Return a measurement, taken once per state of the embeddings table."""

    def second() -> float:
        measure()  # opens what has to be opened
        return measure()

    return query.store.memo(query.selection.source.table, ("seconds", what), second)
