"""A layer over as many images as ImageNet-1k has, its embeddings on the card: lists of neighbors, and whole labels.

The arrays are made on the card, so that nothing is read: embeddings in clusters, activations that follow them. What is
timed is the package's own code, from the activating images of each neuron to its best texts: the nearest images of the
distinct activating ones on the card, those silent for each neuron chosen from them, by activations in the memory of the
CPU, the concept vectors and the products with the texts. Reading an index, statistics and resamples are not part of it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from bench_data import Shape
from bench_rows import Row
from card.run import Run, answer

from csp_index.contrast import nearest
from csp_index.contrast.embeddings import Embeddings
from csp_index.contrast.list_products import computed_lists
from csp_index.contrast.selection import Selection
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.scoring import score
from csp_index.records import ExampleOptions, ScoringOptions

IMAGENET, QUICK = Shape(1_281_167, 2_048, 512, 10_000), Shape(3_000, 64, 32, 200)
_EXAMPLES, _WIDTH = 30, 128
_ROWS = 65_536  # images made at a time
_BAR = 2.0  # seconds


class MadeEmbeddings(Embeddings):
    """Embeddings that no store has: on the device and, for exact cosines, in the memory of the CPU."""

    def __init__(self, made: MadeLayer, device: torch.device) -> None:
        source: Any = SimpleNamespace(width=made.embeddings.shape[1], name="made")
        store: Any = SimpleNamespace()
        super().__init__(store, source, len(made.embeddings))
        self.holds = True
        self._held[(str(device), torch.float32)] = made.embeddings
        self._held["cpu", torch.float32] = made.on_cpu


@dataclass(frozen=True, slots=True)
class MadeQuery(nearest.NearestQuery):
    """A question whose activations [M, N] are in memory."""

    values: torch.Tensor | None = None

    def activations(self) -> torch.Tensor:
        """Return the rows of the neurons."""
        assert self.values is not None
        return self.values[self.selection.neurons[0] : self.selection.neurons[-1] + 1]


@dataclass(frozen=True, slots=True)
class MadeLayer:
    """Embeddings [N, D] on the device, activations [M, N] on the CPU, what the neurons' statistics are, texts."""

    embeddings: torch.Tensor
    on_cpu: torch.Tensor  # the embeddings once more
    activations: torch.Tensor
    activating: torch.Tensor  # [M, K]
    values: torch.Tensor
    thresholds: torch.Tensor
    texts: torch.Tensor


def layer(run: Run) -> Iterator[Row]:
    """Yield the rows: peaks of the card, lists, nearest silent images, whole labels."""
    shape, device = QUICK if run.quick else IMAGENET, torch.device(run.device)
    made = make_layer(shape, device)
    what = f"{shape.neurons:,} neurons x {shape.images:,} images x {shape.width} dims"
    peaks = {str(dtype): _peak(run, device, dtype) for dtype in (torch.float32, torch.bfloat16)}
    memory = _bandwidth(run, device)
    for name, peak in peaks.items():
        yield Row(
            f"gpu.peak.{name.removeprefix('torch.')}",
            f"product of a square, {run.card()}",
            peak / 1e12,
            "TFLOP/s",
            "",
            None,
        )
    yield Row("gpu.peak.memory", f"bytes read and written by a copy, {run.card()}", memory / 1e9, "GB/s", "", None)
    yield from _lists(run, made, device, peaks, memory)
    yield from _labels(run, made, device, what, shape)


def make_layer(shape: Shape, device: torch.device) -> MadeLayer:
    """Return the layer, made where the products run."""
    generator = torch.Generator(device).manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, device=device)

    centres, directions = drawn(200, shape.width), drawn(shape.width, shape.neurons)
    embeddings = torch.empty(shape.images, shape.width, device=device)
    activations = torch.empty(shape.neurons, shape.images)
    totals = torch.zeros(shape.neurons, dtype=torch.float64, device=device)
    best = torch.full((shape.neurons, _EXAMPLES), -torch.inf, device=device)
    ids = torch.zeros((shape.neurons, _EXAMPLES), dtype=torch.int64, device=device)
    for first in range(0, shape.images, _ROWS):
        count = min(_ROWS, shape.images - first)
        cluster = torch.randint(200, (count,), generator=generator, device=device)
        rows = torch.nn.functional.normalize(centres[cluster] + 1.5 * drawn(count, shape.width), dim=1)
        values = (rows @ directions + 0.3 * drawn(count, shape.neurons) - 0.5) * (0.34 * drawn(count, 1)).exp()
        values = values.clamp_(min=0).T.contiguous()  # [M, n]
        embeddings[first : first + count] = rows
        activations[:, first : first + count] = values.cpu()
        totals += values.double().sum(1)
        top = values.topk(min(_EXAMPLES, count), dim=1)
        joined = torch.cat([best, top.values], 1).topk(_EXAMPLES, dim=1)
        ids = torch.cat([ids, top.indices + first], 1).gather(1, joined.indices)
        best = joined.values
    texts = torch.nn.functional.normalize(drawn(shape.texts, shape.width), dim=1).cpu()
    thresholds = (totals / shape.images).float().cpu()
    return MadeLayer(embeddings, embeddings.cpu(), activations, ids.cpu(), best.cpu(), thresholds, texts)


def _peak(run: Run, device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations per second of a product of squares."""
    side = 256 if device.type == "cpu" else 8192
    square = torch.randn(side, side, device=device).to(dtype)
    return 2.0 * side**3 / min(run.timed(lambda: square @ square))


def _bandwidth(run: Run, device: torch.device) -> float:
    values = torch.zeros(2**20 if device.type == "cpu" else 2**28, device=device)
    other = torch.empty_like(values)
    return 2.0 * values.numel() * values.element_size() / min(run.timed(lambda: other.copy_(values)))


def _lists(run: Run, made: MadeLayer, device: torch.device, peaks: dict[str, float], memory: float) -> Iterator[Row]:
    """Time the lists of the nearest images, of all distinct activating ones, in either precision."""
    distinct, width = made.activating.unique(), min(_WIDTH, len(made.embeddings))
    for dtype in (torch.float32, torch.bfloat16):
        vectors = MadeEmbeddings(made, device)
        vectors.dtype = partial(answer, dtype)  # type: ignore[method-assign]  # that of the turn, not the measured one
        seconds = run.timed(partial(computed_lists, vectors, distinct, width, device, lambda: None))
        median, short = statistics.median(seconds), str(dtype).removeprefix("torch.")
        pairs = float(len(distinct)) * len(made.embeddings)
        what = f"the {width} nearest of {len(made.embeddings):,} images to each of {len(distinct):,}, in {short}"
        detail = {"s": seconds, "operations": 2 * pairs * made.embeddings.shape[1]}
        yield Row(f"gpu.lists.{short}", what, median, "s", "", None, detail)
        share = 2 * pairs * made.embeddings.shape[1] / median / peaks[str(dtype)]
        yield Row(f"gpu.lists.{short}.matrix", "of it, the products at the card's peak", share, "share", "", None)
        moved = 2 * pairs * torch.empty((), dtype=dtype).element_size() / median / memory
        told = "of it, similarities written once and read once at the speed of a copy"
        yield Row(f"gpu.lists.{short}.memory", told, moved, "share", "", None)


def _labels(run: Run, made: MadeLayer, device: torch.device, what: str, shape: Shape) -> Iterator[Row]:
    """Time the whole layer: nearest silent images, then the labels."""
    vectors = MadeEmbeddings(made, device)
    options = ExampleOptions(examples=_EXAMPLES)
    target: Any = SimpleNamespace()
    store: Any = SimpleNamespace(has=lambda table: False)  # no lists are stored
    query = MadeQuery(
        store,
        Selection(vectors.source, target, torch.arange(shape.neurons).numpy()),
        vectors,
        made.activating,
        made.thresholds,
        shape.images,
        options,
        device,
        values=made.activations,
    )
    parts: dict[str, Any] = {}

    def find() -> None:
        parts["silent"] = nearest.by_products(query)

    def label() -> None:
        find()
        parts["labels"] = _scored(made, vectors, parts["silent"].ids).topk(5, dim=1)

    found, whole = run.timed(find, 1), run.timed(label, 2)
    ids = parts["silent"].ids[..., 0]
    if not bool((made.activations.gather(1, ids.clamp(min=0)) < made.thresholds[:, None])[ids >= 0].all()):
        raise RuntimeError("a contrastive image is not silent: the answer is wrong, and its time means nothing")
    told = f"the silent one nearest to each activating image: {what}"
    yield Row("gpu.nearest", told, statistics.median(found), "s", "", None, {"s": found})
    seconds = statistics.median(whole)
    bar, holds = ("< 2 s", seconds < _BAR) if not run.quick and device.type != "cpu" else ("", None)
    told = f"label {what}, {shape.texts:,} texts, embeddings on the card, activations in memory"
    yield Row("gpu.label-all", told, seconds, "s", bar, holds, {"s": whole, "card": run.card()})


def _scored(made: MadeLayer, vectors: MadeEmbeddings, contrastive: torch.Tensor) -> torch.Tensor:
    """Return the scores [M, C] by `csp`."""
    ids = torch.cat([made.activating.flatten(), contrastive.flatten()])
    used = ids[ids >= 0].unique()

    def places(images: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(used, images.clamp(min=0)).masked_fill(images < 0, -1)

    evidence = Evidence(
        vectors.of(used), places(made.activating), made.values, places(contrastive), made.texts, None, images=used
    )
    return score("csp", evidence, ScoringOptions()).scores
