"""What readers say, as pages show it: of the fixed version that a service reads, or as it is at the moment.

A service that lets readers write shows what was just written, whoever wrote it; everything else stays as it was at the
start. Many threads may read at once. Does not load torch.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from csp_index.labelling.review.notes import Note, read_notes
from csp_index.labelling.review.pinned import Pin, pins_of
from csp_index.store.catalog import LayerInfo
from csp_index.store.study_tables import NOTES, RATINGS
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import Audit
from csp_index.studies.reporting.reviews import reviews_of
from csp_index.studies.reviewing.ratings import rated_by, rating_counts

Value = TypeVar("Value")


class Reviews:
    """The notes and ratings of an index."""

    def __init__(self, store: Store, *, live: bool) -> None:
        """Read from a store: a fixed one, or with `live` one that follows what is written."""
        self._store, self.live = store, live
        self._lock = threading.Lock()  # a store that follows is for one thread at a time

    def state(self) -> str:
        """Return what identifies all that readers have said so far; empty for a fixed version."""
        return self._read(_state) if self.live else ""

    def pins(self, target: LayerInfo) -> tuple[str, dict[int, Pin]]:
        """Return the names that readers gave to neurons of a layer, by number, with the state that they belong to."""
        return self._read(lambda store: (_state(store) if self.live else "", pins_of(store, target)))

    def notes(self, subject: str | None = None) -> tuple[Note, ...]:
        """Return all notes, or those about one subject, in the order they were written."""
        return self._read(lambda store: read_notes(store, subject))

    def of_audit(self, audit: Audit, target: LayerInfo) -> dict[str, Any]:
        """Return what readers said of an audit's findings and of its layer, as a report shows it."""
        return self._read(lambda store: reviews_of(store, audit, target))

    def rated_by(self, rater: str) -> dict[tuple[str, str, int, str], set[int]]:
        """Return the images on which a person rated labels, by (model, layer, neuron, text)."""
        return self._read(lambda store: rated_by(store, rater))

    def rating_counts(self) -> dict[str, int]:
        """Return how many ratings each person wrote."""
        return self._read(rating_counts)

    def _read(self, question: Callable[[Store], Value]) -> Value:
        if not self.live:
            return question(self._store)
        with self._lock, self._store.moment():
            return question(self._store)


def _state(store: Store) -> str:
    states = [store.state(name) if store.has(name) else None for name in (NOTES, RATINGS)]
    return hashlib.sha256(repr(states).encode()).hexdigest()[:16]
