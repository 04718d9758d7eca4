"""The fitted curves from features of labels to the probability that a label is right. Free of torch.

`calibration.json` has an additive logistic regression for each calibrated method, with what it was fitted on, by which
command and commit (`scripts/calibration`), and how it did on what it was not fitted on. A label counted as right where
the images that it and the neuron's truth are true of overlap by half (IoU), and as wrong where the neuron is one of a
network that has learned nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

_FILE: Final = Path(__file__).with_name("calibration.json")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A broken line for each of F features, with K knots [F, K] that ascend; log odds are the sum of all, and a bias.

    `rises` [F, K - 1] are what the line gains between its knots. Beyond the outer knots it is flat: no label is judged
    by an extreme.
    """

    knots: np.ndarray
    rises: np.ndarray
    bias: float

    def probability(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities [M] of labels with features [M, F]; NaN where a feature is not finite.

        >>> one = Calibration(np.array([[0.0, 2.0]]), np.array([[4.0]]), -2.0)
        >>> one.probability(np.array([[1.0], [np.nan]])).tolist()
        [0.5, nan]
        """
        known = np.isfinite(features).all(1)
        odds = np.full(len(features), self.bias)
        for values, knots, rises in zip(np.where(known[:, None], features, 0.0).T, self.knots, self.rises, strict=True):
            odds += np.interp(values, knots, np.concatenate(([0.0], rises.cumsum())))
        result: np.ndarray = 1 / (1 + np.exp(-odds))
        return np.where(known, result, np.nan)

    def as_json(self) -> dict[str, object]:
        """Return the object that `read_calibrations` reads."""
        rows = {"knots": self.knots, "rises": self.rises}
        return {name: np.round(values, 5).tolist() for name, values in rows.items()} | {"bias": round(self.bias, 5)}


@cache
def read_calibrations() -> Mapping[str, Calibration]:
    """Return the calibrated methods of the package, by name."""
    methods = json.loads(_FILE.read_text())["methods"]
    return {
        name: Calibration(np.array(part["knots"]), np.array(part["rises"]), float(part["bias"]))
        for name, part in methods.items()
    }
