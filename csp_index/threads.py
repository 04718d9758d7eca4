"""On how many threads torch computes where there is little to compute."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Narrow:
    """Torch on one thread for whoever wants that.

    Torch keeps the number for each thread that computes, and hands the last one set to threads that are new. So the
    number to go back to is looked up only while nobody is inside, and each thread goes back for itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = threading.local()
        self._inside = 0
        self._before = 1

    def enter(self) -> None:
        depth = getattr(self._depth, "value", 0)
        with self._lock:
            now = torch.get_num_threads()  # asked in every thread: the first time, it takes over what was set elsewhere
            if self._inside == 0:
                self._before = now
            self._inside += 1
            if depth == 0:
                torch.set_num_threads(1)
        self._depth.value = depth + 1

    def leave(self) -> None:
        self._depth.value -= 1
        with self._lock:
            self._inside -= 1
            if self._depth.value == 0:
                torch.set_num_threads(self._before)


_narrow = _Narrow()


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Compute on one thread: waking others for a few small products, and their waiting for more, costs more than that.

    `wanted` False changes nothing.
    """
    if not wanted:
        yield
        return
    _narrow.enter()
    try:
        yield
    finally:
        _narrow.leave()
