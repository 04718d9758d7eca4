"""Numbers in place of classes: which columns hold measured numbers, and bins with as many images each. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

BINS: Final = 10
"""Bins of a column of measured numbers, by default."""
MOST_BINS: Final = 1000
TO: Final = " to "
"""What stands between the lowest and the highest number of a bin in its name."""

_FEW_NUMBERS = 20  # different numbers that are classes, whatever they are
_NAMED = 3  # values that a reason names
_FEW_IMAGES = 10  # images per number on average, below which numbers are measured


def as_numbers(names: Sequence[str]) -> np.ndarray | None:
    """Return the numbers [D] that the different values of a column are, None where one is none, or without values.

    What Python alone reads as a number is none: `1_02` is a name.
    """
    if any("_" in name or not name.isascii() for name in names):
        return None
    try:
        numbers = np.array([float(name) for name in names])
    except ValueError:
        return None
    return numbers if len(numbers) and np.isfinite(numbers).all() else None


def no_number(names: Sequence[str]) -> str:
    """Return the first value that is no number."""
    return next((name for name in names if as_numbers([name]) is None), "")


def not_measured(names: Sequence[str], count: int, most: int) -> str:
    """Return why a column whose values are measured numbers but for a few is not divided; "" for any other column.

    >>> not_measured([*map(str, range(40)), "inf"], 41, 1000)
    "has 40 different numbers, but 'inf' is no finite number: each value is a class (empty such cells for bins)"
    """
    others = [name for name in names if as_numbers([name]) is None]
    if not 0 < 2 * len(others) < len(names):
        return ""
    numbers = as_numbers(sorted(set(names) - set(others)))
    if numbers is None or not are_measured(numbers, count, most):
        return ""
    few = ", ".join(map(repr, others[:_NAMED])) + (", ..." if len(others) > _NAMED else "")
    return (
        f"has {len(numbers):,} different numbers, but {few} {'is no' if len(others) == 1 else 'are no'} finite "
        f"number{'' if len(others) == 1 else 's'}: each value is a class (empty such cells for bins)"
    )


def are_measured(numbers: np.ndarray, count: int, most: int) -> bool:
    """Return whether the different numbers of a column with `count` values are measured, and no numbers of classes.

    That is so of more than 20 if some are no whole numbers, fewer than 10 values have the same, or over `most` differ.

    >>> are_measured(np.arange(900.0), 50_000, 1000), are_measured(np.arange(90.0), 500, 1000)
    (False, True)
    """
    if len(numbers) <= _FEW_NUMBERS:
        return False
    return bool(len(numbers) > most or count < _FEW_IMAGES * len(numbers) or (numbers % 1 != 0).any())


def binned(numbers: np.ndarray, owners: np.ndarray, bins: int) -> tuple[list[str], np.ndarray]:
    """Return the names of quantile bins of numbers [D], and the bin of each value; `owners` [P] are its number's place.

    A bin is called by its lowest and highest number. Equal numbers are in one bin, so there may be fewer than `bins`.

    >>> binned(np.array([0.0, 1.0, 2.0, 5.5]), np.array([0, 0, 0, 1, 2, 3]), 3)
    (['0', '1', '2 to 5.5'], array([0, 0, 0, 1, 2, 2]))
    """
    values = numbers[owners]
    cuts = np.unique(np.quantile(values, np.arange(1, bins) / bins, method="lower"))
    cuts = cuts[cuts < values.max()]
    if not len(cuts):  # nearly all are the highest number
        cuts = np.unique(values)[:-1][-1:]
    places, codes = np.unique(np.searchsorted(cuts, values), return_inverse=True)
    ends = [(values[codes == place].min(), values[codes == place].max()) for place in range(len(places))]
    names = [_name(low, high, "{:.6g}") for low, high in ends]
    return names if len(set(names)) == len(names) else [_name(*pair, "{!r}") for pair in ends], codes


def _name(low: float, high: float, form: str) -> str:
    first, last = form.format(float(low)), form.format(float(high))
    return first if first == last else f"{first}{TO}{last}"
