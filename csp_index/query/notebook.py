"""Progress in a notebook: a bar below the cell. Knows nothing about what is done.

A plain script and a terminal show nothing: there the command line has its own.
"""

from __future__ import annotations

import html
import sys
import time
from typing import Any

from csp_index.concurrency import unseen
from csp_index.records import Progress

_EVERY = 0.2  # seconds between two pictures of the bar


def shown_progress() -> Progress:
    """Return what shows progress below the running cell of a Jupyter notebook; outside of one it shows nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return unseen if getattr(shell, "kernel", None) is None else NotebookBar()


class NotebookBar:
    """A bar of HTML, shown when the first progress is reported; it needs no widgets."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._shown: Any = None
        self._what = ""
        self._next = 0.0

    def __call__(self, done: int, todo: int, what: str) -> None:
        """Show how many are done; seldom enough not to slow the work down."""
        now = time.monotonic()
        if now < self._next and done < todo and what == self._what:
            return
        self._next, self._what = now + _EVERY, what
        from IPython.display import HTML, display

        text = f"{done:,} of {todo:,} {html.escape(what)}"
        bar = HTML(f'<progress value="{done}" max="{max(todo, 1)}" style="width: 20em"></progress> {text}')
        if self._shown is None:
            self._shown = display(bar, display_id=True)
        else:
            self._shown.update(bar)
