"""Audits and their findings: each finding of an audit, whole, in range, about a class and images that exist."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow.compute as pc

from csp_index.errors import StoreError
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.finding_evidence import is_evidence
from csp_index.store.stored_json import read_object
from csp_index.store.study_tables import AUDITS, FINDING_KINDS, FINDING_NUMBERS, FINDINGS

_SET = ("run_id", "model", "layer", "classed_by")
_CLOSE = 1e-6  # of a score and the product that it is


def check_audits(subject: Subject) -> None:
    """Check the tables of audits: a fault in one deletes the audit, which is made again when it is asked for."""
    if not (subject.is_readable(AUDITS) or subject.is_readable(FINDINGS)):
        return
    heads = subject.store.read(AUDITS) if subject.is_readable(AUDITS) else None
    known = {tuple(row[name] for name in _SET) for row in heads.to_pylist()} if heads is not None else set()
    if subject.is_readable(FINDINGS):
        with reading(subject.result.findings, FINDINGS):
            rows = subject.store.read(FINDINGS).to_pylist()
            subject.result.count("findings", len(rows))
            for key, group in _grouped(rows).items():
                if key not in known and AUDITS not in subject.damaged:
                    _find(subject, FINDINGS, "findings without their audit", key)
                    continue
                threshold = _threshold(heads, key) if heads is not None else np.nan
                for what in _wrong(subject, group, threshold):
                    _find(subject, FINDINGS, what, key)
    for row in heads.to_pylist() if heads is not None else ():
        if not 0 <= (row["threshold"] if row["threshold"] is not None else -1) <= 1:
            _find(subject, AUDITS, "its threshold is no number from 0 to 1", tuple(row[name] for name in _SET))


def _grouped(rows: list[dict[str, Any]]) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in _SET), []).append(row)
    return groups


def _threshold(heads: Any, key: tuple[str, ...]) -> float:
    same = heads.filter(pc.equal(heads["run_id"], key[0]))
    values = [row["threshold"] for row in same.to_pylist() if tuple(row[name] for name in _SET) == key]
    return float(values[0]) if values and values[0] is not None else float("nan")


def _find(subject: Subject, table: str, what: str, key: tuple[str, ...]) -> None:
    """Add a finding about an audit, which is deleted with all that it found."""
    where = " AND ".join(f"{name} = {sql_text(value)}" for name, value in zip(_SET, key, strict=True))
    place = f"{key[1]}/{key[2]} by {key[3]}, run {key[0]}"
    for name in dict.fromkeys((table, AUDITS)):
        if subject.is_readable(name):
            subject.find(name, what, place, "delete rows", (name, where))


def _wrong(subject: Subject, rows: list[dict[str, Any]], threshold: float) -> Iterator[str]:
    """Yield what is wrong with the findings of one audit."""
    if sorted(row["rank"] for row in rows) != list(range(len(rows))):
        yield "findings are missing, or there more than once"
    if len({row["finding"] for row in rows}) < len(rows):
        yield "two findings have the same id"
    numbers = [[row[name] for name in FINDING_NUMBERS] for row in rows]
    if any(value is None or not np.isfinite(value) for values in numbers for value in values):
        yield "numbers are missing or not finite"
        return
    ranged = [(name, row[name]) for row in rows for name in FINDING_NUMBERS if name != "push"]
    if any(not 0 <= value <= 1 for _, value in ranged):
        yield "numbers are out of range"
    if any(abs(row["score"] - row["effect"] * row["doubt"]) > _CLOSE for row in rows):
        yield "scores are not effect x doubt"
    if not np.isnan(threshold) and any(row["above"] != (row["score"] > threshold) for row in rows):
        yield "findings are on the wrong side of the threshold"
    if any(row["kind"] not in FINDING_KINDS for row in rows):
        yield "kinds of findings that there are not"
    for row in rows:
        if (what := _wrong_evidence(subject, row)) is not None:
            yield what
            return


def _wrong_evidence(subject: Subject, row: Mapping[str, Any]) -> str | None:
    try:
        evidence = read_object(row["evidence"], FINDINGS, "evidence")
    except StoreError:
        return "evidence is no JSON"
    if not is_evidence(evidence):
        return "evidence has another form"
    lists = [*evidence["counter_examples"].values(), *(cell["images"] for cell in evidence["cells"])]
    images = [one["image"] for each in lists for one in each] + [pair["image"] for pair in evidence["pairs"]]
    if subject.rests_on(schema.SHARDS, schema.IMAGES) and any(not 0 <= image < subject.images for image in images):
        return "images of evidence do not exist"
    return None
