"""Functions and types of torch over NumPy arrays, as far as small questions need them: see `numpy_tensor`."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from csp_index.tensors.library import NumpyLacks
from csp_index.tensors.numpy_arithmetic import array_of, operands
from csp_index.tensors.numpy_tensor import CpuDevice, NumpyTensor, sizes_of

Tensor = NumpyTensor
bool = np.dtype(np.bool_)  # the names are torch's
uint8, int32, int64 = (np.dtype(kind) for kind in (np.uint8, np.int32, np.int64))
float32, float64 = (np.dtype(kind) for kind in (np.float32, np.float64))
nan, inf = np.nan, np.inf
finfo, iinfo, device = np.finfo, np.iinfo, CpuDevice


def __getattr__(name: str) -> Any:
    raise NumpyLacks(f"torch.{name}")


def from_numpy(array: np.ndarray) -> NumpyTensor:
    """Return the array as a tensor, without a copy."""
    return NumpyTensor(array)


def tensor(values: Any, dtype: np.dtype[Any] | None = None) -> NumpyTensor:
    """Return numbers as a tensor; floats are float32 by default."""
    array = np.array(values, dtype=dtype)
    return NumpyTensor(array.astype(np.float32) if dtype is None and array.dtype == np.float64 else array)


def empty(*shape: Any, dtype: np.dtype[Any] = float32) -> NumpyTensor:
    """Return a tensor of whatever values."""
    return NumpyTensor(np.empty(sizes_of(shape), dtype))


def zeros(*shape: Any, dtype: np.dtype[Any] = float32) -> NumpyTensor:
    """Return a tensor of zeros."""
    return NumpyTensor(np.zeros(sizes_of(shape), dtype))


def ones(*shape: Any, dtype: np.dtype[Any] = float32) -> NumpyTensor:
    """Return a tensor of ones."""
    return NumpyTensor(np.ones(sizes_of(shape), dtype))


def full(shape: Sequence[int], value: float, dtype: np.dtype[Any] | None = None) -> NumpyTensor:
    """Return a tensor of one value; a float is float32 by default."""
    return NumpyTensor(np.full(tuple(shape), value, dtype or (np.float32 if isinstance(value, float) else None)))


def arange(*bounds: int) -> NumpyTensor:
    """Return whole numbers in order."""
    return NumpyTensor(np.arange(*bounds))


def cat(parts: Sequence[NumpyTensor], dim: int = 0) -> NumpyTensor:
    """Return tensors joined along a dimension."""
    return NumpyTensor(np.concatenate([array_of(part) for part in parts], axis=dim))


def stack(parts: Sequence[NumpyTensor], dim: int = 0) -> NumpyTensor:
    """Return tensors of equal sizes joined along a new dimension."""
    return NumpyTensor(np.stack([array_of(part) for part in parts], axis=dim))


def where(condition: NumpyTensor, first: Any, second: Any) -> NumpyTensor:
    """Return values of the first where the condition is true, else of the second."""
    return NumpyTensor(np.where(condition.array, *operands(first, second)))


def maximum(first: NumpyTensor, second: NumpyTensor) -> NumpyTensor:
    """Return the larger values of two tensors."""
    return NumpyTensor(np.maximum(*operands(first, second)))


def isin(values: NumpyTensor, among: NumpyTensor) -> NumpyTensor:
    """Return which values are among others."""
    return NumpyTensor(np.isin(values.array, among.array))


def bincount(values: NumpyTensor, *, minlength: int = 0) -> NumpyTensor:
    """Return how often each number from 0 on occurs."""
    return values.bincount(minlength)


def isfinite(values: NumpyTensor) -> NumpyTensor:
    """Return which values are numbers and finite."""
    return NumpyTensor(np.isfinite(values.array))


def searchsorted(ordered: NumpyTensor, values: NumpyTensor, *, right: Any = False) -> NumpyTensor:
    """Return before how many of the ordered values [n] or [M, n] others belong; for rows, each in its own."""
    side: Literal["left", "right"] = "right" if right else "left"
    if ordered.dim() == 1:
        return NumpyTensor(np.searchsorted(ordered.array, values.array, side=side))
    rows = zip(ordered.array, values.array, strict=True)
    return NumpyTensor(np.stack([np.searchsorted(row, others, side=side) for row, others in rows]))


def sum(values: NumpyTensor, dim: int, *, out: NumpyTensor) -> NumpyTensor:
    """Put the sums along a dimension into a tensor."""
    np.sum(values.array, axis=dim, out=out.array)
    return out


def logit(shares: NumpyTensor) -> NumpyTensor:
    """Return log(p / (1 - p))."""
    return NumpyTensor(np.log(shares.array / (1 - shares.array)))


def log(values: NumpyTensor) -> NumpyTensor:
    """Return the natural logarithms."""
    return NumpyTensor(np.log(values.array))


def normalize(values: NumpyTensor, dim: int = 1) -> NumpyTensor:
    """Return the values divided by their lengths along a dimension; a length below 1e-12 counts as that."""
    lengths = np.sqrt(np.square(values.array).sum(axis=dim, keepdims=True))
    return NumpyTensor(values.array / np.maximum(lengths, np.asarray(1e-12, values.dtype)))


def pad(values: NumpyTensor, ends: tuple[int, int], value: float = 0.0) -> NumpyTensor:
    """Return the values with `value` before and behind those of the last dimension."""
    widths = [(0, 0)] * (values.dim() - 1) + [ends]
    return NumpyTensor(np.pad(values.array, widths, constant_values=value))


def embedding_bag(places: NumpyTensor, rows: NumpyTensor, *, per_sample_weights: NumpyTensor, mode: str) -> NumpyTensor:
    """Return the weighted sums of rows [R, D] at places [M, J], [M, D]."""
    if mode != "sum":
        raise NumpyLacks(f"embedding_bag by {mode}")
    bags = zip(places.array, per_sample_weights.array, strict=True)
    sums = [weights @ rows.array[place] for place, weights in bags]
    return NumpyTensor(np.stack(sums) if sums else np.zeros((0, rows.shape[1]), rows.dtype))


nn = SimpleNamespace(functional=SimpleNamespace(normalize=normalize, pad=pad, embedding_bag=embedding_bag))
