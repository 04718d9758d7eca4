"""Processes that work for this one: started afresh (spawn), ended with it, and deaf to Ctrl-C.

Knows nothing about what they do. A worker never runs the script that this process was started with, so a script needs
no ``if __name__ == "__main__"``; and it ends when this process dies, however it dies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import ParamSpec, TypeVar

_LOCK = threading.Lock()

P = ParamSpec("P")
T = TypeVar("T")


class Workers(ProcessPoolExecutor):
    """A pool of up to `count` processes, each with a copy of `given`; one starts when there is first work for it."""

    def __init__(self, count: int, given: bytes = b"") -> None:
        """Start nothing yet."""
        spawn = multiprocessing.get_context("spawn")
        super().__init__(count, mp_context=spawn, initializer=_begin, initargs=(given,))

    def submit(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
        """Have a function of an importable module run; what goes in and out must be picklable."""
        with _starting():
            return super().submit(work, *args, **options)

    def end(self) -> None:
        """End the processes at once, at work or still starting; nothing that was asked for comes any more."""
        for process in list((self._processes or {}).values()):  # from Python 3.14 on: terminate_workers()
            process.terminate()
        self.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _starting() -> Iterator[None]:
    """Let processes start without Ctrl-C, which would end them in the midst of an import, and without our script."""
    with _LOCK:  # one at a time, so that each finds the real one
        yield from _without_main()


def _without_main() -> Iterator[None]:
    shown = sys.modules["__main__"]
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    sys.modules["__main__"] = ModuleType("__main__")  # a new process would import this one's, and so run it again
    try:
        yield
    finally:
        sys.modules["__main__"] = shown
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def given() -> bytes:
    """Return, in a process of a pool, what the pool was made with."""
    return _given


_given = b""


def _begin(held: bytes) -> None:
    global _given
    _given = held
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # where a user's own module may be
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Every worker holds both ends of the pool's queue, so that it would wait for ever after its parent was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
