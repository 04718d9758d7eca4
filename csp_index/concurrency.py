"""Threads and processes: work ahead of a reader, work behind a writer, a pool of processes.

Knows nothing about the work. An iterator runs one item ahead of its reader and a writer one job behind, each in one
thread, so that order is kept; an error is raised when the item is read or the next job is added.

Processes are spawned, end with this one, and ignore Ctrl-C. A worker never runs the script of this process, so a
script needs no ``if __name__ == "__main__"``; and it ends when this process dies, for whatever reason.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType, TracebackType
from typing import ParamSpec, TypeVar

from csp_index.errors import StoppedError

P = ParamSpec("P")
T = TypeVar("T")
_LOCK = threading.Lock()


def ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the items; a thread makes the next one while the reader uses the last. Closing it closes `items`."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="csp-index-ahead")
    try:
        following = pool.submit(_next, items)
        while item := following.result():
            following = pool.submit(_next, items)
            yield item[0]
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
    """Runs jobs in a thread, one after another, in a `with` block that ends after the last job.

    One job runs at a time and none waits in a queue: memory holds one job's data and what is being made for the next.
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
            except KeyboardInterrupt as exc:  # the job under way is completed
                pressed = exc
        if kind is None:
            self.check()
            if pressed is not None:
                raise pressed


class Stop:
    """A request to end work, made by any thread; the work asks for it between its steps."""

    def __init__(self) -> None:
        """Let the work go on."""
        self._reason: str | None = None

    def set(self, reason: str) -> None:
        """Let the work end at its next check; the first reason stays."""
        if self._reason is None:
            self._reason = reason

    def check(self) -> None:
        """Raise StoppedError with the reason if the work is to end."""
        if self._reason is not None:
            raise StoppedError(self._reason)


def go_on() -> None:
    """Let work go on that nobody stops: the check of a caller who has none."""


def unseen(done: int, todo: int, what: str) -> None:
    """Ignore progress: the report of a caller who shows none."""


def checked(items: Iterable[T], check: Callable[[], None]) -> Iterator[T]:
    """Yield the items, with a check before each."""
    for item in items:
        check()
        yield item


class Workers:
    """A pool of up to `count` processes, each with a copy of `payload`; one starts when there is first work for it.

    They import modules from `folders`, too, after all other places.
    """

    def __init__(self, count: int, payload: bytes = b"", folders: tuple[str, ...] = ()) -> None:
        """Start nothing yet."""
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_begin, initargs=(payload, folders))

    def submit(self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> Future[T]:
        """Run a function of an importable module in a process; arguments and result must be picklable."""
        with _starting():
            return self._pool.submit(work, *args, **options)

    def end(self) -> None:
        """End the processes at once, whether they work or still start; pending results never arrive."""
        _terminate(self._pool)
        self._pool.shutdown(wait=True, cancel_futures=True)


def _terminate(pool: ProcessPoolExecutor) -> None:
    """End the processes of a pool. From Python 3.14 on, a pool does so; before, only its private table lists them."""
    if hasattr(pool, "terminate_workers"):
        pool.terminate_workers()
        return
    for process in list((pool._processes or {}).values()):
        process.terminate()


@contextmanager
def _starting() -> Iterator[None]:
    """Start processes with Ctrl-C blocked, which would end them during an import, and without our script."""
    with _LOCK:  # one at a time, so that each finds the real one
        yield from _without_main()


def _without_main() -> Iterator[None]:
    main = sys.modules["__main__"]
    masked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if hasattr(signal, "pthread_sigmask") else None
    sys.modules["__main__"] = ModuleType("__main__")  # a new process would import this one's, and so run it again
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        if masked is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, masked)


def worker_payload() -> bytes:
    """Return, in a process of a pool, what the pool was made with."""
    return _payload


_payload = b""


def _begin(content: bytes, folders: tuple[str, ...]) -> None:
    global _payload
    _payload = content
    if "" not in sys.path:
        sys.path.extend(folder for folder in folders if folder not in sys.path)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Every worker has both ends of the pool's queue open, so it would wait forever after its parent was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
