"""What indexing would do, tried on a handful of images before hours are spent; nothing is written.

`examine_source` is about images that are not indexed yet, `index.examine_index` about an index. All problems are
collected: one that comes early hides none of the later ones.
"""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from csp_index import settings
from csp_index.errors import CspIndexError
from csp_index.images.class_folders import class_notes_of
from csp_index.images.decode import ImageRef, ImageSource
from csp_index.images.folders import FolderSource
from csp_index.images.passed_over import passed_over_by
from csp_index.images.sources import open_source
from csp_index.indexing.doctor.trial_pass import PassTrial, try_models
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models, NetworkSource
from csp_index.models.networks import LoadedNetwork

SAMPLE = 8
"""How many images are tried, if the caller does not say it."""

_SEED = 0
_LOGGER = "csp_index"

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


@dataclass(slots=True)
class Report:
    """What was understood. `problems` has a line for each thing that would not work; `notes` say what to know."""

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


def examine_source(
    location: str | Path,
    encoders: Sequence[str],
    networks: Sequence[NetworkSource],
    models: Models,
    *,
    dtype: str | None = None,
    sample: int = SAMPLE,
    **about: str | None,
) -> Report:
    """Return what would be indexed from a source, tried on a seeded `sample` of its images.

    `about` are the options of `open_source`: metadata, metadata_key, class_names, image_column.
    """
    report = Report(Listing(str(location)))
    precision = str(settings.ACTIVATION_DTYPE.value(dtype))
    with warnings_in(report):
        source = _opened(report, location, about)
        refs = report.attempt(lambda: listed(source, report.listing, sample)) if source is not None else None
        loaded, studied = load(report, models, encoders, networks)
        trial = report.attempt(lambda: try_models(refs or [], loaded, studied, precision))
        report.take(trial or PassTrial())
        if not encoders:
            report.notes.append("no --encoder is given, and a new index needs one")
    report.expected = expected(report.trial, report.listing.images)
    return report


def _opened(report: Report, location: str | Path, about: Mapping[str, str | None]) -> ImageSource | None:
    """Open a source; if what comes with it does not fit, open the images alone, so that they are examined, too."""
    source = report.attempt(lambda: open_source(location, **about))
    if source is None and any(value is not None for value in about.values()):
        alone = Report(report.listing)
        source = alone.attempt(lambda: open_source(location))
        report.problems += [line for line in alone.problems if line not in report.problems]
    return source


def listed(source: ImageSource, listing: Listing, sample: int) -> list[ImageRef]:
    """Fill a listing with the images of a source, and return a seeded sample of them, in their order."""
    kinds, columns = Counter[str](), Counter[str]()

    def refs() -> Iterator[ImageRef]:
        for ref in source.refs():
            kinds[_kind(ref.uri)] += 1
            columns.update(name for name, value in ref.metadata.items() if value is not None)
            yield ref

    chosen = sampled(refs(), sample)
    listing.source = source.name
    listing.images, listing.kinds, listing.columns = kinds.total(), dict(kinds.most_common()), dict(columns)
    listing.passed_over = dict(passed_over_by(source).most_common())
    table = source.notes if isinstance(source, FolderSource) else ()
    listing.metadata = [*table, *class_notes_of(source)]
    return chosen


def sampled(items: Iterable[T], count: int) -> list[T]:
    """Return `count` items of a stream in their order, each with the same chance, always the same ones.

    >>> sampled(range(1000), 3) == sampled(range(1000), 3), sampled("ab", 3)
    (True, ['a', 'b'])
    """
    generator = random.Random(_SEED)  # a choice that can be repeated  # nosec B311
    chosen: list[tuple[int, T]] = []
    for number, item in enumerate(items):
        if number < count:
            chosen.append((number, item))
        elif (place := generator.randrange(number + 1)) < count:
            chosen[place] = (number, item)
    return [item for _, item in sorted(chosen, key=lambda pair: pair[0])]


def _kind(uri: str) -> str:
    """Return the ending of an image's name, or what it lies in where it has none."""
    container, mark, member = uri.partition("#")
    ending = os.path.splitext(member)[1].lower() if mark else os.path.splitext(uri)[1].lower()
    inside = os.path.splitext(container)[1].lower()
    return ending or (f"in {inside or 'a data set'}" if mark else "without an ending")


def load(
    report: Report, models: Models, encoders: Sequence[str], networks: Sequence[NetworkSource]
) -> tuple[list[LoadedEncoder], list[LoadedNetwork]]:
    """Load the models that can be loaded; each that cannot, and each layer that cannot, is a problem."""
    loaded = [report.attempt(partial(models.encoder, spec), f"encoder {spec}") for spec in encoders]
    studied = [_load_network(report, models, source) for source in networks]
    return [one for one in loaded if one is not None], [one for one in studied if one is not None]


def _load_network(report: Report, models: Models, source: NetworkSource) -> LoadedNetwork | None:
    """Load a network with those of its layers that can be read."""
    layers = list(source.layers)
    while layers:
        try:
            return models.network(replace(source, layers=tuple(layers)))
        except CspIndexError as exc:
            report.problems.append(f"network {source.spec}: {exc}")
            wrong = next((layer for layer in layers if str(exc).startswith(f"layer {layer!r} ")), None)
            if wrong is None:
                return None
            layers.remove(wrong)
    return None


def expected(trial: PassTrial, images: int) -> Expected | None:
    """Return what a pass over `images` would take; None if no image went through the models."""
    if trial.thumbnail_bytes is None:
        return None
    sizes = {kind: 0.0 for kind in ("encoder", "network")}
    for model in trial.models:
        sizes[model.kind] += (model.bytes_per_image or 0.0) * images
    speed = trial.images_per_second
    seconds = images / speed if speed else None
    return Expected(images, seconds, sizes["encoder"], sizes["network"], trial.thumbnail_bytes * images)


@contextmanager
def warnings_in(report: Report) -> Iterator[None]:
    """Put what csp_index warns of into the notes of a report, instead of on stderr."""
    logger, handler = logging.getLogger(_LOGGER), _Notes(report)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)
        report.problems = list(dict.fromkeys(report.problems))  # parts of one network may lack the same
        report.notes = [line for line in dict.fromkeys(report.notes) if line not in report.listing.metadata]


class _Notes(logging.Handler):
    """Append log records to the notes of a report."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.notes.append(" ".join(record.getMessage().split()))
