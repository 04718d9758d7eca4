"""The desk of a service: writes what readers say into the index, and nothing else; one request at a time.

Each process of a service has one. Its rows belong to one run of the command `serve`, recorded with the first of them:
what is refused leaves nothing in the index.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from csp_index.labelling.review.notes import Note
from csp_index.store.connect import open_store
from csp_index.store.runs import record_run
from csp_index.store.tables import Store
from csp_index.studies.reviewing.notes import Draft, write_notes
from csp_index.studies.reviewing.ratings import Question, write_rating


class Desk:
    """Writes notes and ratings into one index."""

    def __init__(self, uri: str, settings: Mapping[str, object]) -> None:
        """Write into the index at `uri`; `settings` stand in the record of the run."""
        self._uri, self._settings = uri, dict(settings)
        self._lock = threading.Lock()
        self._run_id: str | None = None

    def note(self, drafts: Sequence[Draft]) -> tuple[Note, ...]:
        """Add notes. Raises the errors of `write_notes`."""
        with self._lock:
            return write_notes(open_store(self._uri), drafts, run_of=self._run)

    def rate(self, question: Question, rater: str, verdict: str) -> str:
        """Add a rating, and return its id. Raises the errors of `write_rating`."""
        with self._lock:
            return write_rating(open_store(self._uri), question, rater, verdict, run_of=self._run)

    def _run(self, store: Store) -> str:
        """Return the id of the desk's run, which is recorded the first time; the caller holds the write lock."""
        if self._run_id is None:
            with record_run(store, "serve", self._settings, {}) as run:
                pass  # its rows follow, each in a commit of its own
            self._run_id = run.run_id
        return self._run_id
