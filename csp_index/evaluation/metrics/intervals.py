"""The uncertainty of a mean over neurons: bootstrap intervals, paired tests of two methods, Holm's correction.

Missing values (NaN) are left out and the rest counted. The bootstrap draws neurons with replacement (percentile
interval, seeded): an interval depends only on the values, the rounds, the level and the seed, not on what is computed
in the same call. Knows nothing about metrics, methods or storage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from scipy.stats import rankdata, wilcoxon

from csp_index.errors import EvaluationError

ROUNDS: Final = 1000
LEVEL: Final = 0.95
#: With fewer pairs Wilcoxon's p-value cannot be below 0.05 for any values, so none is returned.
LEAST_PAIRS: Final = 6
_ENUMERATED: Final = 13  # differences at most for the exact distribution, as in SciPy
_BLOCK: Final = 2**23  # draws in memory at a time


@dataclass(frozen=True, slots=True)
class MeanInterval:
    """Means of R rows with their intervals, float64 [R]; NaN where no neuron has a value. `count` int64 [R]."""

    mean: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    count: torch.Tensor


def mean_interval(values: torch.Tensor, rounds: int = ROUNDS, level: float = LEVEL, seed: int = 0) -> MeanInterval:
    """Return the mean over neurons of each row of `values` [R, M] with its bootstrap interval; NaN is left out.

    A single value has an interval of width 0, which says nothing about other neurons.

    >>> interval = mean_interval(torch.tensor([[1.0, 2.0, 3.0, torch.nan]]))
    >>> interval.mean.item(), interval.count.item()
    (2.0, 3)
    """
    _check(rounds, level)
    if values.ndim != 2:
        raise EvaluationError(f"values have shape {tuple(values.shape)}: expected [R, M], a row per mean")
    values = values.double()
    present = ~values.isnan()
    count = present.sum(1)
    # present values first, wherever the absent ones were: rows with the same count then share their draws
    packed = values.nan_to_num(0.0).gather(1, present.sort(dim=1, descending=True, stable=True).indices)
    mean, low, high = (torch.full((len(values),), torch.nan, dtype=torch.float64) for _ in range(3))
    for size in count.unique().tolist():
        if size == 0:
            continue
        rows = count == size
        block = packed[rows, :size]
        mean[rows] = block.mean(1)
        tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
        low[rows], high[rows] = torch.quantile(_resampled(block, rounds, seed), tails, dim=1)
    return MeanInterval(mean, low, high, count)


def signed_rank(differences: torch.Tensor) -> list[float | None]:
    """Return Wilcoxon's two-sided signed-rank p-value of each row of `differences` [R, M]; NaN and 0 are left out.

    It is None with fewer than LEAST_PAIRS differences, zeros counted, and 1 where all are 0. Rows are tested together
    where SciPy takes the same way for each: with as many differences, all of which have ties or none has.

    >>> signed_rank(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, torch.nan, torch.nan, torch.nan]]))
    [0.03125, None]
    """
    p_values: list[float | None] = [None] * len(differences)
    together: dict[tuple[int, bool], list[tuple[int, np.ndarray]]] = {}
    for row, values in enumerate(differences.double().numpy()):
        present = values[~np.isnan(values)]
        if len(present) < LEAST_PAIRS:
            continue
        changed = present[present != 0]
        if len(changed) <= _ENUMERATED:
            p_values[row] = _enumerated(changed)
        else:
            has_ties = len(np.unique(np.abs(changed))) < len(changed)
            together.setdefault((len(changed), has_ties), []).append((row, changed))
    for tests in together.values():
        found = wilcoxon(np.stack([changed for _, changed in tests]), axis=1).pvalue
        for (row, _), p_value in zip(tests, found.tolist(), strict=True):
            p_values[row] = p_value
    return p_values


def holm(p_values: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return p-values corrected for their number by Holm's step-down method; None stays None and does not count.

    >>> holm([0.01, None, 0.04, 0.03])
    (0.03, None, 0.06, 0.06)
    """
    order = sorted((p, position) for position, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for step, (p, position) in enumerate(order):
        highest = max(highest, min(1.0, p * (len(order) - step)))
        corrected[position] = highest
    return tuple(corrected)


def _resampled(values: torch.Tensor, rounds: int, seed: int) -> torch.Tensor:
    """Return the means [R, rounds] of rows resampled with replacement, with the same draws for every row."""
    generator = torch.Generator().manual_seed(seed)
    size = values.shape[1]
    parts = []
    for done in range(0, rounds, step := max(1, _BLOCK // size)):
        number = min(step, rounds - done)
        draws = torch.randint(size, (number, size), generator=generator)
        times = torch.zeros(number, size, dtype=torch.float64)
        times.scatter_add_(1, draws, torch.ones(1, 1, dtype=torch.float64).expand(number, size))
        parts.append(values @ times.T / size)
    return torch.cat(parts, 1)


def _enumerated(changed: np.ndarray) -> float:
    """Return the exact p-value of few differences [n], none 0, from the sums of ranks under all 2^n signs.

    SciPy permutes where few differences have ties, half a second per test; this gives the same number.
    """
    ranks = rankdata(np.abs(changed))
    signs = np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed)) & 1
    sums, observed = signs @ ranks, ranks[changed > 0].sum()
    return float(min(1.0, 2 * min((sums <= observed).mean(), (sums >= observed).mean())))


def _check(rounds: int, level: float) -> None:
    if rounds < 1:
        raise EvaluationError(f"bootstrap rounds is {rounds}: expected at least 1, for example 1000")
    if not 0 < level < 1:
        raise EvaluationError(f"level is {level}: expected a share between 0 and 1, for example 0.95")
