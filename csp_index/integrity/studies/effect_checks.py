"""Effects on logits: each neuron once under a hash, a figure per class, numbers that can be, all of the classes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject
from csp_index.store import catalog
from csp_index.store.study_tables import EFFECT_CLASSES, EFFECT_LISTS, EFFECTS

_CLOSE = 1e-4  # of the larger of two parts, by which an effect may differ from their difference


def check_effects(subject: Subject) -> None:
    """Check the tables `effects` and `effect_classes`."""
    if not (subject.is_readable(EFFECTS) and subject.is_readable(EFFECT_CLASSES)):
        return
    with reading(subject.result.findings, EFFECTS):
        rows, classes = subject.store.read(EFFECTS), subject.store.read(EFFECT_CLASSES)
        subject.result.count("effects", rows.num_rows)
        key = ["settings_hash", "model", "layer"]
        counted = classes.group_by(key).aggregate([("class_index", "count"), ("class_index", "max")]).to_pylist()
        sizes: dict[tuple[str, ...], int] = {}
        for row in counted:
            name = tuple(row[column] for column in key)
            if row["class_index_max"] + 1 == row["class_index_count"]:
                sizes[name] = row["class_index_count"]
            else:
                _find(subject, EFFECT_CLASSES, "its classes are missing or doubled", name)
        for row in rows.group_by(key).aggregate([]).to_pylist():
            name = tuple(row[column] for column in key)
            same = [pc.equal(rows[column], value) for column, value in zip(key, name, strict=True)]
            own = rows.filter(pc.and_(pc.and_(same[0], same[1]), same[2])).combine_chunks()
            if what := _wrong(own, sizes.get(name)):
                _find(subject, EFFECTS, what, name)


def _wrong(rows: pa.Table, classes: int | None) -> str:
    """Return what is wrong with the effects under one hash, "" if nothing is."""
    if classes is None:
        return "the classes of these effects are missing"
    if len(rows["neuron"].unique()) != rows.num_rows:
        return "a neuron is there more than once"
    lists = {name: rows[name].combine_chunks() for name in EFFECT_LISTS}
    if any(pc.any(pc.not_equal(pc.list_value_length(part), classes)).as_py() for part in lists.values()):
        return "these effects are not one for each class"
    values = {name: part.flatten() for name, part in lists.items()}
    if any(pc.any(pc.invert(pc.is_finite(part.drop_null()))).as_py() for part in values.values()):
        return "these effects are no finite numbers"
    effect, low, high, on, off = (values[name].to_numpy(zero_copy_only=False) for name in EFFECT_LISTS)
    with np.errstate(invalid="ignore"):
        outside = (low > effect) | (high < effect)
        apart = np.abs(effect - (on - off)) > _CLOSE * np.maximum(np.abs(on), np.abs(off)) + 1e-6
    return "an effect is not its parts' difference, or outside its interval" if (outside | apart).any() else ""


def _find(subject: Subject, table: str, what: str, name: tuple[str, ...]) -> None:
    hashed, model, layer = map(catalog.sql_text, name)
    condition = f"settings_hash = {hashed} AND model = {model} AND layer = {layer}"
    subject.find(table, what, f"{name[1]}/{name[2]}, settings {name[0]}", "delete rows", (table, condition))
