"""Work in threads of its own, which those of the pages neither wait for nor delay: SQL statements, a check."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from csp_index import errors

V = TypeVar("V")

_STATEMENTS = 16  # most statements that wait for their turn
_PROBE_AGE, _PROBE_SECONDS = 1, 5  # a passed check counts as long, and may take as long


class Turns:
    """Threads for SQL statements alone: pages do not wait for them, and a waiting statement occupies no thread."""

    def __init__(self, threads: int) -> None:
        self._limiter, self._most, self._count = CapacityLimiter(threads), threads + _STATEMENTS, 0

    async def run(self, work: Callable[[str], V], statement: str) -> V:
        """Return the result of `work` for a statement. Raises BusyError if too many are waiting."""
        if self._count >= self._most:
            raise errors.BusyError("too many SQL statements are waiting for their turn: try again in some seconds")
        self._count += 1
        try:
            return await anyio.to_thread.run_sync(work, statement, limiter=self._limiter, abandon_on_cancel=True)
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
