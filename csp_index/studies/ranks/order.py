"""The order of activations, the highest first, their ranks, and look-ups in groups of rising numbers."""

from __future__ import annotations

import numpy as np


def falling_order(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return the places [n] of finite float32 values [n], the highest value first, equals by place.

    >>> falling_order(np.array([0.5, 2.0, -1.0, 2.0], np.float32), np.array([7, 8, 9, 5])).tolist()
    [5, 8, 7, 9]
    """
    bits = (values + np.float32(0)).view(np.int32)  # + 0 turns -0.0 into 0.0, so that the two tie
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (~rising).astype(np.int64) << 32 | places  # one sort of whole numbers, in place of one of places by value
    keys.sort()
    order: np.ndarray = keys & 0xFFFFFFFF
    return order


def falling_ranks(falling: np.ndarray, at: np.ndarray, count: int) -> np.ndarray:
    """Return the ranks [n] of values that fall, among `count`: 1 for the lowest, ties their mean.

    `at` [n] is where each value stands among all, the highest at 0; equal values stand side by side.

    >>> falling_ranks(np.array([3.0, 2.0, 2.0, -1.0]), np.array([0, 1, 2, 9]), 10).tolist()
    [10.0, 8.5, 8.5, 1.0]
    """
    if not len(falling):
        return np.zeros(0)
    starts = np.concatenate([[0], np.flatnonzero(falling[1:] != falling[:-1]) + 1])
    lengths = np.diff(starts, append=len(falling))
    return np.repeat(count - at[starts] - (lengths - 1) / 2, lengths)


def unlisted(gaps: np.ndarray, starts: np.ndarray, span: int, place: np.ndarray | int) -> np.ndarray:
    """Return, for each of C groups, which number is the one at `place` (int or [C]) among those that it does not list.

    Group c lists rising numbers; `gaps` are they, less how many of the group come before, plus c x `span`, so that all
    rise; `starts` [C] is where each group begins. Before the answer stand the m listed numbers whose gap is at most
    `place`, so it is `place` + m.
    """
    first = np.arange(len(starts)) * span
    places: np.ndarray = place + np.searchsorted(gaps, first + place, side="right") - starts
    return places
