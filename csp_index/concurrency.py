"""Threads and processes: work ahead of a reader, work behind a writer, a pool of processes, torch on one thread.

Knows nothing about the work. An iterator runs one item ahead of its reader and a writer one job behind, each in one
thread, so that order is kept; an error comes out where the item or the next job is asked for.

Processes are started afresh (spawn), ended with this one, and deaf to Ctrl-C. A worker never runs the script that this
process was started with, so a script needs no ``if __name__ == "__main__"``; and it ends when this process dies,
however it dies.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_LOCK = threading.Lock()


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the items; the next one is made in a thread while the reader uses the last. Close it to close `items`."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="csp-index-ahead")
    try:
        following = pool.submit(_next, items)
        while found := following.result():
            following = pool.submit(_next, items)
            yield found[0]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)  # a generator cannot be closed while it runs
        close = getattr(items, "close", None)
        if close is not None:
            close()


def _next(items: Iterator[T]) -> tuple[T] | None:
    for item in items:
        return (item,)
    return None


class Writer:
    """Runs jobs in a thread, one after another, in a `with` block that ends when the last job has ended.

    One job runs at a time and none waits: memory holds what one job needs and what is being made for the next.
    """

    def __init__(self) -> None:
        """Start idle."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="csp-index-write")
        self._job: Future[None] | None = None

    def __enter__(self) -> Writer:
        return self

    def put(self, job: Callable[[], None]) -> None:
        """Start a job once the one before it has ended; raises that one's error."""
        if self._job is not None:
            self._job.result()
        self._job = self._pool.submit(job)

    def check(self) -> None:
        """Raise the error of a job that has failed; never wait."""
        if self._job is not None and self._job.done():
            self._job.result()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pressed: KeyboardInterrupt | None = None
        while True:
            try:
                self._pool.shutdown(wait=True)
                break
            except KeyboardInterrupt as exc:  # what is being written is written to its end
                pressed = exc
        if kind is None:
            self.check()
            if pressed is not None:
                raise pressed


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
        import torch  # by now whoever computes has loaded it; workers that only decode never do

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
        import torch

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
