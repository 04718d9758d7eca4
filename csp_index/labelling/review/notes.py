"""What readers said of neurons and findings, read back: notes, and what those about one subject come to.

`studies.notes` writes them. Knows nothing about models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final

from csp_index.errors import SettingError
from csp_index.labelling.review.pinned import note_rows
from csp_index.labelling.review.words import OF_FINDING, OF_NEURON, done
from csp_index.records import NeuronKey
from csp_index.store import catalog
from csp_index.store.tables import Store

_FINDING: Final = re.compile(r"[\w.:/@+-]{1,200}")


@dataclass(frozen=True, slots=True)
class Note:
    """One row of `notes` but its run: see `store.study_tables`."""

    note_id: str
    when: datetime
    reader: str
    subject: str
    action: str
    text: str
    label: str | None
    method: str | None
    label_run: str | None
    layer_digest: str

    @property
    def neuron(self) -> NeuronKey | None:
        """The neuron that it is about, None for a finding."""
        return neuron_of(self.subject)

    def as_json(self) -> dict[str, Any]:
        """Return the note for machines."""
        return asdict(self) | {"when": self.when.isoformat()}


@dataclass(frozen=True, slots=True)
class Review:
    """What the notes about one subject come to: the last verdict (accept or reject), tags, all notes in order.

    `changed`: some were written when the layer had other weights than now.
    """

    verdict: Note | None = None
    tags: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    changed: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the review for machines."""
        verdict = None if self.verdict is None else self.verdict.as_json()
        notes = [note.as_json() for note in self.notes]
        return {"verdict": verdict, "tags": list(self.tags), "layer_changed": self.changed, "notes": notes}

    def line(self, shown: str | None) -> str:
        """Return verdict and tags in words, beside the label that is shown; "" without any."""
        parts = []
        if self.verdict is not None:
            other = f" (of the label {self.verdict.label!r})" if self.verdict.label != shown else ""
            reason = f": {self.verdict.text}" if self.verdict.text else ""
            when = f"{self.verdict.when:%Y-%m-%d}"
            parts.append(f"{done(self.verdict.action)} by {self.verdict.reader} on {when}{other}{reason}")
        parts += [f"tags: {', '.join(self.tags)}"] if self.tags else []
        parts += ["notes are of other weights of this layer"] if self.changed else []
        return "; ".join(parts)


COLUMNS: Final = [field.name for field in fields(Note)]


def subject_of(text: str) -> str:
    """Return a subject as notes have it.

    >>> subject_of("resnet50/layer4/77"), subject_of("finding:3f2a")
    ('neuron:resnet50/layer4/77', 'finding:3f2a')
    """
    if text.startswith(OF_FINDING):
        if not _FINDING.fullmatch(text.removeprefix(OF_FINDING)):
            raise SettingError(f"the subject {text!r} is no finding: expected finding:ID, as `csp-index audit` says it")
        return text
    return f"{OF_NEURON}{NeuronKey.parse(text.removeprefix(OF_NEURON))}"


def neuron_of(subject: str) -> NeuronKey | None:
    """Return the neuron of a subject, None for a finding."""
    return NeuronKey.parse(subject.removeprefix(OF_NEURON)) if subject.startswith(OF_NEURON) else None


def read_notes(store: Store, subject: str | None = None) -> tuple[Note, ...]:
    """Return all notes, or those about one subject (as `subject_of` writes it), in the order they were written."""
    where = None if subject is None else f"subject = {catalog.sql_text(subject)}"
    return tuple(Note(**row) for row in note_rows(store, COLUMNS, where))


def review_of(notes: Sequence[Note], layer_digest: str = "") -> Review:
    """Return what notes about one subject come to, in the order they were written; of a neuron give its layer's."""
    verdict, tags = None, dict[str, None]()
    for note in notes:
        if note.action in ("accept", "reject"):
            verdict = note
        elif note.action == "tag":
            tags[note.text] = None
        elif note.action == "untag":
            tags.pop(note.text, None)
    changed = any(note.layer_digest not in ("", layer_digest) for note in notes)
    return Review(verdict, tuple(tags), tuple(notes), changed)
