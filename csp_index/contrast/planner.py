"""Which of the two ways to the nearest silent images costs less here, by what this process measured.

Products are exact. A search goes through a vector index if the encoder has one, and is then approximate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from csp_index import settings
from csp_index.contrast.embeddings import product_rate
from csp_index.contrast.nearest import Question
from csp_index.contrast.neighbour_lists import listed
from csp_index.contrast.selection import Subject
from csp_index.errors import LabelError
from csp_index.records import DerivedKind, ExampleOptions, VectorIndex
from csp_index.store import streams
from csp_index.store.catalog import shards

_PROBES = 4  # activating images whose search is timed
_NEIGHBOURS = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether to search, whether that is approximate, and why."""

    search: bool
    reason: str
    listed: bool = False  # every activating image has a kept list of neighbours: there is little to compute
    through: str = ""  # the vector index, if that is searched, and how: what else an approximate answer hangs on

    @property
    def approximate(self) -> bool:
        """Whether the nearest may be missed."""
        return bool(self.through)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Images that are to be made: from activating images [M, K] (-1 absent) of the subject's neurons.

    An image made for a neuron is a contrastive one if its activation stays below the neuron's threshold [M].
    """

    subject: Subject
    activating: torch.Tensor
    activations: torch.Tensor  # [M, K]
    thresholds: torch.Tensor
    images: int  # N, the indexed images that all this rests on
    options: ExampleOptions
    keep: bool  # the write lock is held, and what is made may be stored
    run_id: str = ""

    def check(self, kind: DerivedKind, made: str, lacking: str) -> None:
        """Refuse, before a model is loaded, what cannot be made: without models, or where nothing may be stored.

        `made` says what images are run, `lacking` which are missing.
        """
        for what, name, library in (
            ("layer", str(self.subject.target.key), self.subject.target.network),
            ("encoder", self.subject.source.name, self.subject.source.identity.get("library")),
        ):
            if library == "arrays":
                raise LabelError(
                    f"contrast {kind} runs {made} images through network and encoder, but {what} {name} came as "
                    "arrays: choose nearest, falcon or random, or index the images with their models"
                )
        if not self.keep:
            raise LabelError(
                f"contrast {kind} lacks {lacking}, and this question may not store any: "
                f"label these neurons with --contrast {kind} first, and with the same options"
            )


# Makes and stores those of the images wanted that are not stored yet; returns the settings hash they are stored under.
Derive = Callable[[Wanted], str]


@dataclass(frozen=True, slots=True)
class Means:
    """By what means an answer is computed, and who is told why.

    `search` None leaves the choice between search and products to measured cost; `choice` is that choice, once made.
    `derive` makes contrastive images of the kinds that are made; `depends` tells what these hang on beside the options.
    """

    device: str = "cpu"
    search: bool | None = None
    explain: Callable[[str], None] | None = None
    choice: Choice | None = None
    keep: bool = False  # keep what later questions can use; the write lock is held
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)
    depends: Callable[[ExampleOptions], Mapping[str, object]] | None = None
    run_id: str = ""  # of the run under way

    def tell(self, message: str) -> None:
        """Tell whoever asked for an explanation."""
        if self.explain is not None:
            self.explain(message)


def choose(asked: Question, search: bool | None = None) -> Choice:
    """Return the way that costs less, or the one said; without a vector index that is by products."""
    index = asked.store.vector_index(asked.subject.source.table)
    if search is not None:
        through = _through(index) if search and index else ""
        told = f"by {'vector search' if search else 'matrix products'}, {'approximate' if through else 'exact'}"
        return Choice(search, f"{told}: as asked", through=through)
    activating = asked.activating[asked.activating >= 0].unique()
    with_list = listed(asked.store, asked.subject.source, asked.images, activating)
    if bool(with_list.all()):
        return Choice(
            False, f"by kept lists of neighbours, exact: {len(activating):,} activating images have one", True
        )
    distinct = int((~with_list).sum())
    products = _product_seconds(asked, distinct)
    told = f"by matrix products, exact: {distinct:,} activating images with {asked.images:,} images"
    if distinct < len(activating):
        told += f" ({len(activating) - distinct:,} others have a kept list of neighbours)"
    held = "in memory" if asked.vectors.in_memory else "read from the store"
    if asked.subject.pool is not None:
        return Choice(False, f"{told}; they are confined to a part of the images")
    if index is None:
        reason = "no vector index is there (`csp-index optimize` builds one)"
        return Choice(False, f"{told}, {held}, some {products:.3f} s; {reason}")
    searching = _search_seconds(asked, activating)
    compared = f"products some {products:.3f} s (embeddings {held}), search some {searching:.3f} s, as measured here"
    if searching < products:
        return Choice(True, f"by vector search in {index.kind}, approximate: {compared}", through=_through(index))
    return Choice(False, f"{told}: {compared}")


def _through(index: VectorIndex) -> str:
    probes, refine = settings.number("search_probes"), settings.number("search_refine")
    return f"{index.kind} of {index.rows} images, {probes} probes, refine {refine}"


def _product_seconds(asked: Question, distinct: int) -> float:
    """Return what the products will take: reading the embeddings, if they are not in memory, and multiplying."""
    vectors, width = asked.vectors, asked.subject.source.width
    rate = max(product_rate(str(asked.device), dtype) for dtype in (torch.float32, torch.bfloat16))
    seconds = distinct * asked.images * width / rate
    if not vectors.in_memory:
        seconds += asked.images * _seconds_to_read(asked)
    return seconds


def _seconds_to_read(asked: Question) -> float:
    """Return the time to read one image's embedding, measured on the last shard."""

    def measure() -> float:
        source = asked.subject.source
        last = shards(asked.store, source.what)[-1]
        started = time.perf_counter()
        streams.embeddings_of(asked.store, source, torch.arange(last.first_image, last.first_image + last.rows).numpy())
        return (time.perf_counter() - started) / last.rows

    return _measured(asked, "read", measure)


def _search_seconds(asked: Question, activating: torch.Tensor) -> float:
    """Return what a search for every activating image will take, twice over: one among all, one among the silent."""

    def measure() -> float:
        probes = asked.vectors.of(activating[:_PROBES]).numpy()
        started = time.perf_counter()
        asked.store.search(asked.subject.source.table, probes, _NEIGHBOURS, f"image_id < {asked.images}")
        return (time.perf_counter() - started) / max(1, len(probes))

    return 2 * len(activating) * _measured(asked, "search", measure)


def _measured(asked: Question, what: str, measure: Callable[[], float]) -> float:
    """Return what was measured once for a table as it is now."""
    table = asked.subject.source.table
    key = ("cost", what, table, asked.store.state(table))
    if key not in asked.store.derived:
        measure()  # opens what has to be opened
        asked.store.derived[key] = measure()
    return float(asked.store.derived[key])
