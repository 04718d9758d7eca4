"""An array of NumPy with the methods of a torch tensor, as far as small questions need them; loads no torch.

A method means what torch's documentation says of it. What is not here raises NumpyLacks, and an unknown argument
TypeError: no method of NumPy with another meaning is ever called in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np

from csp_index.tensors.library import NumpyLacks
from csp_index.tensors.numpy_arithmetic import Values, array_of

Number: TypeAlias = float


class Ordered(NamedTuple):
    """Values along a dimension in order, and the places [like the values] that they had."""

    values: NumpyTensor
    indices: NumpyTensor


class CpuDevice(NamedTuple):
    """The only device of such tensors."""

    type: str = "cpu"


def sizes_of(shape: tuple[Any, ...]) -> tuple[int, ...]:
    """Return the sizes of dimensions that a call names, one by one or in a sequence."""
    return tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape


class NumpyTensor(Values):
    """A tensor in main memory: `array` holds its values; views share it."""

    __slots__ = ()
    device = CpuDevice()

    def __getattr__(self, name: str) -> Any:
        raise NumpyLacks(f"{name} of a tensor")

    # what it is

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of its values."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """How much memory its values take."""
        return self.array.nbytes

    def dim(self) -> int:
        """Return how many dimensions it has."""
        return self.array.ndim

    def numel(self) -> int:
        """Return how many values it has."""
        return self.array.size

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[NumpyTensor]:
        return map(NumpyTensor, self.array)

    def __bool__(self) -> bool:
        return bool(self.array)

    def __int__(self) -> int:
        return int(self.array.item())

    __index__ = __int__

    def __float__(self) -> Number:
        return Number(self.array.item())

    def __repr__(self) -> str:
        return f"NumpyTensor({self.array!r})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.array, dtype=dtype, copy=copy)

    def numpy(self) -> np.ndarray:
        """Return the array, without a copy."""
        return self.array

    def tolist(self) -> Any:
        """Return its values as numbers in lists."""
        return self.array.tolist()

    def item(self) -> Any:
        """Return its only value."""
        return self.array.item()

    # parts of it

    def __getitem__(self, index: Any) -> NumpyTensor:
        return NumpyTensor(self.array[array_of(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[array_of(index)] = array_of(value)

    def gather(self, dim: int, index: NumpyTensor) -> NumpyTensor:
        """Return the values at the places along a dimension; along the others, sizes must be equal."""
        if any(a != b for at, (a, b) in enumerate(zip(self.shape, index.shape, strict=True)) if at != dim % self.dim()):
            raise NumpyLacks("gather of a part")
        return NumpyTensor(np.take_along_axis(self.array, index.array, axis=dim))

    def index_select(self, dim: int, index: NumpyTensor) -> NumpyTensor:
        """Return the parts at the places [n] along a dimension."""
        return NumpyTensor(np.take(self.array, index.array, axis=dim))

    def scatter_add_(self, dim: int, index: NumpyTensor, values: NumpyTensor) -> Self:
        """Add values [n, m] at the columns `index` [n, m]."""
        if dim != 1 or self.dim() != 2:
            raise NumpyLacks("scatter_add_ but along the rows of a matrix")
        np.add.at(self.array, (np.arange(len(index))[:, None], index.array), values.array)
        return self

    def split(self, size: int) -> tuple[NumpyTensor, ...]:
        """Return parts of so many rows; the last may have fewer."""
        return tuple(NumpyTensor(self.array[start : start + size]) for start in range(0, max(1, len(self)), size))

    def chunk(self, count: int, dim: int = 0) -> tuple[NumpyTensor, ...]:
        """Return so many parts of equal size along a dimension."""
        if self.shape[dim] % count:
            raise NumpyLacks("chunks of different sizes")
        return tuple(map(NumpyTensor, np.split(self.array, count, axis=dim)))

    def nonzero(self, *, as_tuple: bool = False) -> Any:
        """Return the places of what is not zero, [n, dimensions], or each dimension's alone."""
        places = np.nonzero(self.array)
        return tuple(map(NumpyTensor, places)) if as_tuple else NumpyTensor(np.stack(places, axis=-1))

    def unique(self, *, return_inverse: bool = False) -> Any:
        """Return the distinct values in order, and with `return_inverse` the place of each value among them."""
        if not return_inverse:
            return NumpyTensor(np.unique(self.array))
        values, inverse = np.unique(self.array, return_inverse=True)
        return NumpyTensor(values), NumpyTensor(inverse.reshape(self.shape))

    def bincount(self, minlength: int = 0) -> NumpyTensor:
        """Return how often each number from 0 on occurs."""
        return NumpyTensor(np.bincount(self.array, minlength=minlength))

    # the same values otherwise

    def view(self, *shape: Any) -> NumpyTensor:
        """Return the same memory with other sizes, one of which may be -1, or of another type."""
        if len(shape) == 1 and isinstance(shape[0], np.dtype):
            return NumpyTensor(self.array.view(shape[0]))
        return NumpyTensor(np.reshape(self.array, sizes_of(shape), copy=False))

    def reshape(self, *shape: Any) -> NumpyTensor:
        """Return the values with other sizes, one of which may be -1."""
        return NumpyTensor(self.array.reshape(sizes_of(shape)))

    def flatten(self, start: int = 0, end: int = -1) -> NumpyTensor:
        """Return the values with the dimensions from `start` to `end` as one."""
        sizes, end = self.shape, end % max(1, self.dim())
        return self.reshape((*sizes[:start], int(np.prod(sizes[start : end + 1])), *sizes[end + 1 :]))

    def expand(self, *shape: Any) -> NumpyTensor:
        """Return the values repeated to larger sizes, without a copy; -1 leaves a size as it is."""
        sizes = sizes_of(shape)
        own = (1,) * (len(sizes) - self.dim()) + self.shape
        return NumpyTensor(np.broadcast_to(self.array, [a if b == -1 else b for a, b in zip(own, sizes, strict=True)]))

    def expand_as(self, other: NumpyTensor) -> NumpyTensor:
        """Return the values repeated to the sizes of another tensor."""
        return self.expand(other.shape)

    def transpose(self, first: int, second: int) -> NumpyTensor:
        """Return a view with two dimensions exchanged."""
        return NumpyTensor(self.array.swapaxes(first, second))

    def movedim(self, source: int, destination: int) -> NumpyTensor:
        """Return a view with a dimension moved."""
        return NumpyTensor(np.moveaxis(self.array, source, destination))

    @property
    def T(self) -> NumpyTensor:
        """A view with the dimensions in reverse order."""
        return NumpyTensor(self.array.T)

    @property
    def mT(self) -> NumpyTensor:
        """A view with the last two dimensions exchanged."""
        return self.transpose(-1, -2)

    def repeat_interleave(self, count: int, dim: int | None = None) -> NumpyTensor:
        """Return each part along a dimension so many times; without one, each value, in one row."""
        return NumpyTensor(np.repeat(self.array, count, axis=dim))

    def clone(self) -> NumpyTensor:
        """Return a copy."""
        return NumpyTensor(self.array.copy())

    def contiguous(self) -> NumpyTensor:
        """Return the values row by row in memory."""
        return NumpyTensor(np.ascontiguousarray(self.array).reshape(self.shape))

    def cpu(self) -> Self:
        """Return the tensor, which is in main memory."""
        return self

    def to(self, *kinds: Any) -> NumpyTensor:
        """Return the values as another type; the device is the only one."""
        array = self.array
        for kind in kinds:
            if isinstance(kind, np.dtype):
                array = array.astype(kind, copy=False)
            elif not isinstance(kind, CpuDevice):
                raise NumpyLacks(f"to({kind!r})")
        return NumpyTensor(array)

    def float(self) -> NumpyTensor:
        """Return the values as float32."""
        return self.to(np.dtype(np.float32))

    def double(self) -> NumpyTensor:
        """Return the values as float64."""
        return self.to(np.dtype(np.float64))

    def long(self) -> NumpyTensor:
        """Return the values as int64."""
        return self.to(np.dtype(np.int64))

    # with some replaced

    def masked_fill(self, mask: NumpyTensor, value: Number) -> NumpyTensor:
        """Return the values with `value` where the mask is true."""
        return NumpyTensor(np.where(mask.array, np.asarray(value, self.dtype), self.array))

    def masked_fill_(self, mask: NumpyTensor, value: Number) -> Self:
        """Put `value` where the mask is true."""
        np.copyto(self.array, value, where=mask.array)
        return self

    def clamp(self, min: Any = None, max: Any = None) -> NumpyTensor:
        """Return the values cut at both ends."""
        return NumpyTensor(np.clip(self.array, array_of(min), array_of(max)))

    def nan_to_num(self, nan: Number = 0.0) -> NumpyTensor:
        """Return the values with `nan` for NaN and the largest numbers for infinite ones."""
        return NumpyTensor(np.nan_to_num(self.array, nan=nan))

    def lerp(self, end: NumpyTensor, weight: NumpyTensor) -> NumpyTensor:
        """Return the values between these and `end`, computed from the nearer of the two as torch does."""
        a, b, w = self.array, end.array, weight.array
        return NumpyTensor(np.where(np.abs(w) < 0.5, a + w * (b - a), b - (b - a) * (1 - w)))

    # along a dimension

    def sum(self, dim: Any = None, dtype: Any = None, *, keepdim: bool = False) -> NumpyTensor:
        """Return the sums; integers and truth values are summed as int64."""
        kind = dtype if dtype is not None else np.int64 if self.dtype.kind in "iub" else self.dtype
        return NumpyTensor(self.array.sum(axis=dim, dtype=kind, keepdims=keepdim))

    def mean(self, dim: Any = None, *, keepdim: bool = False) -> NumpyTensor:
        """Return the means of floats, summed in float64."""
        total = self.array.sum(axis=dim, dtype=np.float64, keepdims=keepdim)
        return NumpyTensor(np.asarray(total / (self.array.size / max(1, np.size(total)))).astype(self.dtype))

    def std(self, dim: int, correction: int = 1) -> NumpyTensor:
        """Return the standard deviations of floats, by n - `correction`, summed in float64."""
        off = self.array - self.array.mean(axis=dim, dtype=np.float64, keepdims=True)
        square = np.square(off).sum(axis=dim) / np.float64(self.shape[dim] - correction)
        return NumpyTensor(np.sqrt(square).astype(self.dtype))

    def amax(self, dim: int, *, keepdim: bool = False) -> NumpyTensor:
        """Return the largest values."""
        return NumpyTensor(self.array.max(axis=dim, keepdims=keepdim))

    def amin(self, dim: int, *, keepdim: bool = False) -> NumpyTensor:
        """Return the smallest values."""
        return NumpyTensor(self.array.min(axis=dim, keepdims=keepdim))

    def max(self) -> NumpyTensor:
        """Return the largest of all values."""
        return NumpyTensor(self.array.max())

    def any(self, dim: int | None = None) -> NumpyTensor:
        """Return whether any is true."""
        return NumpyTensor(self.array.any(axis=dim))

    def all(self, dim: int | None = None) -> NumpyTensor:
        """Return whether all are true."""
        return NumpyTensor(self.array.all(axis=dim))

    def argmax(self, dim: int) -> NumpyTensor:
        """Return the places of the largest values, of equals the first."""
        return NumpyTensor(self.array.argmax(axis=dim))

    def cumsum(self, dim: int) -> NumpyTensor:
        """Return the running sums; integers and truth values are summed as int64."""
        kind = np.int64 if self.dtype.kind in "iub" else self.dtype
        return NumpyTensor(self.array.cumsum(axis=dim, dtype=kind))

    def median(self) -> NumpyTensor:
        """Return the median of all values, of an even number the lower of the two in the middle."""
        flat = np.sort(self.array, axis=None)
        return NumpyTensor(flat[-1] if flat[-1] != flat[-1] else flat[(flat.size - 1) // 2])

    def sort(self, dim: int = -1, *, descending: bool = False, stable: bool = False) -> Ordered:
        """Return the values in order with their places; equals keep theirs, whether or not `stable`; without NaN."""
        keys = self.array.astype(np.int64) if self.dtype.kind in "iub" else self.array
        order = np.argsort(-keys if descending else keys, axis=dim, kind="stable")
        return Ordered(NumpyTensor(np.take_along_axis(self.array, order, axis=dim)), NumpyTensor(order))

    def argsort(self, dim: int = -1, *, descending: bool = False, stable: bool = False) -> NumpyTensor:
        """Return the places of the values in order; see `sort`."""
        return self.sort(dim, descending=descending, stable=stable).indices

    def topk(self, k: int, dim: int) -> Ordered:
        """Return the k largest values, largest first, with their places; of equals those of lower place."""
        first = self.sort(dim, descending=True)
        pick = np.arange(k)
        return Ordered(*(NumpyTensor(np.take(part.array, pick, axis=dim)) for part in first))
