"""The desk of a service: writes what readers say into the index, and nothing else; one request at a time.

Each process of a service has one. Its rows belong to one run of the command `serve`, recorded with the first of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from csp_index.labelling.review.notes import Note
from csp_index.store.connect import open_store
from csp_index.store.runs import record_run
from csp_index.store.tables import Store
from csp_index.store.waiting import waiting_lock
from csp_index.studies.reviewing.notes import Draft, write_notes
from csp_index.studies.reviewing.ratings import Question, write_rating

Value = TypeVar("Value")


class Desk:
    """Writes notes and ratings into one index."""

    def __init__(self, uri: str, settings: Mapping[str, object]) -> None:
        """Write into the index at `uri`; `settings` stand in the record of the run."""
        self._uri, self._settings = uri, dict(settings)
        self._lock = threading.Lock()
        self._run_id: str | None = None

    def note(self, drafts: Sequence[Draft]) -> tuple[Note, ...]:
        """Add notes. Raises the errors of `write_notes`."""
        return self._write(lambda store, run_id: write_notes(store, drafts, run_id=run_id))

    def rate(self, question: Question, rater: str, verdict: str) -> str:
        """Add a rating, and return its id. Raises the errors of `write_rating`."""
        return self._write(lambda store, run_id: write_rating(store, question, rater, verdict, run_id=run_id))

    def _write(self, work: Callable[[Store, str], Value]) -> Value:
        with self._lock:
            store = open_store(self._uri)
            if self._run_id is None:
                with waiting_lock(store), record_run(store, "serve", self._settings, {}) as run:
                    pass  # its rows follow, each in a commit of its own
                self._run_id = run.run_id
            return work(store, self._run_id)
