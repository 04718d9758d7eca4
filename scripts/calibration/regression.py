"""A logistic regression from features of labels to the probability that a label is right. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_MOST = 4.0  # standard scores beyond this count as this: no label is judged by an extreme alone


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic regression on standardized features, [F] each."""

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    bias: float

    def probability(self, features: np.ndarray) -> np.ndarray:
        """Return the probabilities [M] of labels with features [M, F]; NaN where a feature is not finite.

        >>> one = Calibration(np.zeros(1), np.ones(1), np.ones(1), 0.0)
        >>> one.probability(np.array([[0.0], [np.nan]])).tolist()
        [0.5, nan]
        """
        known = np.isfinite(features).all(1)
        standard = np.clip((features - self.mean) / self.deviation, -_MOST, _MOST)
        result: np.ndarray = 1 / (1 + np.exp(-(np.where(known[:, None], standard, 0.0) @ self.weights + self.bias)))
        return np.where(known, result, np.nan)

    @classmethod
    def fit(cls, features: np.ndarray, right: np.ndarray, weights: np.ndarray, ridge: float) -> Calibration:
        """Fit by Newton's method: finite features [M, F], right [M] in {0, 1}, weights [M]; ridge of mean loss."""
        mean, deviation = features.mean(0), features.std(0) + 1e-9
        inputs = np.c_[np.clip((features - mean) / deviation, -_MOST, _MOST), np.ones(len(features))]
        share, slopes = weights / weights.sum(), np.zeros(inputs.shape[1])
        penalty = np.append(np.full(features.shape[1], ridge), 0.0)
        for _ in range(50):
            likely = 1 / (1 + np.exp(-inputs @ slopes))
            slope = inputs.T @ (share * (likely - right)) + penalty * slopes
            curve = (inputs * (share * likely * (1 - likely))[:, None]).T @ inputs + np.diag(penalty + 1e-9)
            step = np.linalg.solve(curve, slope)
            slopes -= step
            if np.abs(step).max() < 1e-9:
                break
        return cls(mean, deviation, slopes[:-1], float(slopes[-1]))

    def as_json(self) -> dict[str, object]:
        """Return the object that is stored."""
        arrays = {"mean": self.mean, "deviation": self.deviation, "weights": self.weights}
        return {name: [round(float(value), 6) for value in values] for name, values in arrays.items()} | {
            "bias": round(self.bias, 6)
        }
