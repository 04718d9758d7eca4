"""Frozen values that cross module borders. Knows nothing about storage, models or tensors."""

from __future__ import annotations

from collections.abc import Callable

from csp_index.records.addresses import LayerKey, NeuronKey
from csp_index.records.labels import (
    PREDICTED_SHARE,
    ExamplePair,
    Label,
    LabelScore,
    LabelState,
    prediction_set_of,
    rivals_of,
)
from csp_index.records.options import (
    BOUNDS,
    STUDY_SEEDS,
    ContrastKind,
    DerivedKind,
    ExampleOptions,
    ScoringOptions,
    check_seed,
)

Progress = Callable[[int, int, str], None]
"""A function that is told what was done of how much, and what is going on."""

__all__ = [
    "BOUNDS",
    "PREDICTED_SHARE",
    "STUDY_SEEDS",
    "ContrastKind",
    "DerivedKind",
    "ExampleOptions",
    "ExamplePair",
    "Label",
    "LabelScore",
    "LabelState",
    "LayerKey",
    "NeuronKey",
    "Progress",
    "ScoringOptions",
    "check_seed",
    "prediction_set_of",
    "rivals_of",
]
