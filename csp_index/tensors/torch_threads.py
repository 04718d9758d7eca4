"""How many threads torch and NumPy compute on, what they do between two products, and whether they share memory.

Idle threads sleep, for all of a process that loads csp_index before torch; where work is small, its thread computes
alone; work that falls apart is spread over threads that compute alone. Importing this module does not load torch.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from csp_index.tensors import library
from csp_index.tensors.library import torch

T = TypeVar("T")
_POLICY = "OMP_WAIT_POLICY"
_ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
_SMALL = 2e9  # products: some 40 ms of a core; a second one would save little of that, or, where it is busy, nothing


def sleep_when_idle() -> None:
    """Let the threads of torch sleep when they have nothing to compute, unless the user's environment says otherwise.

    By default they spin for milliseconds after each product, in which other threads and processes cannot use their
    core, and a product waits for whichever of them lost its core meanwhile. Measured on two busy cores: indexing the
    demo's 3,153 images took 32 s of CPU time and 76 s on two threads that spin, 15.5 and 37 s on two that sleep, and
    16.5 and 36 s on one; labelling its layer by `consensus` .53 s of CPU time in place of 2.2 to 15 s.

    OpenMP reads the variable once, when torch is loaded: afterwards this changes nothing.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault(_POLICY, "PASSIVE")


def numpy_on_one_thread() -> None:
    """Let NumPy multiply on one thread in a process of a command, unless the user's environment says otherwise.

    Commands multiply large matrices by torch. OpenBLAS wakes its threads for one of 2,048 x 512 with a vector, too, and
    they spin afterwards: 13 ms of CPU time in place of 0.4. It reads the variable when NumPy is loaded.
    """
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def share_one_heap() -> None:
    """Let all threads of a command's process take memory from one heap, unless the user's environment says otherwise.

    glibc gives threads heaps of their own, and what one thread has freed in its heap serves no other. Measured for
    2,048 neurons by `firing-contrast`, 50,000 images and 10,000 texts: a peak of 1.96 GB in place of 2.23 to 2.41, in
    the same CPU time. It must run before threads start; without glibc it does nothing.
    """
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        option = getattr(ctypes.CDLL(None), "mallopt", None)
        if option is not None:
            option(_ARENA_MAX, 1)


class _SingleThread:
    """Torch on one thread, in the threads that ask for it.

    Torch keeps the number for each thread that computes, and new threads start with the number set last. So the
    number to return to is read only while no thread is inside, and each thread returns to it by itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = threading.local()
        self._inside = 0
        self._before = 1

    def enter(self) -> None:
        depth = getattr(self._depth, "value", 0)
        with self._lock:
            now = torch.get_num_threads()  # read in every thread: the first time, it takes over what was set elsewhere
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


_single_thread = _SingleThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: to wake others for a few small products costs more than they save.

    Measured for one neuron by `csp` from stored neighbour lists (5,000 images, 2,000 candidates, two busy cores, median
    of 40): 15 ms of CPU time and 51 ms in all, against 37 and 142 ms on two threads.
    """
    if library.name() == "numpy":  # whose products are on one thread in a command's process
        yield
        return
    _single_thread.enter()
    try:
        yield
    finally:
        _single_thread.leave()


def threads_for(products: float) -> AbstractContextManager[None]:
    """Compute work of this many products of two numbers on one thread if it is small, else on as many as before."""
    return one_thread() if products < _SMALL else nullcontext()


def spread(work: Callable[[T], object], items: Iterable[T]) -> None:
    """Do the work on every item in as many threads as torch may use, each computing on one; raise the first error.

    Torch's own threads wait for each other in every operation, these only at the end. Measured for the resamples of
    2,048 neurons by `csp` on two threads of a busy machine: 1.5 s of CPU time, as on one thread.
    """
    every = list(items)
    count = 1 if library.name() == "numpy" else min(torch.get_num_threads(), len(every))
    if count < 2:
        for item in every:
            work(item)
        return
    shared, stop = iter(every), threading.Event()

    def run() -> None:
        with one_thread():
            for item in shared:  # several threads may take from the iterator of a list
                if stop.is_set():
                    return
                try:
                    work(item)
                except BaseException:
                    stop.set()
                    raise

    with ThreadPoolExecutor(count, thread_name_prefix="csp-index-spread") as pool:
        jobs = [pool.submit(run) for _ in range(count)]
    for job in jobs:
        job.result()
