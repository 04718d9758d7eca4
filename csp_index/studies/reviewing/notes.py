"""Notes of readers: a label or a finding is accepted, rejected, tagged, commented on; a neuron gets a name.

A note is never changed and never deleted: who changes their mind writes another one, and of verdicts, names and tags
the last one counts. Notes are about an address, so they outlive labels, runs, and the index itself
(`studies.note_files`). Does not load torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import pyarrow as pa

from csp_index import settings
from csp_index.contrast.selection import Selection
from csp_index.errors import NotFoundError, SettingError
from csp_index.labelling.kept.read_labels import label_of
from csp_index.labelling.review.notes import COLUMNS, Note, neuron_of, subject_of
from csp_index.labelling.review.pinned import layer_digest
from csp_index.labelling.review.words import ACTIONS, OF_FINDING, OF_NEURON
from csp_index.printable import printable
from csp_index.records import Label, NeuronKey
from csp_index.store import catalog, schema
from csp_index.store.runs import record_run
from csp_index.store.study_tables import FINDINGS, NOTES
from csp_index.store.tables import Store
from csp_index.store.waiting import waiting_lock

_LONGEST: Final = {"name": 300, "tag": 60, "comment": 2000, "reason": 2000, "reader": 100}  # characters


@dataclass(frozen=True, slots=True)
class Draft:
    """What a reader wants to say of a subject: an address `m/l/7`, `neuron:m/l/7` or `finding:ID`.

    Errors: SettingError for an action that does not exist or does not fit, and for texts that are missing, too long, or
    have characters that cannot be shown; AddressError.
    """

    subject: str
    action: str
    reader: str
    text: str = ""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise SettingError(f"the action of a note is {self.action!r}: expected {', '.join(ACTIONS)}")
        object.__setattr__(self, "subject", subject_of(self.subject))
        object.__setattr__(self, "reader", clean(self.reader, "reader"))
        info = ACTIONS[self.action]
        text = clean(self.text, info.text, needed=info.needs_text) if info.text else self.text.strip()
        if text and not info.text:
            raise SettingError(f"{self.action} takes no text, and has {text!r}: leave it out, or add a comment")
        object.__setattr__(self, "text", text)
        if info.of_neurons and not self.subject.startswith(OF_NEURON):
            raise SettingError(
                f"{self.action} is for neurons, and {self.subject} is none: accept, reject, tag or comment"
            )


def reader_named(name: str | None) -> str:
    """Return the name of a reader, by default that of the setting; SettingError without any."""
    reader = settings.READER.value(name)
    if not reader.strip():
        raise SettingError("a note needs the name of its reader: give --by NAME, or set CSP_INDEX_READER")
    return reader


def clean(text: str, what: str, *, needed: bool = True) -> str:
    """Return a text of a reader without spaces around it; `what` is a key of the longest texts.

    SettingError if it is empty and needed, too long, or has control characters, line ends among them, or characters
    that change the direction of writing.
    """
    text = text.strip(" ")
    if not text and needed:
        raise SettingError(f"the {what} is empty: write at least one character")
    if len(text) > _LONGEST[what]:
        raise SettingError(f"the {what} has {len(text):,} characters: expected at most {_LONGEST[what]:,}")
    if printable(text) != text:
        raise SettingError(
            f"the {what} has characters that cannot be shown ({text!a:.80}): write it in one line without"
        )
    return text


def write_notes(
    store: Store, drafts: Sequence[Draft], *, run_of: Callable[[Store], str] | None = None, wait: float | None = None
) -> tuple[Note, ...]:
    """Add notes, all or none, and return them; another writer is waited for up to `wait` seconds.

    They belong to the run whose id `run_of` returns, which is called under the lock and only if none is refused; by
    default to one of their own. Errors: NotFoundError for a neuron or a finding that the index does not have,
    LockedError while somebody else writes: nothing was written then.
    """
    with waiting_lock(store, wait):
        notes = [_noted(store, draft) for draft in drafts]
        for place, note in enumerate(notes):  # in the order in which they were given, after all that are there
            moment = _after(store, notes[:place])
            notes[place] = Note(_new_id(moment), moment, *(getattr(note, name) for name in COLUMNS[2:]))
        if notes and run_of is not None:
            append_notes(store, notes, run_of(store))
        elif notes:
            said = {"subjects": sorted({note.subject for note in notes}), "notes": len(notes)}
            with record_run(store, "note", said, {}) as run:
                append_notes(store, notes, run.run_id)
    return tuple(notes)


def append_notes(store: Store, notes: Sequence[Note], run_id: str) -> None:
    """Append notes as rows of a run; the caller holds the write lock."""
    rows = [asdict(note) | {"run_id": run_id} for note in notes]
    if rows:
        store.append(NOTES, pa.Table.from_pylist(rows, schema=schema.table_schema(NOTES)))


def _noted(store: Store, draft: Draft) -> Note:
    """Return a draft as a note, with the label that it is about; its id and time are still to be given."""
    key = neuron_of(draft.subject)
    said = ("", datetime.min.replace(tzinfo=UTC), draft.reader, draft.subject, draft.action, draft.text)
    if key is None:
        _check_finding(store, draft.subject)
        return Note(*said, None, None, None, "")
    target = catalog.layer(store, key.layer_key)
    catalog.check_neurons(target, [key.neuron])
    label = _shown(store, key)
    method, run_id = (label.method, label.run_id or None) if label else (None, None)
    text = printable(label.text) if label and label.text else None
    return Note(*said, text, method, run_id, layer_digest(target))


def _check_finding(store: Store, subject: str) -> None:
    """Refuse a finding that no audit of the index has."""
    finding = subject.removeprefix(OF_FINDING)
    if not store.count(FINDINGS, f"finding = {catalog.sql_text(finding)}"):
        raise NotFoundError(
            f"no audit of this index has the finding {finding!r}: `csp-index audit` prints the id of each, the SQL "
            "view findings has all"
        )


def _shown(store: Store, key: NeuronKey) -> Label | None:
    encoders = catalog.encoders(store)  # labels rest on one: without any there are none
    if not encoders:
        return None
    target = catalog.layer(store, key.layer_key)
    return label_of(store, Selection(encoders[0], target, np.array([key.neuron])), key.neuron, top=1)


def _after(store: Store, notes: Sequence[Note]) -> datetime:
    """Return the time of the next note: now, or just after the last one, also where the clock was set back."""
    times = [note.when for note in notes] or store.read(NOTES, ["when"])["when"].to_pylist()
    last = max(times, default=None)
    now = datetime.now(UTC)
    return now if last is None else max(now, last + timedelta(microseconds=1))


def _new_id(moment: datetime) -> str:
    return f"{moment:%Y%m%dT%H%M%S%f}-{secrets.token_hex(4)}"
