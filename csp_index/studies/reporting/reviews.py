"""What reviewers said of an audit's findings, of their neurons and of labels on pictures; loads no torch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from csp_index.evaluation.people import last_ratings
from csp_index.labelling.review.notes import Note, read_notes, review_of
from csp_index.labelling.review.pinned import Pin, layer_digest, pins_of
from csp_index.labelling.review.words import OF_FINDING, OF_NEURON, VERDICTS
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.study_tables import RATINGS
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import Audit

_MOST: Final = 200  # names and rated labels that are listed


def reviews_of(store: Store, audit: Audit, target: LayerInfo) -> dict[str, Any]:
    """Return all that readers said, as plain values.

    `findings` has the review of each finding with notes, by id; `neurons` that of its neuron, by address. `names` are
    those that readers gave to neurons of the layer; `ratings` counts what people said of labels on pictures. `beyond`
    counts notes on other neurons of the layer, `lost` findings with notes that this audit does not have.
    """
    by_subject: dict[str, list[Note]] = defaultdict(list)
    for note in read_notes(store):
        by_subject[note.subject].append(note)
    ids = {f"{OF_FINDING}{finding.finding}": finding.finding for finding in audit.findings}
    own = {f"{OF_NEURON}{finding.neuron}": str(finding.neuron) for finding in audit.findings}
    digest, pins = layer_digest(target), pins_of(store, target)
    prefix = f"{OF_NEURON}{target.key}/"
    names = [_pin(f"{target.key}/{number}", pin) for number, pin in sorted(pins.items())]
    others = {s: len(notes) for s, notes in by_subject.items() if s.startswith(prefix) and s not in own}
    return {
        "findings": {name: review_of(by_subject[s]).as_json() for s, name in ids.items() if s in by_subject},
        "neurons": {name: review_of(by_subject[s], digest).as_json() for s, name in own.items() if s in by_subject},
        "names": names[:_MOST],
        "more_names": max(0, len(names) - _MOST),
        "beyond": sum(others.values()),
        "lost": sorted(s for s in by_subject if s.startswith(OF_FINDING) and s not in ids)[:_MOST],
        "ratings": _ratings(store, target),
    }


def _pin(address: str, pin: Pin) -> dict[str, Any]:
    said = {"text": pin.text, "reader": pin.reader, "when": pin.when.isoformat(), "changed": pin.changed}
    return {"neuron": address, **said}


def _ratings(store: Store, target: LayerInfo) -> dict[str, Any]:
    """Return how many people rated labels of a layer on pictures, and what they said of each label."""
    where = catalog.layer_filter(target)
    rows = last_ratings(store.read(RATINGS, where=where))
    counts: dict[tuple[int, str], dict[str, int]] = defaultdict(lambda: dict.fromkeys(VERDICTS, 0))
    for row in rows:
        counts[int(row["neuron"]), str(row["text"])][str(row["verdict"])] += 1
    labels = [{"neuron": f"{target.key}/{n}", "text": text, **said} for (n, text), said in sorted(counts.items())]
    return {
        "raters": len({row["rater"] for row in rows}),
        "ratings": len(rows),
        "labels": labels[:_MOST],
        "more": max(0, len(labels) - _MOST),
    }
