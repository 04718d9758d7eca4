"""What arrays of NumPy and torch tensors mean differently by their operators: types of results, and of whole numbers.

`Values` has the operators and the functions of single values; `numpy_tensor` has the rest of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np

from csp_index.tensors.library import NumpyLacks


def array_of(value: Any) -> Any:
    """Return the array behind a tensor, also within a tuple (an index); a number as it is."""
    if isinstance(value, Values):
        return value.array
    if isinstance(value, tuple):
        return tuple(map(array_of, value))
    if type(value).__module__.partition(".")[0] == "torch":
        raise NumpyLacks(f"a {type(value).__name__} of torch among arrays")
    return value


def operands(left: Any, right: Any) -> tuple[Any, Any]:
    """Return two operands as arrays of one kind: beside floats, whole numbers become floats of the same size.

    A whole number beside a float that is no array becomes float32.
    """
    a, b = array_of(left), array_of(right)
    return _beside(a, b), _beside(b, a)


def _beside(value: Any, other: Any) -> Any:
    if not isinstance(value, np.ndarray) or value.dtype.kind == "f":
        return value
    if isinstance(other, np.ndarray) and other.dtype.kind == "f":
        return value.astype(other.dtype)
    return value.astype(np.float32) if isinstance(other, float) else value


def as_floats(value: Any) -> Any:
    """Return whole numbers and truth values in an array as float32, anything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype.kind != "f":
        return value.astype(np.float32)
    return value


def _binary(work: Callable[[Any, Any], Any]) -> tuple[Any, Any, Any]:
    """Return the method of an operation, its reflection, and the one that overwrites the left side."""

    def plain(self: Values, other: Any) -> Values:
        return type(self)(work(*operands(self, other)))

    def reflected(self: Values, other: Any) -> Values:
        return type(self)(work(*operands(other, self)))

    def in_place(self: Values, other: Any) -> Values:
        self.array[...] = work(*operands(self, other))
        return self

    return plain, reflected, in_place


def _unary(work: Callable[[np.ndarray], Any]) -> Any:
    def method(self: Values) -> Values:
        return type(self)(work(self.array))

    return method


def _of_floats(work: Callable[[np.ndarray], Any]) -> Any:
    return _unary(lambda array: work(as_floats(array)))


def _divided(left: Any, right: Any) -> Any:
    return np.true_divide(as_floats(left), as_floats(right))


def _sigmoid(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = 1 / (1 + np.exp(-values))
    return result


class Values:
    """An array, compared and computed with as torch does it; `array` holds the values."""

    __slots__ = ("array",)
    __hash__ = object.__hash__

    def __init__(self, array: Any) -> None:
        """Take over the array, without a copy."""
        self.array = np.asarray(array)

    __add__, __radd__, __iadd__ = _binary(np.add)
    __sub__, __rsub__, __isub__ = _binary(np.subtract)
    __mul__, __rmul__, __imul__ = _binary(np.multiply)
    __truediv__, __rtruediv__, __itruediv__ = _binary(_divided)
    __floordiv__, __rfloordiv__, __ifloordiv__ = _binary(np.floor_divide)
    __mod__, __rmod__, __imod__ = _binary(np.remainder)
    __pow__, __rpow__, __ipow__ = _binary(np.power)
    __matmul__, __rmatmul__ = _binary(np.matmul)[:2]
    __and__, __rand__, __iand__ = _binary(np.bitwise_and)
    __or__, __ror__, __ior__ = _binary(np.bitwise_or)
    __xor__, __rxor__, __ixor__ = _binary(np.bitwise_xor)
    __lshift__, __rlshift__, __ilshift__ = _binary(np.left_shift)
    __rshift__, __rrshift__, __irshift__ = _binary(np.right_shift)
    add_, sub_, mul_, div_ = __iadd__, __isub__, __imul__, __itruediv__
    __lt__, __gt__ = _binary(np.less)[0], _binary(np.greater)[0]
    __le__, __ge__ = _binary(np.less_equal)[0], _binary(np.greater_equal)[0]
    __eq__, __ne__ = _binary(np.equal)[0], _binary(np.not_equal)[0]

    __neg__, __invert__, abs, square = _unary(np.negative), _unary(np.invert), _unary(np.abs), _unary(np.square)
    floor, ceil, isnan, isfinite = _unary(np.floor), _unary(np.ceil), _unary(np.isnan), _unary(np.isfinite)
    exp, log, log1p, sqrt = _of_floats(np.exp), _of_floats(np.log), _of_floats(np.log1p), _of_floats(np.sqrt)
    sigmoid = _of_floats(_sigmoid)

    def sigmoid_(self) -> Self:
        """Put 1 / (1 + exp(-x)) in place of every x."""
        self.array[...] = _sigmoid(self.array)
        return self
