"""Fit an additive logistic regression: a broken line for each feature, some of which may only rise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.optimize import minimize

from csp_index.labelling.probabilities.calibration import Calibration

#: Shares of the labels below the knots; beyond the outer ones a feature says no more.
KNOTS: Final = (0.005, 0.1, 0.3, 0.5, 0.7, 0.9, 0.995)
#: Features are rounded to so many before the fit: a line that rose between two knots apart by rounding would be a step.
DECIMALS: Final = 4


def fit_additive(
    features: np.ndarray, right: np.ndarray, weights: np.ndarray, rising: Sequence[bool], ridge: float
) -> Calibration:
    """Fit finite features [M, F] to right [M] in {0, 1} with weights [M]; `ridge` is that of the mean loss.

    A feature that is `rising` [F] never lowers the probability.
    """
    features = features.round(DECIMALS)
    knots = np.quantile(features, KNOTS, axis=0).T.round(DECIMALS)
    inputs = _ramps(features, knots)
    share = weights / weights.sum()

    def loss(slopes: np.ndarray) -> tuple[float, np.ndarray]:
        odds = inputs @ slopes[:-1] + slopes[-1]
        slope = share * (1 / (1 + np.exp(-odds)) - right)
        value = (share * (np.logaddexp(0, odds) - right * odds)).sum() + ridge / 2 * (slopes[:-1] ** 2).sum()
        return float(value), np.append(inputs.T @ slope + ridge * slopes[:-1], slope.sum())

    bounds = [(0.0 if up else None, None) for up in rising for _ in range(len(KNOTS) - 1)]
    start = np.zeros(inputs.shape[1] + 1)
    result = minimize(
        loss, start, jac=True, method="L-BFGS-B", bounds=[*bounds, (None, None)], options={"maxiter": 2000}
    )
    return Calibration(knots, result.x[:-1].reshape(len(knots), -1), float(result.x[-1]))


def _ramps(features: np.ndarray, knots: np.ndarray) -> np.ndarray:
    """Return how far each feature [M, F] is through each part between its knots, [M, F (K - 1)] in [0, 1]."""
    low, high = knots[:, :-1], knots[:, 1:]
    through: np.ndarray = (np.clip(features[:, :, None], low, high) - low) / np.maximum(high - low, 1e-9)
    return through.reshape(len(features), -1)
