"""What the live part answers, within what bounds, and the values it answers with. Does not load torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np

from csp_index.errors import SettingError
from csp_index.records import NeuronKey

NEURONS: Final = 64
"""Neurons of a query, at most."""
CANDIDATES: Final = 200
"""Candidate labels of a query's own, at most."""
LETTERS: Final = 200
"""Characters of such a candidate, at most."""
TOP: Final = 100
"""Labels per neuron in the answer, at most."""
NEIGHBOURS: Final = 100
"""Contrastive images per activating one, at most."""

_OPTIONS = ("gamma", "examples", "contrast", "threshold", "neighbours", "prior", "crop")
_PRIOR: Final = "images"


@dataclass(frozen=True, slots=True)
class Concepts:
    """What the M neurons of a layer mean: unit `vectors` [M, D] by `method`, those `alive` [M] ever fire."""

    method: str
    vectors: np.ndarray
    alive: np.ndarray


class Heat(NamedTuple):
    """Where in a picture a neuron fires: levels [h, w], uint8, x `scale` / 255 each, on the part `box` of the picture.

    `box` is left, top, right, bottom, shares of the sides.
    """

    levels: np.ndarray
    scale: float
    box: tuple[float, float, float, float]


class Excited(NamedTuple):
    """A neuron (its address) that a picture excites; `quantile` is the share of indexed images that do so less.

    `heat` is where in the picture; None where the neuron has no places in it.
    """

    neuron: str
    activation: float
    quantile: float
    heat: Heat | None = None


@dataclass(frozen=True, slots=True)
class LabelQuery:
    """A request for live labels, which stores nothing; None leaves a value to the method's default.

    With `run`, the id of a label run by the same method, None leaves a value to that run, and candidates are the
    vocabulary of that run. `candidates` are own texts in place of the vocabulary. Only clip-dissect and wpmi read
    `prior`: as published it runs over all neurons of the request, which says nothing about one neuron, so here it runs
    over the images by default. `confidence` False leaves out resampling. With `crop` stored crops stand in for the
    activating images. Raises SettingError for what is out of bounds.
    """

    neurons: tuple[NeuronKey, ...]
    method: str | None = None  # None: the run's, else the default
    gamma: float | None = None
    examples: int | None = None
    contrast: str | None = None
    threshold: str | None = None
    neighbours: int | None = None
    candidates: tuple[str, ...] | None = None
    top: int = 5
    prior: Literal["neurons", "images"] | None = None
    confidence: bool = True
    run: str | None = None
    crop: bool | None = None

    def __post_init__(self) -> None:
        _within("neurons", len(self.neurons), NEURONS)
        _within("top", self.top, TOP)
        if self.neighbours is not None:
            _within("neighbours", self.neighbours, NEIGHBOURS)
        if self.candidates is not None:
            _within("candidates", len(self.candidates), CANDIDATES)
            longest = max(map(len, self.candidates))
            if longest > LETTERS:
                raise SettingError(f"a candidate has {longest} characters: expected at most {LETTERS}")

    @property
    def options(self) -> dict[str, Any]:
        """The values of the query, as `Index.label` takes them; without `prior` where the default method labels."""
        values = {name: getattr(self, name) for name in _OPTIONS}
        if self.prior is None and (self.method is not None or self.run is not None):
            values["prior"] = _PRIOR
        if not self.confidence:
            values["bootstrap"] = 0
        return {name: value for name, value in values.items() if value is not None}


def _within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise SettingError(f"{name}: {value} given, expected 1 to {most}")
