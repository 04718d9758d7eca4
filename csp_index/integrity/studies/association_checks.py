"""Associations of neurons with classes: whole, in range, about images that exist, with the activations of these."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.integrity.column_checks import Marks
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.study_tables import ASSOCIATION_CLASSES, ASSOCIATIONS, IMAGE_LISTS
from csp_index.store.values.arrays import fetch_tiles

_NEURONS = 4  # of each comparison, whose activations are looked up without `full`
_AT_ONCE = 16
_CLOSE = 1e-3  # of activations, as a share of the neuron's largest
_SET = ("settings_hash", "model", "layer")


def check_associations(subject: Subject, marks: Marks) -> None:
    """Check the tables of associations, comparison by comparison."""
    if not subject.is_readable(ASSOCIATION_CLASSES):
        return
    with reading(subject.result.findings, ASSOCIATION_CLASSES):
        classes = subject.store.read(ASSOCIATION_CLASSES)
        subject.result.count("classes", classes.num_rows)
        for row in classes.group_by(list(_SET)).aggregate([]).to_pylist():
            same = pc.equal(classes["settings_hash"], row["settings_hash"])
            for name in ("model", "layer"):
                same = pc.and_(same, pc.equal(classes[name], row[name]))
            own = classes.filter(same)
            if what := _wrong_classes(subject, own):
                _find(subject, what, row)
            elif ASSOCIATIONS not in subject.damaged:
                with reading(subject.result.findings, ASSOCIATIONS):
                    _check_rows(subject, marks, row, own)


def _where(row: dict[str, Any]) -> str:
    return " AND ".join(f"{name} = {catalog.sql_text(row[name])}" for name in _SET)


def _find(subject: Subject, what: str, row: dict[str, Any], places: str = "") -> None:
    """Add findings about a comparison, whose rows are deleted from both tables: the command makes it again."""
    where = f"{row['model']}/{row['layer']}, comparison {row['settings_hash']}{places and ', '}{places}"
    for name in (ASSOCIATIONS, ASSOCIATION_CLASSES):
        subject.find(name, what, where, "delete rows", (name, _where(row)))


def _wrong_classes(subject: Subject, rows: pa.Table) -> str:
    """Return what is wrong with the classes of one comparison, "" if nothing is."""
    positions = np.sort(rows["position"].to_numpy())
    if not np.array_equal(positions, np.arange(len(positions))):
        return "classes are missing or there more than once"
    images, others, without = (rows[name].to_numpy() for name in ("images", "others", "without"))
    total = images + others + without
    if (images < 1).any() or (others < 0).any() or (without < 0).any() or len(np.unique(total)) > 1:
        return "its counts of images contradict each other"
    if subject.rests_on(schema.SHARDS, schema.IMAGES) and total.max() > subject.images:
        return "it is of more images than there are"
    return ""


def _check_rows(subject: Subject, marks: Marks, row: dict[str, Any], classes: pa.Table) -> None:
    """Check the rows of one comparison."""
    rows = subject.store.read(ASSOCIATIONS, where=_where(row)).combine_chunks()
    subject.result.count("associations", rows.num_rows)
    neurons, size = subject.known_layers.get((row["model"], row["layer"]), 0), classes.num_rows
    keys = rows["neuron"].to_numpy().astype(np.int64) * size + rows["position"].to_numpy()
    if not np.array_equal(np.sort(keys), np.arange(neurons * size)):
        _find(subject, "rows are missing, or there more than once", row)
        return
    alone = classes.filter(pc.equal(classes["others"], 0))["position"].to_numpy()
    total = int(sum(classes[name][0].as_py() for name in ("images", "others", "without")))
    for what, wrong in _wrong_rows(rows, alone, total):
        if wrong.any():
            places = sorted(set(rows["neuron"].to_numpy()[wrong].tolist()))
            _find(subject, what, row, many(places, "neuron"))
            return
    _check_activations(subject, marks, row, rows)


def _wrong_rows(rows: pa.Table, alone: np.ndarray, total: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what may be wrong with rows [R], and of which it is; `alone` are classes without an image outside."""
    outside = ~np.isin(rows["position"].to_numpy(), alone)
    for name, most in (("auroc", 1), ("rate_in", 1), ("rate_out", 1), ("mean_in", None), ("mean_out", None)):
        known = outside if name in ("auroc", "rate_out", "mean_out") else np.ones_like(outside)
        values = rows[name].to_numpy().astype(np.float64)
        right = np.isfinite(values) if most is None else (values >= 0) & (values <= most)
        yield f"{name} is missing or out of range", right != known
    yield "thresholds are no finite numbers", ~np.isfinite(rows["threshold"].to_numpy())
    for name in IMAGE_LISTS:
        ids, values = rows[name].combine_chunks(), rows[f"{name}_activations"].combine_chunks()
        lengths, others = (pc.list_value_length(part).fill_null(-1).to_numpy() for part in (ids, values))
        yield f"the images of {name} and their activations are not equally many", (lengths != others) | (lengths < 0)
        flat, owners = ids.flatten().to_numpy(), np.repeat(np.arange(len(lengths)), lengths.clip(0))
        wrong = np.zeros(len(lengths), dtype=bool)
        wrong[owners[(flat < 0) | (flat >= total)]] = True
        yield f"images of {name} do not exist", wrong


def _check_activations(subject: Subject, marks: Marks, row: dict[str, Any], rows: pa.Table) -> None:
    """Compare activations of listed images with those of the layer, for some neurons."""
    infos = [info for info in subject.layers if (info.key.model, info.key.layer) == (row["model"], row["layer"])]
    if not infos or infos[0].what not in marks:
        return
    (info,) = infos
    chosen = subject.sample(info.neurons, _NEURONS)
    wrong: list[int] = []
    for start in range(0, len(chosen), _AT_ONCE):
        numbers = chosen[start : start + _AT_ONCE]
        wrong += _wrong_neurons(subject, info, marks, rows, numbers)
    if wrong:
        what = "activations of its images are not those of the layer"
        _find(subject, what, row, many(sorted(set(wrong)), "neuron"))


def _wrong_neurons(
    subject: Subject, info: LayerInfo, marks: Marks, rows: pa.Table, numbers: np.ndarray
) -> Iterator[int]:
    """Yield the neurons of which an image is listed with another activation than it has."""
    shards = [shard for shard, _ in marks[info.what]]
    values = np.concatenate(list(fetch_tiles(subject.store, info, shards, numbers)), axis=1)
    own = rows.filter(pc.is_in(rows["neuron"], pa.array(numbers, pa.int32())))
    places = np.searchsorted(numbers, own["neuron"].to_numpy())
    bounds = _CLOSE * np.abs(values).max(1)  # a shard that was computed again may differ in rounding
    for name in IMAGE_LISTS:
        ids = own[name].combine_chunks()
        owners = np.repeat(places, pc.list_value_length(ids).to_numpy())
        stored = own[f"{name}_activations"].combine_chunks().flatten().to_numpy()
        close = np.abs(values[owners, ids.flatten().to_numpy()] - stored) <= bounds[owners]
        yield from numbers[owners[~close]].tolist()
