"""Two ways of doing two things at once: an iterator one item ahead of its reader, a writer one job behind.

Knows nothing about what is read or written. Each has one thread, so that order is kept; an error comes out where the
item or the next job is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TypeVar

T = TypeVar("T")


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
