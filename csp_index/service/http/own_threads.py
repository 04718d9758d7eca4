"""Work in threads of its own, which those of the pages neither wait for nor delay: SQL, original pictures, a check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from csp_index import errors

T = TypeVar("T")
V = TypeVar("V")

_WAITING = 16  # requests of one kind that wait for their turn, at most
_PROBE_AGE, _PROBE_SECONDS = 1, 5  # a passed check counts as long, and may take as long


class Turns:
    """Threads for one kind of work alone: pages do not wait for them, and work that waits occupies no thread."""

    def __init__(self, threads: int, what: str = "SQL statements", *, left_alone: bool = True) -> None:
        """Work in so many threads; `what` names the work in the message that too much of it waits.

        With `left_alone` work that nobody waits for any longer gives its turn back at once: something else ends it.
        """
        self._limiter, self._most, self._count = CapacityLimiter(threads), threads + _WAITING, 0
        self._what, self._left_alone = what, left_alone

    async def run(self, work: Callable[[T], V], given: T) -> V:
        """Return the result of `work` for what is given. Raises BusyError if too many are waiting."""
        if self._count >= self._most:
            raise errors.BusyError(f"too many {self._what} are waiting for their turn: try again in some seconds")
        self._count += 1
        try:
            return await anyio.to_thread.run_sync(
                work, given, limiter=self._limiter, abandon_on_cancel=self._left_alone
            )
        finally:
            self._count -= 1


class Probe:
    """A check in a thread of its own, which busy threads do not delay; many questions at once share one check."""

    def __init__(self, check: Callable[[], None]) -> None:
        self._check, self._limiter, self._lock = check, CapacityLimiter(1), anyio.Lock()
        self._checked = -math.inf

    async def passed(self) -> None:
        """Return if the check passes, or did a moment ago. Raises its error, or BusyError if it takes too long."""
        async with self._lock:
            if time.monotonic() - self._checked < _PROBE_AGE:
                return
            try:
                with anyio.fail_after(_PROBE_SECONDS):
                    await anyio.to_thread.run_sync(self._check, limiter=self._limiter, abandon_on_cancel=True)
            except TimeoutError:
                raise errors.BusyError(f"reading the index takes longer than {_PROBE_SECONDS} s") from None
            self._checked = time.monotonic()
