"""Which library tensors are made by: torch, or NumPy within `by_numpy`. Importing this module loads neither.

Everywhere else torch is loaded when the first of its names is read. So a module must not read one while it is imported:
an alias of a type that names `torch.Tensor` is written as a string.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import TYPE_CHECKING, Any

_by_numpy: ContextVar[bool] = ContextVar("tensors by NumPy", default=False)


class NumpyLacks(AttributeError):
    """A name of torch that `tensors` does not offer by NumPy: the work needs torch, from its start."""


if TYPE_CHECKING:
    import torch as torch
    from torch.nn import functional as functional
else:

    class _Library:
        """Stands for a module of torch, and within `by_numpy` for `numpy_functions`, which has the same names."""

        def __init__(self, module: str) -> None:
            self._module, self._names = module, {}

        def __getattr__(self, name: str) -> Any:
            if _by_numpy.get():
                return getattr(import_module("csp_index.tensors.numpy_functions"), name)
            if name not in self._names:
                self._names[name] = getattr(import_module(self._module), name)
            return self._names[name]

    torch, functional = _Library("torch"), _Library("torch.nn.functional")


def name() -> str:
    """Return the name of the library that makes tensors here: what is remembered of one does not suit the other."""
    return "numpy" if _by_numpy.get() else "torch"


def torch_is_loaded() -> bool:
    """Return whether the process has loaded torch already, so that using it costs nothing."""
    return "torch" in sys.modules


def need_torch(what: str) -> None:
    """Raise NumpyLacks within `by_numpy`; for what has tensors of torch however the work is done."""
    if _by_numpy.get():
        raise NumpyLacks(what)


@contextmanager
def by_numpy() -> Iterator[None]:
    """Make tensors by NumPy, in this thread; NumpyLacks or TypeError is raised where the work turns out to need torch.

    Values agree with torch's but for rounding: sums run in another order.
    """
    import numpy as np

    before = _by_numpy.set(True)
    try:
        with np.errstate(all="ignore"):  # torch divides by zero without a word, too
            yield
    finally:
        _by_numpy.reset(before)
