"""The evidence of a finding: pairs, counter-examples, effects on classes, and where the factor and the class part.

What `evidence_of` returns is stored as JSON: image ids, activations and counts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from csp_index.records import ExamplePair, Label
from csp_index.studies.auditing.findings import Finding

_IMAGES: Final = 4  # in each list
_PAIRS: Final = 6
_CLASSES: Final = 5


def evidence_of(
    finding: Finding,
    activations: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
    value: np.ndarray | None,
    label: Label,
    pushes: Sequence[tuple[str, float]],
) -> dict[str, Any]:
    """Return the evidence of a finding about a neuron with activations [N].

    `inside` and `outside` [N] are the images of the class and of others, `value` [N] those with the value of an
    artefact, None for other findings.
    `pushes` are the neuron's effects on all classes. Fields: `pairs` of activating and silent images; `effects`, the
    largest by size; `counter_examples`, images of the class that activate the neuron least, and other images that
    activate it most; `cells` of an artefact, the mean activation and strongest images with and without the class and
    the value.
    """
    largest = sorted(pushes, key=lambda one: (-abs(one[1]), one[0]))[:_CLASSES]
    evidence: dict[str, Any] = {
        "pairs": [_pair(pair) for pair in label.pairs if pair.contrast_id is not None][:_PAIRS],
        "effects": [{"class_name": name, "effect": push} for name, push in largest],
        "counter_examples": {
            "class_without_firing": _images(activations, inside, rising=True),
            "firing_without_class": _images(activations, outside),
        },
        "cells": [],
        "further_classes": dict(finding.further),
    }
    if value is not None:
        evidence["cells"] = [
            _cell(activations, mask & (value == with_value), of_class=of_class, with_value=with_value)
            for mask, of_class in ((inside, True), (outside, False))
            for with_value in (True, False)
        ]
    return evidence


def _pair(pair: ExamplePair) -> dict[str, Any]:
    return {
        "image": pair.image_id,
        "activation": pair.activation,
        "silent": pair.contrast_id,
        "silent_activation": pair.contrast_activation,
        "similarity": pair.similarity,
    }


def _cell(activations: np.ndarray, mask: np.ndarray, *, of_class: bool, with_value: bool) -> dict[str, Any]:
    """Return how the neuron reacts to the images of a mask."""
    return {
        "of_class": of_class,
        "with_value": with_value,
        "count": int(mask.sum()),
        "mean": float(activations[mask].mean()) if mask.any() else None,
        "images": _images(activations, mask),
    }


def _images(activations: np.ndarray, mask: np.ndarray, *, rising: bool = False) -> list[dict[str, Any]]:
    """Return the images of a mask that activate a neuron most (or least), with their activations."""
    places = np.flatnonzero(mask)
    values = activations[places] if rising else -activations[places]
    chosen = places[np.argsort(values, kind="stable")[:_IMAGES]]
    return [{"image": int(place), "activation": float(activations[place])} for place in chosen]
