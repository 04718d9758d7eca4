"""The vector index as a user's choice: built, extended, dropped, measured against the exact answer; tables compacted.

Exact answers never change. A search through a vector index visits only some of its partitions, so its recall of the
exact contrastive images is measured on randomly selected neurons and reported.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Literal, TypeVar, get_args

import numpy as np
import torch

from csp_index import settings
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.embeddings import give_back, release
from csp_index.contrast.examples import Examples, gather_examples
from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.records import ExampleOptions, Progress
from csp_index.store import catalog, maintenance, schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.history.cleanup import clean_up
from csp_index.store.runs import record_run
from csp_index.store.tables import Store
from csp_index.store.values import streams

_T = TypeVar("_T")

IndexKind = Literal["none", "ivf_flat", "ivf_sq", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"]  # Lance's own names
KINDS: tuple[str, ...] = get_args(IndexKind)
_GROWN = 0.5  # an index is trained again when its new rows exceed this share
_TRAINING, _FEWEST = 256, 32  # training vectors per partition: as in Lance, and where memory is short
_TRAINING_BYTES = 2**30  # of training vectors on a GPU, at most
_LANCE_BYTES = 2**28  # of training vectors on the CPU: Lance takes up to twice as much again
_NEAREST = 32  # neighbours per timed query
_WHOLE_SECONDS = 2.0  # of queries without the index: each reads all embeddings, and one is made at least
_TRAINED_ON = 256  # images needed to train the codebook of ivf_pq
_SAME = 1e-6  # cosines closer than this are equal


@dataclass(frozen=True, slots=True)
class Recall:
    """How contrastive search through a vector index compares with the exact answer, on randomly selected neurons.

    `recall` is the share, 0 to 1, of `questions` (pairs of neuron and activating image) whose first contrastive image
    is the exact one or as near. Times are medians over the neurons, in milliseconds.
    """

    recall: float
    questions: int
    neurons: int
    query_ms: float  # one batched query for a neuron's activating images, through the index
    query_without_ms: float  # the same without the index, of as many neurons as two seconds allow
    search_ms: float  # one neuron's contrastive images by search
    products_ms: float  # the same by matrix products, which is exact


@dataclass(frozen=True, slots=True)
class EncoderOptimized:
    """What `optimize` did for one encoder's embeddings, `action` in words; `recall` is None without an index."""

    encoder: str
    kind: str
    action: str
    partitions: int
    rows: int
    bytes: int  # of the vector index
    seconds: float
    trained_on: str  # cpu or cuda
    recall: Recall | None


@dataclass(frozen=True, slots=True)
class TableOptimized:
    """What `optimize` did to one table. `bytes` is the size of its last version, `freed` that of removed versions."""

    table: str
    rows: int
    fragments_before: int
    fragments: int
    bytes_before: int
    bytes: int
    freed: int


@dataclass(frozen=True, slots=True)
class OptimizeSummary:
    """What one run of `optimize` did."""

    run_id: str
    encoders: tuple[EncoderOptimized, ...]
    tables: tuple[TableOptimized, ...]
    seconds: float


def optimize(
    store: Store,
    *,
    encoder: str | None = None,
    kind: str = "auto",
    questions: int = 200,
    keep_hours: float | None = None,
    progress: Progress | None = None,
) -> OptimizeSummary:
    """Build or extend the vector index of every encoder (or the one named), compact all tables, measure recall.

    `kind` is `auto` (the present kind, else by the number of images), `none` (drop the index) or a kind of index.
    The recall rests on at least `questions` pairs of neuron and activating image, if there are enough. An interrupted
    run leaves a working index, and the same call resumes. Errors: SettingError, NotFoundError,
    StoreError.
    """
    if kind not in ("auto", *KINDS):
        raise SettingError(f"kind of vector index {kind!r} is unknown: expected auto, {', '.join(KINDS)}")
    if questions < 1:
        raise SettingError(f"questions is {questions}: expected at least 1")
    started = time.monotonic()
    keep = settings.KEEP_HOURS.value(keep_hours)
    sources = catalog.encoders(store) if encoder is None else [catalog.encoder(store, encoder)]
    for source in sources:
        _check_kind(store, source, kind)
    options = {"kind": kind, "encoders": [source.name for source in sources], "keep_hours": keep}
    report = _Steps(progress, 2 * len(sources) + len(store.table_names()))
    with store.write_lock():
        with record_run(store, "optimize", options, {}) as run:
            extended = [_extend(store, source, kind) for source in sources]
            tables = []
            for name in store.table_names():
                tables.append(_tidy(store, name))
                store.checkpoint()
                report.done()
            built = []
            for source, grown in zip(sources, extended, strict=True):
                built.append(_index(store, source, kind, grown))
                store.checkpoint()
                report.done()
        freed = clean_up(store, keep)
        tables = [replace(table, freed=freed.get(table.table, 0)) for table in tables]
    measured = []
    for source, summary in zip(sources, built, strict=True):
        exact = summary.kind == "none"
        measured.append(summary if exact else replace(summary, recall=measure_recall(store, source, questions)))
        report.done()
    return OptimizeSummary(run.run_id, tuple(measured), tuple(tables), time.monotonic() - started)


def _check_kind(store: Store, source: EncoderInfo, kind: str) -> None:
    """Raise SettingError for a kind that cannot be built from these embeddings."""
    rows = store.count(source.table)
    if kind == "ivf_pq" and rows < _TRAINED_ON:
        raise SettingError(
            f"kind ivf_pq needs at least {_TRAINED_ON} images to train on, {source.name} has {rows}: take ivf_flat"
        )
    if kind == "ivf_rq" and source.width % 8:
        raise SettingError(
            f"kind ivf_rq needs dimensions that 8 divides, {source.name} has {source.width}: take ivf_flat or ivf_sq"
        )


class _Steps:
    """Progress in steps of unequal length."""

    def __init__(self, progress: Progress | None, steps: int) -> None:
        self._progress, self._done, self._steps = progress, 0, steps

    def done(self) -> None:
        self._done += 1
        if self._progress:
            self._progress(self._done, self._steps, "steps")


def kind_for(images: int, width: int) -> IndexKind:
    """Return the default kind of vector index for a number of images and dimensions.

    >>> kind_for(5_000, 512), kind_for(100_000, 512), kind_for(400_000_000, 512)
    ('none', 'ivf_flat', 'ivf_sq')
    """
    if images < settings.INDEX_IMAGES.value():
        return "none"
    return "ivf_flat" if 4 * images * width <= settings.INDEX_BYTES.value() else "ivf_sq"


def partitions_for(images: int) -> int:
    """Return the number of partitions: about the square root of the number of images.

    >>> partitions_for(100_000)
    316
    """
    return max(1, math.isqrt(images))


def _extend(store: Store, source: EncoderInfo, kind: str) -> bool:
    """Add new rows to an index before compaction, which does not merge indexed fragments with others.

    Returns False if there is nothing to add, or if the index has grown so much that it must be built again.
    """
    index = store.vector_index(source.table)
    if not index or not index.unindexed or kind not in ("auto", index.kind) or index.unindexed > _GROWN * index.rows:
        return False
    maintenance.extend_indexes(store, source.table)
    return True


def _tidy(store: Store, name: str) -> TableOptimized:
    before = maintenance.table_state(store, name)
    maintenance.compact(store, name)
    after = maintenance.table_state(store, name)
    return TableOptimized(name, after.rows, before.fragments, after.fragments, before.bytes, after.bytes, 0)


def _index(store: Store, source: EncoderInfo, kind: str, extended: bool) -> EncoderOptimized:
    """Build, keep or drop the vector index of one encoder; the caller measures recall."""
    started = time.monotonic()
    rows = store.count(source.table)
    index = store.vector_index(source.table)
    target_kind = kind
    if kind == "auto":
        target_kind = index.kind if index and index.rows else kind_for(rows, source.width)
    device, partitions = "cpu", 0
    if target_kind == "none":
        action = "dropped" if index else f"none: search goes through all {rows:,} images"
        maintenance.drop_vector_index(store, source.table)
    else:
        maintenance.index_column(store, source.table, "image_id")
        action = "extended" if extended else "kept"
        if index is None or not index.rows or index.kind != target_kind or index.unindexed:
            action = "built" if index is None else "built again"
            device = _build(store, source, target_kind, min(partitions_for(rows), rows))
        partitions = maintenance.partition_count(store, source.table)
    now = store.vector_index(source.table)
    size = now.bytes if now else 0
    seconds = time.monotonic() - started
    return EncoderOptimized(source.name, target_kind, action, partitions, rows, size, seconds, device, None)


def _build(store: Store, source: EncoderInfo, kind: str, partitions: int) -> str:
    """Build a vector index, training its partitions on a GPU if there is one; return the device."""
    centres = None
    if torch.cuda.is_available():
        try:
            centres = train_partitions(_sample(store, source, partitions).to("cuda"), partitions)
        except RuntimeError:  # not enough GPU memory: the CPU does the same, more slowly
            centres = None
    sampled = _sampled(partitions, source.width)
    maintenance.build_vector_index(store, source.table, kind, partitions, centres, sampled=sampled)
    return "cpu" if centres is None else "cuda"


def _sampled(partitions: int, width: int) -> int:
    """Return how many vectors per partition Lance trains on.

    >>> _sampled(316, 512), _sampled(1131, 512), _sampled(20_000, 512)
    (256, 115, 32)
    """
    return max(_FEWEST, min(_TRAINING, _LANCE_BYTES // (4 * width * partitions)))


def _sample(store: Store, source: EncoderInfo, partitions: int) -> torch.Tensor:
    """Return seeded random embeddings in random order: some per partition, within a bound on memory."""
    rows = store.count(source.table)
    size = min(rows, _TRAINING * partitions, max(partitions, _TRAINING_BYTES // (4 * source.width)))
    return streams.embeddings_of(store, source, np.random.default_rng(0).choice(rows, size, replace=False))


def train_partitions(vectors: torch.Tensor, partitions: int, rounds: int = 20) -> np.ndarray:
    """Return centres [P, D], unit vectors, of the partitions of unit vectors [S, D] in random order, by k-means.

    It runs where the vectors are. An empty partition keeps its centre.
    """
    # Lance does not do it: in pylance 14 `create_index(accelerator=...)` uses the GPU only for IVF_PQ and falls back
    # to the CPU, with a warning, for the kinds that `kind_for` returns.
    centres = vectors[:partitions].clone()
    rows = max(256, settings.TILE_BYTES.value() // (4 * partitions))
    for _ in range(rounds):
        sums = torch.zeros_like(centres)
        for part in vectors.split(rows):
            sums.index_add_(0, (part @ centres.T).argmax(1), part)
        lengths = sums.norm(dim=1, keepdim=True)
        centres = torch.where(lengths > 0, sums / lengths.clamp(min=1e-12), centres)
    return centres.cpu().numpy()


def measure_recall(store: Store, source: EncoderInfo, questions: int, seed: int = 0) -> Recall | None:
    """Return how contrastive search through the vector index compares with the exact answer; None without neurons.

    Neurons are selected at random by seed from all finished layers until they have `questions` activating images.
    """
    exact: list[tuple[Selection, ExampleOptions, Examples, float]] = []
    total = 0
    for selection in _drawn(store, source, seed):
        options = ExampleOptions(examples=_examples(store, selection))
        examples, products = _timed(
            partial(gather_examples, store, selection, options, context=ComputeContext(search=False))
        )
        count = int((examples.contrastive[0, :, 0] >= 0).sum())
        if count:
            exact.append((selection, options, examples, products))
        total += count
        if total >= questions:
            break
    if not total:
        return None
    release(store)  # a search needs the memory but not the embeddings
    right = 0
    times, whole = [], list[float]()
    for selection, options, expected, products in exact:
        examples, search = _timed(
            partial(gather_examples, store, selection, options, context=ComputeContext(search=True))
        )
        right += _agreeing(examples, expected)
        ids = expected.activating[0]
        anchors = streams.embeddings_of(store, source, ids[ids >= 0].numpy()).numpy()
        _, query = _timed(partial(store.search, source.table, anchors, _NEAREST))
        if sum(whole) < _WHOLE_SECONDS:
            whole.append(_timed(partial(store.search, source.table, anchors, _NEAREST, exact=True))[1])
        times.append((query, search, products))
        give_back()
    query, search, products = (1e3 * median(column) for column in zip(*times, strict=True))
    return Recall(right / total, total, len(times), query, 1e3 * median(whole), search, products)


def _agreeing(approximate: Examples, exact: Examples) -> int:
    """Return the number of one neuron's activating images whose contrastive image is the exact one or as near."""
    same = approximate.contrastive[0, :, 0] == exact.contrastive[0, :, 0]
    near = approximate.similarities[0, :, 0] >= exact.similarities[0, :, 0] - _SAME
    return int(((exact.contrastive[0, :, 0] >= 0) & (same | near)).sum())


def _drawn(store: Store, source: EncoderInfo, seed: int) -> Iterator[Selection]:
    """Yield the neurons that fire, one by one, in random order."""
    finished = [info for info in catalog.layers(store) if catalog.is_finished(store, info)]
    alive = []
    for target in finished:
        rows = store.read(schema.NEURONS, ["neuron"], f"{catalog.layer_filter(target)} AND max > 0")
        alive += [(target, neuron) for neuron in sorted(rows["neuron"].to_pylist())]
    for place in np.random.default_rng(seed).permutation(len(alive)):
        target, neuron = alive[place]
        yield Selection(source, target, np.array([neuron]))


def _examples(store: Store, selection: Selection) -> int:
    """Return the number of activating images per neuron: the default of labels, or what is stored if fewer."""
    stored = len(selection.statistics(store)["top_images"][0])
    return min(ExampleOptions().examples, stored)


def _timed(work: Callable[[], _T]) -> tuple[_T, float]:
    started = time.perf_counter()
    return work(), time.perf_counter() - started
