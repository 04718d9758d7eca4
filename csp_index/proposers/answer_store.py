"""Storage of proposers' answers: which neurons have answered already, and a journal that survives a killed run.

A commit takes about 20 ms, so answers are committed in groups. Until then each is in a journal, a file of JSON lines
next to the tables, from which the next run recovers what a killed run could not commit. An object store has no journal:
there a kill loses the answers since the last commit.
"""

from __future__ import annotations

import json
import math
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa

from csp_index import settings
from csp_index.concurrency import Writer
from csp_index.errors import StoreError, one_line
from csp_index.files.regular_files import read_bytes
from csp_index.proposers.proposer import Answer, Proposer
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.foreign import is_plain
from csp_index.store.stored_json import parse_json
from csp_index.store.tables import Store

JOURNAL = ".answers.jsonl"
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)  # a link in its place is not followed

_COUNTERS = ("requests", "prompt_tokens", "completion_tokens", "seconds")
_SAME = ("settings_hash", "model", "layer")
_LISTED = 2_000  # neurons per condition

Row = dict[str, Any]  # an answer in the journal: the columns of `answers`, plus `texts` and `scores`


@dataclass(frozen=True, slots=True)
class Origin:
    """The columns that all answers of a run share. `hashed` is the hash of everything they depend on."""

    run_id: str
    hashed: str
    kind: str
    proposer: str
    revision: str
    prompt_hash: str


@dataclass(frozen=True, slots=True)
class Known:
    """The stored answers under one settings hash: the neurons that need no question, and the cost of each."""

    settled: frozenset[int]  # in state answered or unparsed
    spent: Mapping[int, tuple[int, int, int, float]]  # requests, tokens of prompts and completions, seconds


def known_answers(store: Store, target: LayerInfo, hashed: str) -> Known:
    """Return the stored answers about a layer's neurons under a settings hash."""
    where = f"settings_hash = {catalog.sql_text(hashed)} AND {catalog.layer_filter(target)}"
    rows = store.read(schema.ANSWERS, ["neuron", "state", *_COUNTERS], where).to_pylist()
    settled = frozenset(row["neuron"] for row in rows if row["state"] != "failed")
    return Known(settled, {row["neuron"]: tuple(row[name] for name in _COUNTERS) for row in rows})


def superseded(store: Store, target: LayerInfo, proposer: Proposer, hashed: str, neurons: Sequence[int]) -> list[int]:
    """Return the neurons that have a later answer of the proposer than the one under this settings hash."""
    same = (
        f"{name} = {catalog.sql_text(value)}" for name, value in (("kind", proposer.kind), ("proposer", proposer.name))
    )
    where = " AND ".join([catalog.layer_filter(target), "state != 'failed'", *same])
    last: dict[int, tuple[str, str]] = {}
    for row in store.read(schema.ANSWERS, ["neuron", "run_id", "settings_hash"], where).to_pylist():
        last[row["neuron"]] = max(last.get(row["neuron"], ("", "")), (row["run_id"], row["settings_hash"]))
    return [neuron for neuron in neurons if neuron in last and last[neuron][1] != hashed]


def renew(store: Store, target: LayerInfo, hashed: str, neurons: Sequence[int], run_id: str) -> None:
    """Make stored answers the newest of their neurons again, because this run requested them. Under the write lock."""
    condition = f"settings_hash = {catalog.sql_text(hashed)} AND {catalog.layer_filter(target)}"
    for start in range(0, len(neurons), _LISTED):
        where = f"{condition} AND neuron IN ({','.join(map(str, neurons[start : start + _LISTED]))})"
        for name in (schema.CANDIDATES, schema.ANSWERS):  # in this order, so that a visible answer is complete
            rows = store.read(name, where=where)
            position = rows.schema.get_field_index("run_id")
            rows = rows.set_column(position, rows.schema.field(position), pa.array([run_id] * rows.num_rows))
            store.delete(name, where)
            store.append(name, rows)


class AnswerWriter:
    """Stores answers, in a `with` block; all are committed however the block ends. Under the write lock.

    An answer replaces the neuron's earlier one under the same settings, and its counters include the earlier cost; a
    failure leaves an earlier answer unchanged.
    """

    def __init__(self, store: Store, origin: Origin, known: Known) -> None:
        """Start without answers; the journal is empty, see `take_over`."""
        self._store, self._origin, self._known = store, origin, known
        self._journal = Journal.of(store)
        self._writer = Writer()
        self._waiting: list[Row] = []
        self._since = time.monotonic()
        self._group, self._pause = settings.ANSWERS_GROUP.value(), settings.ANSWERS_PAUSE.value()

    def add(self, answer: Answer) -> Answer:
        """Add an answer to the journal now and to the tables with the next group; return it as it is stored."""
        cleaned = _cleaned(answer)
        if cleaned.state == "failed" and cleaned.neuron.neuron in self._known.settled:
            return cleaned
        row = _row(cleaned, self._origin, self._known.spent.get(cleaned.neuron.neuron, (0, 0, 0, 0.0)))
        self._journal.add(row)
        self._waiting.append(row)
        self._writer.check()
        if len(self._waiting) >= self._group or time.monotonic() - self._since >= self._pause:
            self._commit()
        return cleaned

    def _commit(self) -> None:
        rows, self._waiting = self._waiting, []
        self._since = time.monotonic()

        def commit() -> None:
            write_answers(self._store, rows)
            self._store.checkpoint()
            self._journal.done(len(rows))

        if rows:
            self._writer.put(commit)

    def __enter__(self) -> AnswerWriter:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._commit()
        finally:
            try:
                self._writer.__exit__(kind, error, trace)
            finally:
                self._journal.close()


class Journal:
    """A file of JSON lines that survives a killed process; only the holder of the write lock uses it."""

    def __init__(self, path: Path | None) -> None:
        """Remember the file's path; None means no journal."""
        self._path = path
        self._file: int | None = None
        self._open = 0  # lines that are in no table yet
        self._mutex = threading.Lock()

    @classmethod
    def of(cls, store: Store) -> Journal:
        """Return the journal of an index: a file in its directory, none in an object store."""
        return cls(None if "://" in store.address else Path(store.address) / JOURNAL)

    def add(self, row: Row) -> None:
        """Write one line."""
        if self._path is None:
            return
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        with self._mutex:
            try:
                if self._file is None:
                    self._file = os.open(self._path, _APPEND, 0o644)
                while line:  # a signal may cut a write short
                    line = line[os.write(self._file, line) :]
            except OSError as exc:
                raise StoreError(f"the answer cannot be written to {self._path}: {one_line(exc)}") from exc
            self._open += 1

    def done(self, count: int) -> None:
        """Count lines as committed to the tables; the file is emptied when all lines are."""
        with self._mutex:
            self._open -= count
            if self._file is not None and self._open == 0:
                os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Close the file, and remove it if all its lines are in the tables."""
        with self._mutex:
            if self._file is not None:
                os.close(self._file)
                self._file = None
                if self._open == 0 and self._path is not None:
                    self._path.unlink(missing_ok=True)

    def rows(self) -> list[Row]:
        """Return the valid rows; a last line cut off by a kill, or a damaged one, is skipped."""
        if self._path is None:
            return []
        try:
            lines = read_bytes(self._path, settings.MAX_TEXT_BYTES).split(b"\n") if is_plain(self._path) else []
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StoreError(f"the answers of a killed run in {self._path} cannot be read: {one_line(exc)}") from exc
        return [row for row in map(_parsed, lines) if row is not None]

    def remove(self) -> None:
        """Remove the file."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def take_over(store: Store) -> int:
    """Commit the answers that a killed run left in the journal; return how many. Under the write lock."""
    journal = Journal.of(store)
    rows = journal.rows()
    if rows:
        runs = ",".join(catalog.sql_text(run) for run in sorted({row["run_id"] for row in rows}))
        columns = ["run_id", *_SAME, "neuron"]
        committed = store.read(schema.ANSWERS, columns, f"run_id IN ({runs})").to_pylist()
        committed_keys = {tuple(row[name] for name in columns) for row in committed}
        # Lines of one neuron are in the order of writing: the last one counts.
        newest = {key: row for row in rows if (key := tuple(row[name] for name in columns)) not in committed_keys}
        rows = list(newest.values())
        write_answers(store, rows)
        store.checkpoint()
    journal.remove()
    return len(rows)


def write_answers(store: Store, rows: Iterable[Row]) -> None:
    """Store answers in place of earlier ones; candidates come first, so that a visible answer is complete."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _SAME), []).append(row)
    for same, group in groups.items():
        condition = " AND ".join(f"{name} = {catalog.sql_text(value)}" for name, value in zip(_SAME, same, strict=True))
        for start in range(0, len(group), _LISTED):
            part = group[start : start + _LISTED]
            names = ",".join(str(row["neuron"]) for row in part)
            candidates = _candidates(part)
            store.delete(schema.CANDIDATES, f"{condition} AND neuron IN ({names})")
            if candidates.num_rows:
                store.append(schema.CANDIDATES, candidates)
            store.delete(schema.ANSWERS, f"{condition} AND neuron IN ({names})")
            store.append(schema.ANSWERS, _answers(part))


def _cleaned(answer: Answer) -> Answer:
    """Return the answer as it is stored: each candidate in one line, without empty and repeated ones."""
    score_of: dict[str, float] = {}
    scored = len(answer.scores) == len(answer.texts)
    if answer.state == "answered":
        for rank, text in enumerate(answer.texts):
            words = _storable(" ".join(text.split()))
            if words:
                score_of.setdefault(words, float(answer.scores[rank]) if scored else math.nan)
    state, reason = answer.state, _storable(" ".join(answer.reason.split()))
    if state == "answered" and not score_of:
        state, reason = "unparsed", reason or "the answer has no candidate"
    texts, scores = tuple(score_of), tuple(score_of.values())
    return replace(answer, state=state, raw=_storable(answer.raw), reason=reason, texts=texts, scores=scores)


def _row(answer: Answer, origin: Origin, spent: Sequence[float]) -> Row:
    cost = [getattr(answer, name) + before for name, before in zip(_COUNTERS, spent, strict=True)]
    return {
        "run_id": origin.run_id,
        "settings_hash": origin.hashed,
        "model": answer.neuron.model,
        "layer": answer.neuron.layer,
        "neuron": answer.neuron.neuron,
        "kind": origin.kind,
        "proposer": origin.proposer,
        "revision": origin.revision,
        "prompt_hash": origin.prompt_hash,
        "state": answer.state,
        "raw": answer.raw,
        "reason": answer.reason,
        **dict(zip(_COUNTERS, cost, strict=True)),
        "when": datetime.now(UTC).isoformat(),
        "texts": list(answer.texts),
        "scores": [score if math.isfinite(score) else None for score in answer.scores],
    }


def _storable(text: str) -> str:
    """Return a text that every UTF-8 reader accepts: JSON may contain halves of characters."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


def _answers(rows: Sequence[Row]) -> pa.Table:
    table = schema.table_schema(schema.ANSWERS)
    columns = {field.name: [row[field.name] for row in rows] for field in table}
    columns["when"] = [datetime.fromisoformat(when) for when in columns["when"]]
    return pa.table(columns, schema=table)


def _candidates(rows: Sequence[Row]) -> pa.Table:
    table = schema.table_schema(schema.CANDIDATES)
    own = ("rank", "text", "score")
    return pa.Table.from_pylist(
        [
            {name: row[name] for name in table.names if name not in own} | {"rank": rank, "text": text, "score": score}
            for row in rows
            for rank, (text, score) in enumerate(zip(row["texts"], row["scores"], strict=True))
        ],
        schema=table,
    )


def _parsed(line: bytes) -> Row | None:
    try:
        row = parse_json(line.decode())
    except ValueError:
        return None
    names = {*schema.table_schema(schema.ANSWERS).names, "texts", "scores"}
    if not isinstance(row, dict) or not names <= row.keys():
        return None
    try:  # a line that does not fit the tables is damaged
        stored, candidates = _answers([row]).to_pylist()[0], _candidates([row])
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    fits = all(
        value is not None and not isinstance(row[name], bool) and value == row[name]
        for name, value in stored.items()
        if name != "when"
    )
    texts = row["texts"]
    same = isinstance(texts, list) and None not in texts and candidates["text"].to_pylist() == texts
    return row if fits and same and isinstance(row["neuron"], int) and row["neuron"] >= 0 else None
