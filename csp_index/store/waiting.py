"""The write lock for what is small and must not be lost because somebody else writes at the moment: it waits."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from csp_index import settings
from csp_index.errors import LockedError
from csp_index.store.tables import Store

_PAUSE: Final = 0.05  # seconds between two tries, at least; up to twice that, so that two who wait do not keep step


@contextmanager
def waiting_lock(store: Store, seconds: float | None = None) -> Iterator[None]:
    """Hold the write lock of an index, for which this waits up to `seconds` (default: the setting review_wait).

    Errors: LockedError, which names the writer, where the lock is not free by then: nothing was written.
    """
    wait = settings.REVIEW_WAIT.value(seconds)
    until = time.monotonic() + wait
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(store.write_lock())
                break
            except LockedError as exc:
                if time.monotonic() >= until:
                    raise LockedError(f"nothing was written, after {wait:g} s: {exc}; then try again") from exc
                time.sleep(_PAUSE * (1 + random.random()))  # any pause will do  # nosec B311
        yield
