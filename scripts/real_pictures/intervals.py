"""Intervals over neurons and model seeds: both are drawn again, seeds first, then the neurons within each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES: Final = 1000
#: Fewer neurons than this in a cell are no judgment.
LEAST_NEURONS: Final = 10


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over neurons with its 95 % interval; `neurons` and `seeds` say of how many."""

    mean: float
    low: float
    high: float
    neurons: int
    seeds: int

    def __str__(self) -> str:
        """Return the estimate as a table's cell, or say that there are too few neurons."""
        if self.neurons < LEAST_NEURONS:
            return f"too few ({self.neurons})"
        return f"{self.mean:.2f} ({self.low:.2f}-{self.high:.2f})"

    def signed(self) -> str:
        """Return the estimate of a difference as a table's cell."""
        if self.neurons < LEAST_NEURONS:
            return str(self)
        return f"{self.mean:+.2f} ({self.low:+.2f} to {self.high:+.2f})"

    def plain(self) -> dict[str, float | None]:
        """Return the fields for JSON, None for what is unknown."""
        return {name: None if np.isnan(value) else value for name, value in asdict(self).items()}


def estimate(by_seed: Sequence[ArrayLike], resamples: int = RESAMPLES) -> Estimate:
    """Return the mean of all values, one row of values per model seed; NaN values do not count.

    >>> str(estimate([[1.0] * 20, [0.0] * 20]))
    '0.50 (0.00-1.00)'
    """
    rows = [values[~np.isnan(values)] for values in (np.asarray(row, float).ravel() for row in by_seed)]
    rows = [values for values in rows if len(values)]
    if not rows:
        return Estimate(float("nan"), float("nan"), float("nan"), 0, 0)
    rng = np.random.default_rng(0)
    sums, counts = np.zeros(resamples), np.zeros(resamples)
    for drawn in rng.integers(len(rows), size=(len(rows), resamples)):  # a seed per resample, as often as there are
        for place, values in enumerate(rows):
            own = np.flatnonzero(drawn == place)
            sums[own] += values[rng.integers(len(values), size=(len(own), len(values)))].sum(1)
            counts[own] += len(values)
    means = sums / counts
    low, high = np.quantile(means, (0.025, 0.975))
    together = np.concatenate(rows)
    return Estimate(float(together.mean()), float(low), float(high), len(together), len(rows))


def paired(first: Sequence[ArrayLike], second: Sequence[ArrayLike], resamples: int = RESAMPLES) -> Estimate:
    """Return the estimate of the difference of two rows of values of the same neurons."""
    return estimate(
        [np.asarray(a, float) - np.asarray(b, float) for a, b in zip(first, second, strict=True)], resamples
    )
