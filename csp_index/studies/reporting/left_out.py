"""What an audit did not look at, as a report says it: sentences, each with names where there are some.

An audit is judged by what it left out as much as by what it found. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pyarrow.compute as pc

from csp_index.labelling.methods import METHODS, controls
from csp_index.printable import without_folders
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.study_tables import ASSOCIATIONS, EFFECT_CLASSES, EFFECTS
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import Audit, audited
from csp_index.studies.reporting.indexed import labelled_counts

_NAMED: Final = 20  # names in a list


def what_was_left_out(store: Store, audit: Audit, target: LayerInfo, reviews: Any) -> list[dict[str, Any]]:
    """Return what was not looked at: `title`, `text` (a sentence), `names` and how many `more` there are of these."""
    labels = labelled_counts(store)
    entries = [
        *(_entry("Said by the audit itself", f"{note[:1].upper()}{note[1:]}.") for note in audit.notes),
        *_images(store, audit, target),
        *_classes(store, target),
        *_neurons(store, audit, target),
        *_layers(store, labels),
        *_methods(audit, labels),
        *_checks(store, target),
        *_people(audit, reviews),
    ]
    return entries


def _entry(title: str, text: str, names: Sequence[object] = ()) -> dict[str, Any]:
    return {
        "title": title,
        "text": text,
        "names": [str(name) for name in names[:_NAMED]],
        "more": max(0, len(names) - _NAMED),
    }


def _images(store: Store, audit: Audit, target: LayerInfo) -> Iterator[dict[str, Any]]:
    skipped = store.read(schema.FAILURES, ["uri", "reason"]).to_pylist()
    if skipped:
        names = [f"{str(row['uri']).rpartition('/')[2]}: {without_folders(row['reason'])}" for row in skipped]
        yield _entry("Images", f"Images that could not be read or used, and are in no figure: {len(skipped):,}.", names)
    later = catalog.image_count(store, target.what) - audit.images
    if later > 0:
        yield _entry("Images", f"Images that were indexed after the audit: {later:,}; audit again to look at them.")


def _classes(store: Store, target: LayerInfo) -> Iterator[dict[str, Any]]:
    where = catalog.layer_filter(target)
    rows = store.read(EFFECT_CLASSES, ["run_id", "class_index", "class_name", "images"], where).to_pylist()
    last = max((str(row["run_id"]) for row in rows), default="")
    empty = [row for row in rows if str(row["run_id"]) == last and not row["images"]]
    if empty:
        names = [row["class_name"] or f"output {row['class_index']}" for row in empty]
        yield _entry("Classes", f"Classes of the network without an image here: {len(empty):,}.", names)


def _neurons(store: Store, audit: Audit, target: LayerInfo) -> Iterator[dict[str, Any]]:
    if catalog.is_finished(store, target):
        rows = catalog.neuron_rows(store, target)
        dead = rows.filter(pc.less_equal(rows["max"], 0))["neuron"].to_pylist()
        if dead:
            text = f"Dead neurons, which fire on no indexed image: {len(dead):,} of {target.neurons:,}."
            yield _entry("Neurons", text, dead)
    known = store.read(EFFECTS, ["neuron"], catalog.layer_filter(target))["neuron"].to_numpy()
    without = np.setdiff1d(np.arange(target.neurons), known).tolist()
    if len(without) == target.neurons:
        yield _entry("Neurons", "The index keeps no effects of this layer: the audit was given them from elsewhere.")
    elif without:
        yield _entry("Neurons", f"Neurons without a known effect: {len(without):,} of {target.neurons:,}.", without)
    where = f"{catalog.layer_filter(target)} AND rank <= 0 AND method = {catalog.sql_text(audit.method)}"
    heads = store.read(schema.LABELS, ["neuron", "state"], where)
    labeled = heads.filter(pc.equal(heads["state"], "labelled"))["neuron"].to_numpy()
    unlabeled = np.setdiff1d(np.arange(target.neurons), labeled).tolist()
    if unlabeled and heads.num_rows:
        text = f"Neurons without a label by {audit.method}: {len(unlabeled):,} of {target.neurons:,}."
        yield _entry("Neurons", text, unlabeled)


def _layers(store: Store, labels: dict[str, dict[str, int]]) -> Iterator[dict[str, Any]]:
    known = [str(info.key) for info in catalog.layers(store)]
    looked = {str(key) for key in audited(store)}
    others = [name for name in known if name not in looked]
    if others:
        yield _entry("Layers", f"Layers of the index without an audit: {len(others):,}.", others)
    without = [name for name in known if name not in labels]
    if without:
        yield _entry("Layers", f"Layers of the index without labels: {len(without):,}.", without)


def _methods(audit: Audit, labels: dict[str, dict[str, int]]) -> Iterator[dict[str, Any]]:
    own = labels.get(str(audit.layer), {})
    others = [name for name in METHODS if name not in own and name not in controls()]
    if others:
        text = f"The findings rest on labels by {audit.method}; these labeling methods were not run on the layer."
        yield _entry("Methods", text, others)


def _checks(store: Store, target: LayerInfo) -> Iterator[dict[str, Any]]:
    if not store.count(schema.EVALUATIONS, catalog.layer_filter(target)):
        text = "Whether the labels are faithful was not evaluated (csp-index evaluate): they may be wrong."
        yield _entry("Checks", text)
    if not store.count(ASSOCIATIONS, catalog.layer_filter(target)):
        text = "How well each neuron tells each class was not looked at (csp-index associations)."
        yield _entry("Checks", text)
    text = "Whether the files of the index are whole was not verified for this report (csp-index verify)."
    yield _entry("Checks", text)
    text = "No finding was tested by an experiment: an audit says where to look, and what would refute it."
    yield _entry("Checks", text)


def _people(audit: Audit, reviews: Any) -> Iterator[dict[str, Any]]:
    said = reviews["findings"]
    open_ones = [one for one in audit.above if not said.get(one.finding, {}).get("verdict")]
    if open_ones:
        text = f"Findings that nobody has accepted or rejected: {len(open_ones):,} of {len(audit.above):,}."
        yield _entry("People", text, [f"{one.subject} and {one.class_name} ({one.finding})" for one in open_ones])
    if not reviews["ratings"]["ratings"]:
        yield _entry("People", "Nobody rated whether the labels are true of pictures (csp-index serve --rate).")
