"""What `doctor` reports: values, which say themselves as text or HTML. Knows nothing about how they come about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Self, TypeVar

import numpy as np

from csp_index.errors import CspIndexError
from csp_index.indexing.doctor import text

T = TypeVar("T")


@dataclass(slots=True)
class Listing:
    """The images of a source, without a pixel read.

    `kinds` counts them by the ending of their names, `passed_over` the files that are none, by reason; `metadata` says
    what a table joined and what was guessed about classes, `columns` how many images have a value in each column.
    """

    source: str
    images: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    passed_over: dict[str, int] = field(default_factory=dict)
    metadata: list[str] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a pass over all images would take: seconds at the measured speed, and bytes before compression."""

    images: int
    seconds: float | None
    embeddings: float
    activations: float
    thumbnails: float


@dataclass(frozen=True, slots=True)
class Input:
    """What a model's preprocessing makes of an image: its shape, and the range of the values over the images tried."""

    shape: tuple[int, ...]
    least: float
    most: float
    mean: float
    std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Degenerate:
    """Which shares of a layer's neurons say little on some images; None where that is not known.

    A neuron is `dead` if it fires (> 0) on no image, `always_on` if it fires on all, and `constant` if it fires with
    the same value on all.
    """

    dead: float | None = None
    always_on: float | None = None
    constant: float | None = None

    def with_shares(self, least: np.ndarray, most: np.ndarray) -> Self:
        """Return the same with the shares by the least and the highest activation [M] of each neuron, M > 0."""
        always_on = least > 0
        which = (most <= 0, always_on, always_on & (least == most))
        dead, always, constant = (float(np.mean(one)) for one in which)
        return replace(self, dead=dead, always_on=always, constant=constant)


@dataclass(frozen=True, slots=True)
class LayerTrial(Degenerate):
    """A layer as its output is read; the shares are over the images tried. `axes` have the neurons, from 1."""

    layer: str
    kind: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    pool: str
    neurons: int
    understood: str = ""


@dataclass(slots=True)
class ModelTrial:
    """An encoder or a network, and what it gave; fields that need an image are None where none went through."""

    kind: str  # encoder or network
    spec: str
    name: str
    device: str
    preprocessing: str
    width: int | None = None
    logit_scale: float | None = None
    layers: list[LayerTrial] = field(default_factory=list)
    input: Input | None = None
    repeats: bool | None = None  # two passes over the same images agree
    bytes_per_image: float | None = None


@dataclass(slots=True)
class PassTrial:
    """What a trial found: the models, the images it took, the speed of a warm pass with all models, and what is wrong.

    `thumbnail_bytes` is the mean of one image.
    """

    models: list[ModelTrial] = field(default_factory=list)
    tried: int = 0
    read: int = 0
    images_per_second: float | None = None
    thumbnail_bytes: float | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class StoredEncoder:
    """An encoder of the index."""

    encoder: str
    width: int
    images: int


@dataclass(frozen=True, slots=True)
class StoredLayer(Degenerate):
    """A layer of the index; the shares are over all images."""

    layer: str
    network: str
    neurons: int
    pool: str
    dtype: str
    images: int


@dataclass(slots=True)
class DoctorReport:
    """What was understood of a source of images, and of models tried on a few of them.

    `problems` has a line for each thing that would not work; `notes` say what to know. Its text is that of
    `csp-index doctor`.
    """

    listing: Listing
    trial: PassTrial = field(default_factory=PassTrial)
    expected: Expected | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, work: Callable[[], T], what: str = "") -> T | None:
        """Return what `work` returns; an error becomes a problem, and the result None."""
        try:
            return work()
        except CspIndexError as exc:
            self.problems.append(f"{what}: {exc}" if what else str(exc))
            return None

    def take(self, trial: PassTrial) -> None:
        """Take over the result of a trial, with its problems and notes."""
        self.trial = trial
        self.problems += trial.problems
        self.notes += trial.notes

    @property
    def works(self) -> bool:
        """Whether indexing, or extending the index, would work."""
        return not self.problems

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        return [*text.source_lines(self), *text.verdict_lines(self)]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return text.as_html(self)


@dataclass(slots=True)
class IndexReport(DoctorReport):
    """What an index holds, and what was understood of models tried on its images.

    `bytes` are those of its files, None in a bucket; `failures` counts images that cannot be used.
    """

    encoders: list[StoredEncoder] = field(default_factory=list)
    layers: list[StoredLayer] = field(default_factory=list)
    failures: int = 0
    bytes: int | None = None

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        return [*text.index_lines(self), *text.source_lines(self), *text.verdict_lines(self)]
