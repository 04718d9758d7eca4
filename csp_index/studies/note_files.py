"""Notes as a CSV file, out and in again: what readers said outlives the index that they said it in.

One note a row, in the order they were written, with a header. A cell that a spreadsheet would run as a formula gets an
apostrophe in front; reading takes it off, so that a file that was exported, imported elsewhere and exported again is
the same to the byte. Spreadsheets may add a byte order mark and other line ends. Does not load torch.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from csp_index.errors import CspIndexError, SettingError, SourceError, one_line
from csp_index.labelling.review.notes import COLUMNS, Note, read_notes
from csp_index.labelling.review.words import NAMING
from csp_index.printable import printable
from csp_index.regular_files import read_text, user_path
from csp_index.store import catalog
from csp_index.store.runs import record_run
from csp_index.store.tables import Store
from csp_index.store.waiting import waiting_lock
from csp_index.studies.notes import Draft, append_notes

_OPTIONAL: Final = ("label", "method", "label_run")  # empty where there was no label
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_ID: Final = re.compile(r"[\w.-]{1,60}")
_PLAIN: Final = re.compile(r"[\x20-\x7e]{0,100}")
_AHEAD: Final = timedelta(days=1)  # that the clock of another machine may be ahead


@dataclass(frozen=True, slots=True)
class NotesImport:
    """What an import of notes did: the rows of the file, those added, those that were there already.

    `conflicts` are ids of notes that the index has with another content, which it keeps. `renamed` are neurons to which
    the file gives another name than the index had: the last one counts. `elsewhere` are notes about layers or neurons
    that the index does not have: they are kept for when it has them.
    """

    rows: int
    added: int
    present: int
    conflicts: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    elsewhere: int = 0

    def lines(self) -> list[str]:
        """Return what happened, in words, a line each."""
        lines = [f"{self.added:,} of {self.rows:,} notes added, {self.present:,} were there already"]
        if self.conflicts:
            lines.append(
                f"{len(self.conflicts):,} notes have an id that the index has with another content, and were left out: "
                + _few(self.conflicts)
            )
        if self.renamed:
            lines.append(
                f"{len(self.renamed):,} neurons had another name, and the last one given counts: {_few(self.renamed)}"
            )
        if self.elsewhere:
            lines.append(f"{self.elsewhere:,} notes are about neurons that this index does not have; they are kept")
        return lines


def export_notes(store: Store, path: str | Path) -> int:
    """Write all notes to a CSV file and return their number. Errors: SourceError if it cannot be written."""
    notes = read_notes(store)
    try:
        user_path(path).write_text(notes_text(notes), encoding="utf-8", newline="")
    except OSError as exc:
        raise SourceError(f"the notes cannot be written to {path}: {one_line(exc)}: name another file") from exc
    return len(notes)


def notes_text(notes: Sequence[Note]) -> str:
    """Return notes as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for note in notes:
        row = note.as_json()
        writer.writerow(["" if row[name] is None else _harmless(str(row[name])) for name in COLUMNS])
    return text.getvalue()


def import_notes(store: Store, path: str | Path, *, wait: float | None = None) -> NotesImport:
    """Add the notes of a CSV file that the index does not have; what it has is never changed.

    Errors: SourceError for a file that cannot be read, or a row that no export writes: nothing is added then;
    LockedError while somebody else writes.
    """
    notes = read_notes_file(path)
    with waiting_lock(store, wait):
        known = {note.note_id: note for note in read_notes(store)}
        new = [note for note in notes if note.note_id not in known]
        conflicts = [note.note_id for note in notes if known.get(note.note_id, note) != note]
        renamed = _renamed(list(known.values()), new)
        if new:
            said = {"file": user_path(path).name, "notes": len(new)}
            with record_run(store, "import-notes", said, {}) as run:
                append_notes(store, new, run.run_id)
        elsewhere = _elsewhere(store, new)
    present = len(notes) - len(new) - len(conflicts)
    return NotesImport(len(notes), len(new), present, tuple(conflicts), tuple(renamed), elsewhere)


def read_notes_file(path: str | Path) -> list[Note]:
    """Return the notes of a file, in its order. Raises SourceError, which names the line."""
    try:
        reader = csv.reader(io.StringIO(read_text(path)), strict=True)
        header = next(reader, [])
        if header != COLUMNS:
            raise SourceError(
                f"{path} has the columns {', '.join(header) or 'none'}: expected those of `csp-index notes export`: "
                f"{', '.join(COLUMNS)}"
            )
        notes = [_note(row, f"line {reader.line_num} of {path}") for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise SourceError(f"the notes in {path} cannot be read: {one_line(exc)}: expected a CSV file in UTF-8") from exc
    counts = Counter(note.note_id for note in notes)
    twice = next((note_id for note_id, count in counts.items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{path} has the note {twice} more than once: expected each once")
    return notes


def _note(row: Sequence[str], place: str) -> Note:
    if len(row) != len(COLUMNS):
        raise SourceError(f"{place} has {len(row)} cells: expected {len(COLUMNS)}, as `csp-index notes export` writes")
    cells: dict[str, str] = {name: _plain(cell) for name, cell in zip(COLUMNS, row, strict=True)}
    try:
        draft = Draft(cells["subject"], cells["action"], cells["reader"], cells["text"])
        when = datetime.fromisoformat(cells["when"])
        if when.tzinfo is None or when > datetime.now(UTC) + _AHEAD:
            raise SettingError(f"when is {cells['when']!r}: expected a time with its zone that is not in the future")
        if not _ID.fullmatch(cells["note_id"]) or not _PLAIN.fullmatch(cells["layer_digest"]):
            raise SettingError(f"note_id is {cells['note_id']!r}: expected letters, digits, '.', '-' or '_'")
        optional = {name: cells[name] or None for name in _OPTIONAL}
        if _draft_differs(draft, cells) or any(printable(cells[name]) != cells[name] for name in _OPTIONAL):
            raise SettingError("its subject or texts are not as notes are written")
        said = (draft.reader, draft.subject, draft.action, draft.text)
        label = optional["label"], optional["method"], optional["label_run"]
        return Note(cells["note_id"], when.astimezone(UTC), *said, *label, cells["layer_digest"])
    except (CspIndexError, ValueError) as exc:
        raise SourceError(f"{place} is no note: {one_line(exc)}") from exc


def _draft_differs(draft: Draft, cells: dict[str, str]) -> bool:
    return any(getattr(draft, name) != cells[name] for name in ("subject", "action", "reader", "text"))


def _renamed(known: Sequence[Note], new: Sequence[Note]) -> list[str]:
    """Return the subjects that have a name in the index, and another one in the notes to add."""
    before, given = _last_names(known), _last_names(new)
    return sorted(subject for subject, name in given.items() if before.get(subject) and before[subject] != name)


def _last_names(notes: Sequence[Note]) -> dict[str, str]:
    ordered = sorted(notes, key=lambda note: (note.when, note.note_id))
    return {note.subject: note.text for note in ordered if note.action in NAMING}


def _elsewhere(store: Store, notes: Sequence[Note]) -> int:
    """Return how many notes are about neurons that the index does not have."""
    sizes = {info.key: info.neurons for info in catalog.layers(store)}
    keys = [note.neuron for note in notes]
    return sum(key is not None and key.neuron >= sizes.get(key.layer_key, 0) for key in keys)


def _harmless(text: str) -> str:
    """Return a cell that no spreadsheet takes for a formula; `_plain` undoes it.

    >>> [_harmless(text) for text in ("=1+1", "'=1+1", "red", "it's")]
    ["'=1+1", "''=1+1", 'red', "it's"]
    """
    return f"'{text}" if _FORMULA.match(text) else text


def _plain(cell: str) -> str:
    """Return the text of a cell.

    >>> [_plain(_harmless(text)) for text in ("=1+1", "'=1+1", "-0.5", "'red'")]
    ['=1+1', "'=1+1", '-0.5', "'red'"]
    """
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell[1:]) else cell


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")
