"""One-to-one matches of two sets of neurons from their similarities. Numerics alone: NumPy and SciPy.

The sum of the similarities of all matches is the largest possible. Small sets are matched by the exact assignment over
the whole matrix; large ones by the exact assignment over a sparse short list, the most similar ones of each neuron.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

DENSE = 4096 * 4096  # similarities, at most, of which all are looked at
LISTED = 32  # most similar neurons of each neuron in the short list
_SHIFT, _UNMATCHED = 3.0, 1.0  # weights are 3 + similarity, so all are positive; of no match at all 1


@dataclass(frozen=True, slots=True)
class Matching:
    """The matches of M1 neurons: partner and similarity; and of each neuron of both sides the highest similarity.

    A neuron without a partner, because the other side has fewer or it takes no part, has partner -1 and NaN.
    """

    partners: np.ndarray  # [M1] int64
    scores: np.ndarray  # [M1] float64
    best: np.ndarray  # [M1] float64, over all neurons of the other side that take part; NaN if there are none
    best_other: np.ndarray  # [M2] float64


def match(
    blocks: Iterable[np.ndarray], first: np.ndarray, second: np.ndarray, *, dense: int = DENSE, listed: int = LISTED
) -> Matching:
    """Return the matches of neurons whose similarities [M1, M2], in [-1, 1], come in blocks of rows.

    `first` [M1] and `second` [M2] bool say which neurons take part. Up to `dense` similarities are looked at together;
    of more, the `listed` highest of each row and of each column.
    """
    size = len(first), len(second)
    best, best_other = np.full(size[0], np.nan), np.full(size[1], np.nan)
    partners, scores = np.full(size[0], -1, np.int64), np.full(size[0], np.nan)
    rows, columns = np.flatnonzero(first), np.flatnonzero(second)
    if not len(rows) or not len(columns):
        return Matching(partners, scores, best, best_other)
    kept = _Whole() if len(rows) * len(columns) <= dense else _ShortList(len(columns), listed)
    start = 0
    for block in blocks:
        inside = rows[(rows >= start) & (rows < start + len(block))]
        taken = block[inside - start][:, columns]
        start += len(block)
        if len(inside):
            best[inside] = taken.max(1)
            best_other[columns] = np.fmax(best_other[columns], taken.max(0))
            kept.add(taken)
    left, right, values = kept.assign()
    partners[rows[left]], scores[rows[left]] = columns[right], values
    return Matching(partners, scores, best, best_other)


class _Whole:
    """All similarities."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []

    def add(self, block: np.ndarray) -> None:
        self._blocks.append(block)

    def assign(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from scipy.optimize import linear_sum_assignment

        matrix = np.concatenate(self._blocks)
        left, right = linear_sum_assignment(matrix, maximize=True)
        return left, right, matrix[left, right].astype(np.float64)


class _ShortList:
    """The highest similarities of each row and of each column; blocks of rows come in order."""

    def __init__(self, columns: int, listed: int) -> None:
        self._listed, self._rows = listed, 0
        self._entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # row, column, similarity
        self._column_rows = np.full((columns, 0), -1, np.int64)  # the best rows of each column so far
        self._column_values = np.full((columns, 0), -np.inf, np.float32)

    def add(self, block: np.ndarray) -> None:
        numbers = np.arange(self._rows, self._rows + len(block))
        self._rows += len(block)
        places = _highest(block, self._listed)
        row = np.repeat(numbers, places.shape[1])
        self._entries.append((row, places.reshape(-1), np.take_along_axis(block, places, 1).reshape(-1)))
        places = _highest(block.T, self._listed)
        values = np.concatenate([self._column_values, np.take_along_axis(block.T, places, 1)], 1)
        rows = np.concatenate([self._column_rows, numbers[places]], 1)
        kept = _highest(values, self._listed)
        self._column_values = np.take_along_axis(values, kept, 1)
        self._column_rows = np.take_along_axis(rows, kept, 1)

    def assign(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import min_weight_full_bipartite_matching

        columns = len(self._column_rows)
        of_column = np.repeat(np.arange(columns), self._column_rows.shape[1])
        parts = [*self._entries, (self._column_rows.reshape(-1), of_column, self._column_values.reshape(-1))]
        row, column, value = (np.concatenate(part) for part in zip(*parts, strict=True))
        keys, first = np.unique(row * columns + column, return_index=True)  # an entry of both lists counts once
        row, column, value = row[first], column[first], value[first]
        own = np.arange(self._rows)  # a column for each row alone: a full matching exists
        weights = np.concatenate([_SHIFT + value.astype(np.float64), np.full(self._rows, _UNMATCHED)])
        ends = np.concatenate([row, own]), np.concatenate([column, columns + own])
        graph = csr_array((weights, ends), shape=(self._rows, columns + self._rows))
        left, right = min_weight_full_bipartite_matching(graph, maximize=True)
        matched = right < columns
        left, right = left[matched], right[matched]
        return left, right, value[np.searchsorted(keys, left * columns + right)].astype(np.float64)


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Return the places [R, k] of the highest `count` values of each row, in no order."""
    count = min(count, values.shape[1])
    result: np.ndarray = np.argpartition(values, values.shape[1] - count, axis=1)[:, values.shape[1] - count :]
    return result
