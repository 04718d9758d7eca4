"""Notes and ratings of readers: each is there once, says what can be said, and is about what the index has.

Nothing makes again what people said, so no repair deletes a row of it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import CspIndexError
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.labelling.review.notes import neuron_of, subject_of
from csp_index.labelling.review.words import ACTIONS, DRAWS, OF_FINDING, VERDICTS
from csp_index.store import schema
from csp_index.store.study_tables import FINDINGS, NOTES, RATINGS


def check_review(subject: Subject) -> None:
    """Check the tables of notes and ratings."""
    for name, check in ((NOTES, _check_notes), (RATINGS, _check_ratings)):
        if subject.is_readable(name):
            with reading(subject.result.findings, name):
                check(subject)


def _check_notes(subject: Subject) -> None:
    rows = subject.store.read(NOTES)
    subject.result.count("notes", rows.num_rows)
    _check_once(subject, NOTES, rows, "note_id", ("when", "reader", "subject", "text"))
    _check_runs(subject, NOTES, rows)
    unknown = sorted(set(rows["action"].to_pylist()) - ACTIONS.keys(), key=str)
    if unknown:
        subject.find(NOTES, "these are no actions of a reader", many(unknown, "action"))
    wrong, elsewhere, unfound = [], [], []
    findings = (
        set(subject.store.read(FINDINGS, ["finding"])["finding"].to_pylist()) if subject.is_readable(FINDINGS) else None
    )
    for text in sorted(set(filter(None, rows["subject"].to_pylist()))):
        try:
            key = neuron_of(subject_of(text))
        except CspIndexError:
            wrong.append(text)
            continue
        if key is None and findings is not None and text.removeprefix(OF_FINDING) not in findings:
            unfound.append(text)
        if key is not None and key.neuron >= subject.known_layers.get((key.model, key.layer), 0):
            elsewhere.append(str(key))
    if wrong:
        subject.find(NOTES, "these are no subjects of a note", many(wrong, "subject"))
    if elsewhere and subject.rests_on(schema.LAYERS):  # kept for when the index has them
        subject.result.notes.append(
            f"notes are about neurons that this index does not have: {many(elsewhere, 'neuron')}"
        )
    if unfound:  # of an audit that was made again, or of another index
        subject.result.notes.append(f"notes are about findings that no audit here has: {many(unfound, 'finding')}")


def _check_ratings(subject: Subject) -> None:
    rows = subject.store.read(RATINGS)
    subject.result.count("ratings", rows.num_rows)
    _check_once(subject, RATINGS, rows, "rating_id", ("when", "rater", "text", "model", "layer", "neuron", "image_id"))
    _check_runs(subject, RATINGS, rows)
    for column, known in (("verdict", VERDICTS), ("drawn", DRAWS)):
        unknown = sorted(set(rows[column].to_pylist()) - set(known), key=str)
        if unknown:
            subject.find(RATINGS, f"expected {', '.join(known)}", many(unknown, column))
    weights, activations = (rows[name].to_numpy().astype(np.float64) for name in ("weight", "activation"))
    wrong = ~((weights > 0) & np.isfinite(weights) & np.isfinite(activations))
    _find_rows(subject, rows, wrong, "weights or activations are no finite numbers above and from 0")
    images = rows["image_id"].fill_null(-1).to_numpy()
    if subject.rests_on(schema.SHARDS, schema.IMAGES):
        _find_rows(subject, rows, (images < 0) | (images >= subject.images), "images of ratings do not exist")
    if subject.rests_on(schema.LAYERS):
        layers = subject.known_layers
        sizes = np.array(
            [layers.get(pair, 0) for pair in zip(rows["model"].to_pylist(), rows["layer"].to_pylist(), strict=True)]
        )
        neurons = rows["neuron"].fill_null(-1).to_numpy()
        _find_rows(subject, rows, (neurons < 0) | (neurons >= sizes), "neurons of ratings do not exist")


def _check_once(subject: Subject, table: str, rows: pa.Table, key: str, needed: tuple[str, ...]) -> None:
    """Check that every row has an id of its own, and what no row lacks."""
    counts = pc.value_counts(rows[key])
    twice = [entry["values"] for entry in counts.to_pylist() if entry["counts"] > 1 or entry["values"] is None]
    if twice:
        subject.find(table, "rows are there more than once", many(twice, key))
    for name in needed:
        if rows[name].null_count:
            subject.find(table, f"{rows[name].null_count:,} rows have no {name}")


def _check_runs(subject: Subject, table: str, rows: pa.Table) -> None:
    if schema.RUNS in subject.damaged:
        return
    known = set(subject.store.read(schema.RUNS, ["run_id"])["run_id"].to_pylist())
    unknown = sorted(set(rows["run_id"].to_pylist()) - known, key=str)
    if unknown:
        subject.find(schema.RUNS, f"the run of rows of {table} is missing", many(unknown, "run"), key=(unknown[0],))


def _find_rows(subject: Subject, rows: pa.Table, wrong: np.ndarray, what: str) -> None:
    if wrong.any():
        ids = rows["rating_id"].take(pa.array(np.flatnonzero(wrong))).to_pylist()
        subject.find(RATINGS, what, many(ids, "rating"))
