"""What every examination shares: which models are tried on how many images, how they are loaded, what is warned of.

All problems are collected: one that comes early hides none of the later ones.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from csp_index import settings
from csp_index.errors import CspIndexError, SettingError
from csp_index.indexing.doctor.report import DoctorReport, Expected, PassTrial
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models, NetworkSource
from csp_index.models.networks import LoadedNetwork
from csp_index.models.objects import Encoder, Network

SAMPLE = 8
"""How many images are tried, if the caller does not say it."""

_SEED = 0
_LOGGER = "csp_index"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Examination:
    """Which models are to be tried, on how many images, and how activations would be stored (None: the setting)."""

    models: Models
    encoders: Sequence[str | Encoder] = ()
    networks: Sequence[NetworkSource | Network] = ()
    dtype: str | None = None
    sample: int = SAMPLE

    def __post_init__(self) -> None:
        if self.sample < 1:
            raise SettingError(f"sample is {self.sample}: expected at least 1 image to try")
        settings.ACTIVATION_DTYPE.value(self.dtype)

    @property
    def precision(self) -> str:
        """How activations would be stored."""
        return str(settings.ACTIVATION_DTYPE.value(self.dtype))


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


def load(report: DoctorReport, request: Examination) -> tuple[list[LoadedEncoder], list[LoadedNetwork]]:
    """Load the models that can be loaded; each that cannot, and each layer that cannot, is a problem."""
    models = request.models
    loaded = [report.attempt(partial(models.encoder, one), f"encoder {_spec(one)}") for one in request.encoders]
    studied = [_load_network(report, models, source) for source in request.networks]
    return [one for one in loaded if one is not None], [one for one in studied if one is not None]


def _spec(model: str | NetworkSource | Encoder | Network) -> str:
    return model if isinstance(model, str) else model.spec


def _load_network(report: DoctorReport, models: Models, source: NetworkSource | Network) -> LoadedNetwork | None:
    """Load a network with those of its layers that can be read."""
    layers = list(source.layers)
    if not layers:
        return report.attempt(lambda: models.network(source), f"network {source.spec}")
    while layers:
        try:
            return models.network(_choosing(source, layers))
        except CspIndexError as exc:
            report.problems.append(f"network {source.spec}: {exc}")
            wrong = next((layer for layer in layers if str(exc).startswith(f"layer {layer!r} ")), None)
            if wrong is None:
                return None
            layers.remove(wrong)
    return None


def _choosing(source: NetworkSource | Network, layers: Sequence[str]) -> NetworkSource | Network:
    if isinstance(source, NetworkSource):
        return replace(source, layers=tuple(layers))
    return source.choosing(layers, None)


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
def warnings_in(report: DoctorReport) -> Iterator[None]:
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

    def __init__(self, report: DoctorReport) -> None:
        super().__init__(logging.WARNING)
        self._report = report

    def emit(self, record: logging.LogRecord) -> None:
        self._report.notes.append(" ".join(record.getMessage().split()))
