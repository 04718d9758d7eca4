"""NumPy files made elsewhere: memory-mapped, with every row checked before anything rests on it."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from csp_index.errors import ArrayError, one_line
from csp_index.files.regular_files import check_file

_CHUNK_BYTES = 8 * 2**20  # checked and hashed at a time: part of what a digest means, so not to be changed
_HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Demand:
    """What every row of the array in a file must be."""

    what: str
    path: str | Path
    nonzero: bool = False
    half: bool = False  # within the range of float16


@dataclass(frozen=True, slots=True)
class Survey:
    """What a look at every row of an array gave: a digest, and how many values are not 0."""

    digest: str
    nonzero: int


def load_array(path: str | Path, what: str) -> np.ndarray:
    """Return a 2-D array of finite numbers, memory-mapped; ArrayError says what is wrong with it."""
    array = open_array(path, what)
    survey(array, Demand(what, path))
    return array


def open_array(path: str | Path, what: str) -> np.ndarray:
    """Return a filled 2-D array of numbers, memory-mapped; ArrayError says what is wrong with it."""
    try:
        check_file(path)
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise ArrayError(f"{what} {path} does not exist: expected a .npy file") from None
    except Exception as exc:  # numpy raises what its readers of headers and of zip files raise
        raise ArrayError(f"{what} {path} cannot be read as .npy: {one_line(exc)}") from exc
    if not isinstance(array, np.ndarray) or array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiu":
        got = f"shape {array.shape}, {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ArrayError(f"{what} {path} has {got}: expected a filled array of numbers with 2 dimensions")
    return array


def survey(array: np.ndarray, demand: Demand) -> Survey:
    """Return what a look at every row of an array gives; ArrayError names the first that is not as demanded.

    The digest is of the digests of chunks, so that threads share the work.
    """
    size = max(1, _CHUNK_BYTES // (array.dtype.itemsize * array.shape[1]))
    digest = hashlib.sha256(f"{array.dtype}{array.shape}".encode())

    def look(start: int) -> tuple[bytes, int]:
        rows = rows_of(array, start, start + size)
        _check_rows(rows, start, demand)
        return hashlib.sha256(rows.data).digest(), int(np.count_nonzero(rows != 0))  # twice as fast as of the numbers

    nonzero = 0
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for part, count in pool.map(look, range(0, len(array), size)):
            digest.update(part)
            nonzero += count
    return Survey(digest.hexdigest(), nonzero)


def rows_of(array: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return rows of an array in C order, through a map of their own: what a map has read stays in memory with it."""
    if not isinstance(array, np.memmap):
        return np.ascontiguousarray(array[start:stop])
    # not by np.load: Python 3.11 cannot parse the headers of files in several threads at once
    order: Literal["C", "F"] = "C" if array.flags.c_contiguous else "F"
    mapped = np.memmap(str(array.filename), array.dtype, "c", array.offset, array.shape, order)
    return np.ascontiguousarray(mapped[start:stop])


def _check_rows(rows: np.ndarray, start: int, demand: Demand) -> None:
    with np.errstate(all="ignore"):  # values beyond float32 become infinity and are reported
        values = rows.astype(np.float32, copy=False)
        # A finite sum shows in one pass that all are finite; large numbers may overflow it, so then each is looked at.
        bad = None if np.isfinite(values.sum()) else ~np.isfinite(values).all(1)
    if bad is not None and bad.any():
        raise ArrayError(
            f"{demand.what} {demand.path} holds NaN or infinity, first in row {start + int(bad.argmax())}: "
            "expected finite numbers"
        )
    if demand.nonzero and not (some := values.any(1)).all():
        row = start + int(some.argmin())
        raise ArrayError(f"{demand.what} are all zero in row {row}: a direction is needed")
    if demand.half and max(values.max(), -values.min()) > _HALF:
        row = start + int((np.abs(values) > _HALF).any(1).argmax())
        raise ArrayError(f"{demand.what} exceed {_HALF:g}, the largest float16, first in row {row}: use float32")
