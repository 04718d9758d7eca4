"""An event loop for one test, wherever the test runs.

Playwright's own loop stays in the thread of the tests once a browser was opened there, and a thread runs one loop only:
a coroutine of a test runs in a thread of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import anyio

Told = TypeVar("Told")


def run_in_own_loop(scene: Callable[[], Awaitable[Told]]) -> Told:
    """What the coroutine function returns; its error is raised here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(anyio.run, scene).result()
