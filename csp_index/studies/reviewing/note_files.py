"""Notes as a CSV file, out and in again: what readers said outlives the index that they said it in.

One note a row, in the order they were written, with a header; below them ratings (`studies.rating_files`). A cell
that a spreadsheet would run as a formula gets an apostrophe in front; reading takes it off, so that a file that was
exported, imported elsewhere and exported again is the same to the byte. Spreadsheets may add a byte order mark and
other line ends. Does not load torch.
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
from csp_index.files.regular_files import read_text, user_path
from csp_index.labelling.review.notes import COLUMNS, Note, read_notes
from csp_index.labelling.review.words import NAMING, OF_FINDING
from csp_index.printable import printable
from csp_index.store import catalog
from csp_index.store.runs import record_run
from csp_index.store.study_tables import FINDINGS
from csp_index.store.tables import Store
from csp_index.store.waiting import waiting_lock
from csp_index.studies.reviewing.notes import Draft, append_notes
from csp_index.studies.reviewing.rating_files import (
    RATE,
    RATING_COLUMNS,
    Rating,
    append_ratings,
    known_ratings,
    rating_of,
    read_ratings,
)

_OPTIONAL: Final = ("label", "method", "label_run")  # empty where there was no label
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")
_ID: Final = re.compile(r"[\w.-]{1,60}")
_PLAIN: Final = re.compile(r"[\x20-\x7e]{0,100}")
_AHEAD: Final = timedelta(days=1)  # that the clock of another machine may be ahead


@dataclass(frozen=True, slots=True)
class NotesImport:
    """What an import of notes did: the rows of the file, those added, those that were there already.

    `conflicts` are ids of notes that the index has with another content, which it keeps. `renamed` are neurons to which
    the file gives another name than the index had: the last one counts. `elsewhere` are notes about neurons or findings
    that the index does not have: they are kept for when it has them. `ratings` are those of the file, of which
    `ratings_added` were added and `ratings_elsewhere` left out, for the index lacks their picture or neuron.
    """

    rows: int
    added: int
    present: int
    conflicts: tuple[str, ...] = ()
    renamed: tuple[str, ...] = ()
    elsewhere: int = 0
    ratings: int = 0
    ratings_added: int = 0
    ratings_elsewhere: int = 0

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
            lines.append(
                f"{self.elsewhere:,} notes are about neurons or findings that this index does not have; they are kept"
            )
        if self.ratings:
            lines.append(f"{self.ratings_added:,} of {self.ratings:,} ratings added")
        if self.ratings_elsewhere:
            lines.append(
                f"{self.ratings_elsewhere:,} ratings are of pictures or neurons that this index does not have, and "
                "were left out"
            )
        return lines


def export_notes(store: Store, path: str | Path) -> tuple[int, int]:
    """Write all notes and ratings to a CSV file and return their numbers. SourceError if it cannot be written."""
    notes, ratings = read_notes(store), read_ratings(store)
    try:
        user_path(path).write_text(notes_text(notes, ratings), encoding="utf-8", newline="")
    except OSError as exc:
        raise SourceError(f"the notes cannot be written to {path}: {one_line(exc)}: name another file") from exc
    return len(notes), len(ratings)


def notes_text(notes: Sequence[Note], ratings: Sequence[Rating] = ()) -> str:
    """Return notes, and below them ratings, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*COLUMNS, *(RATING_COLUMNS if ratings else ())]
    writer.writerow(columns)
    for row in [*(note.as_json() for note in notes), *(rating.cells() for rating in ratings)]:
        cells = (row.get(name) for name in columns)
        writer.writerow(["" if cell is None else _harmless(str(cell)) for cell in cells])
    return text.getvalue()


def import_notes(store: Store, path: str | Path, *, wait: float | None = None) -> NotesImport:
    """Add the notes and ratings of a CSV file that the index does not have; what it has is never changed.

    Errors: SourceError for a file that cannot be read, or a row that no export writes: nothing is added then;
    LockedError while somebody else writes.
    """
    notes, ratings = read_notes_file(path)
    with waiting_lock(store, wait):
        known = {note.note_id: note for note in read_notes(store)}
        new = [note for note in notes if note.note_id not in known]
        conflicts = [note.note_id for note in notes if known.get(note.note_id, note) != note]
        renamed = _renamed(list(known.values()), new)
        rated = {rating.rating_id: rating for rating in read_ratings(store)}
        conflicts += [one.rating_id for one in ratings if rated.get(one.rating_id, one) != one]
        missing = [one for one in ratings if one.rating_id not in rated]
        fitting = known_ratings(store, missing)
        if new or fitting:
            said = {"file": user_path(path).name, "notes": len(new), "ratings": len(fitting)}
            with record_run(store, "import-notes", said, {}) as run:
                append_notes(store, new, run.run_id)
                append_ratings(store, fitting, run.run_id)
        elsewhere = _elsewhere(store, new)
    present = sum(known.get(note.note_id) == note for note in notes)
    counts = len(ratings), len(fitting), len(missing) - len(fitting)
    return NotesImport(len(notes), len(new), present, tuple(conflicts), tuple(renamed), elsewhere, *counts)


def read_notes_file(path: str | Path) -> tuple[list[Note], list[Rating]]:
    """Return the notes and the ratings of a file, in its order. Raises SourceError, which names the line."""
    try:
        reader = csv.reader(io.StringIO(read_text(path)), strict=True)
        header = next(reader, [])
        if header not in (COLUMNS, [*COLUMNS, *RATING_COLUMNS]):
            raise SourceError(
                f"{path} has the columns {', '.join(header) or 'none'}: expected those of `csp-index notes export`: "
                f"{', '.join(COLUMNS)}"
            )
        said = [_row(header, row, f"line {reader.line_num} of {path}") for row in reader if row]
    except csv.Error as exc:
        long = f"it has a cell of more than {csv.field_size_limit():,} characters, which no note has"
        what = long if "field limit" in str(exc) else one_line(exc)
        raise SourceError(
            f"line {reader.line_num} of {path} cannot be read: {what}: expected a file of `csp-index notes export`"
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise SourceError(f"the notes in {path} cannot be read: {one_line(exc)}: expected a CSV file in UTF-8") from exc
    notes = [one for one in said if isinstance(one, Note)]
    ratings = [one for one in said if isinstance(one, Rating)]
    counts = Counter([*(note.note_id for note in notes), *(rating.rating_id for rating in ratings)])
    twice = next((note_id for note_id, count in counts.items() if count > 1), None)
    if twice is not None:
        raise SourceError(f"{path} has the note {twice} more than once: expected each once")
    return notes, ratings


def _row(header: Sequence[str], row: Sequence[str], place: str) -> Note | Rating:
    """Return the note or the rating that a row is. SourceError for one that no export writes."""
    if len(row) != len(header):
        raise SourceError(f"{place} has {len(row)} cells: expected {len(header)}, as `csp-index notes export` writes")
    cells: dict[str, str] = {name: _plain(cell) for name, cell in zip(header, row, strict=True)}
    is_rating = cells["action"] == RATE and len(header) > len(COLUMNS)
    try:
        when = datetime.fromisoformat(cells["when"])
        if when.tzinfo is None or when > datetime.now(UTC) + _AHEAD:
            raise SettingError(f"when is {cells['when']!r}: expected a time with its zone that is not in the future")
        if not _ID.fullmatch(cells["note_id"]) or not _PLAIN.fullmatch(cells["layer_digest"]):
            raise SettingError(f"note_id is {cells['note_id']!r}: expected letters, digits, '.', '-' or '_'")
        if any(printable(cells[name]) != cells[name] for name in _OPTIONAL):
            raise SettingError("its label has characters that cannot be shown")
        return rating_of(cells, when.astimezone(UTC)) if is_rating else _note(cells, when.astimezone(UTC))
    except (CspIndexError, ValueError, OverflowError) as exc:  # overflow: before the year 1 in UTC
        raise SourceError(f"{place} is no {'rating' if is_rating else 'note'}: {one_line(exc)}") from exc


def _note(cells: dict[str, str], when: datetime) -> Note:
    draft = Draft(cells["subject"], cells["action"], cells["reader"], cells["text"])
    if _draft_differs(draft, cells):
        raise SettingError("its subject or texts are not as notes are written")
    said = (draft.reader, draft.subject, draft.action, draft.text)
    label, method, run = (cells[name] or None for name in _OPTIONAL)
    return Note(cells["note_id"], when, *said, label, method, run, cells["layer_digest"])


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
    """Return how many notes are about neurons or findings that the index does not have."""
    sizes = {info.key: info.neurons for info in catalog.layers(store)}
    found = {f"{OF_FINDING}{finding}" for finding in store.read(FINDINGS, ["finding"])["finding"].to_pylist()}
    pairs = [(note.neuron, note.subject) for note in notes]
    return sum(
        subject not in found if key is None else key.neuron >= sizes.get(key.layer_key, 0) for key, subject in pairs
    )


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
