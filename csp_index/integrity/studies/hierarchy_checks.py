"""Labels in a hierarchy: every neuron of the layer once, words whose parents exist, levels that stand above labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.study_tables import HIERARCHIES, HIERARCHY_LEVELS, HIERARCHY_STATES, HIERARCHY_WORDS

_TABLES = (HIERARCHIES, HIERARCHY_WORDS, HIERARCHY_LEVELS)
_CORRELATIONS = ("correlation", "level_correlation", "ended_correlation")
_PLACED = ("climbed", "kept", "unexplained")


def check_hierarchies(subject: Subject) -> None:
    """Check the tables of hierarchies: a fault deletes the layer's rows of that run, which `csp-index` makes again."""
    there = [name for name in _TABLES if subject.is_readable(name)]
    if not there:
        return
    with reading(subject.result.findings, HIERARCHY_LEVELS):
        rows = {name: _by_run(subject.store.read(name).to_pylist()) for name in there}
        subject.result.count("neurons in a hierarchy", sum(map(len, rows.get(HIERARCHY_LEVELS, {}).values())))
        for run in dict.fromkeys(run for groups in rows.values() for run in groups):
            parts = [rows.get(name, {}).get(run, []) for name in _TABLES]
            for what in _wrong(subject, *parts):
                _find(subject, there, run, what)


def _by_run(rows: Sequence[Mapping[str, Any]]) -> dict[object, list[Mapping[str, Any]]]:
    groups: dict[object, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["run_id"], []).append(row)
    return groups


def _find(subject: Subject, tables: Sequence[str], run: object, what: str) -> None:
    where = "run_id IS NULL" if run is None else f"run_id = {sql_text(str(run))}"
    for name in tables:
        subject.find(name, what, f"run {run}", "delete rows", (name, where))


def _wrong(
    subject: Subject,
    heads: Sequence[Mapping[str, Any]],
    words: Sequence[Mapping[str, Any]],
    levels: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """Yield what is wrong with the rows of one run."""
    if len(heads) != 1:
        if not subject.damaged.keys() & set(_TABLES):
            yield "words and levels without the row of their hierarchy, or with several"
        return
    head = heads[0]
    key = (head["model"], head["layer"])
    if any((row["model"], row["layer"]) != key for row in (*words, *levels)):
        yield "rows are of another layer than their hierarchy"
    if sorted(row["neuron"] for row in levels) != list(range(head["neurons"] or 0)):
        yield "neurons are missing, or there more than once"
    elif subject.rests_on(schema.LAYERS) and subject.known_layers.get(key, head["neurons"]) != head["neurons"]:
        yield "it is of another number of neurons than the layer has"
    if sorted(row["word"] for row in words) != list(range(head["words"] or 0)):
        yield "words are missing, or there more than once"
        return
    if not 0 <= (head["keep"] if head["keep"] is not None else -1) <= 1:
        yield "what is kept is no share"
    yield from _wrong_words(words)
    yield from _wrong_levels(sorted(words, key=lambda row: int(row["word"])), levels)


def _wrong_words(words: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    parents = {row["word"]: row["parents"] or [] for row in words}
    if any(parent not in parents for own in parents.values() for parent in own):
        yield "parents of words do not exist"
        return
    left = {word: set(own) for word, own in parents.items()}
    while ready := [word for word, own in left.items() if not own]:
        for word in ready:
            del left[word]
        for own in left.values():
            own.difference_update(ready)
    if left:
        yield "words are among their own broader words"


def _wrong_levels(words: Sequence[Mapping[str, Any]], levels: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if any(row["state"] not in HIERARCHY_STATES for row in levels):
        yield "states that there are not"
        return
    for row in levels:
        if (row["level"] is not None) != (row["state"] in _PLACED):
            yield "levels are missing, or where none can be"
            return
        if row["level"] is not None and not (
            0 <= row["level"] < len(words) and words[row["level"]]["title"] == row["level_title"]
        ):
            yield "levels are no words of the hierarchy"
            return
    values = [row[name] for row in levels for name in _CORRELATIONS if row[name] is not None]
    if not all(np.isfinite(value) and -1.001 <= value <= 1.001 for value in values):
        yield "correlations are no possible numbers"
    if any((row["steps"] or 0) < 0 or (row["state"] == "climbed") != bool(row["steps"]) for row in levels):
        yield "steps do not go with states"
