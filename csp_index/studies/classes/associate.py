"""Associations of neurons with classes, computed and stored: one layer, in groups of neurons, each kept as it is done.

A comparison that was cut off goes on where it stopped. Its classes are written last: what can be read is whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from csp_index.concurrency import unseen
from csp_index.records import LayerKey, Progress
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo, Shard, sql_text
from csp_index.store.runs import Run, record_run, settings_hash
from csp_index.store.study_tables import ASSOCIATION_CLASSES, ASSOCIATIONS, IMAGE_LISTS, STUDIES
from csp_index.store.tables import Store
from csp_index.store.values.arrays import fetch_tiles
from csp_index.studies.classes.associations import FIGURES, Associations, class_sets, read_associations
from csp_index.studies.classes.image_classes import MOST_CLASSES, ImageClasses, classes_described, read_classes
from csp_index.studies.firing import firing_levels
from csp_index.studies.ranks.class_ranks import class_figures
from csp_index.studies.ranks.members import ClassFigures, Members
from csp_index.tensors.torch_threads import spread

_KEPT = 4  # images in each list of an association
_TOGETHER = 64  # neurons whose activations are read together, as sparse layers have them in rows of 64
_BLOCK_BYTES = 64 * 2**20  # of activations in each thread, at most
_GROUP_ROWS = 2**17  # neurons x classes between two checkpoints, at most
_GROUP_VALUES = 2**27  # neurons x images between two checkpoints, at most


@dataclass(frozen=True, slots=True)
class _Study:
    """What is compared: a layer over its first `total` images, its neurons' thresholds of firing [M], the classes."""

    target: LayerInfo
    marks: list[Shard]
    firing: np.ndarray
    classes: ImageClasses
    members: Members

    @property
    def block(self) -> int:
        """How many neurons are read together."""
        most = _BLOCK_BYTES // (4 * max(1, self.classes.total))
        return min(_TOGETHER, 1 << max(0, most.bit_length() - 1))

    @property
    def group(self) -> int:
        """How many neurons are computed between two checkpoints."""
        most = min(_GROUP_ROWS // len(self.classes.names), _GROUP_VALUES // max(1, self.classes.total))
        return most // _TOGETHER * _TOGETHER or max(1, most)


def associate(
    store: Store,
    layer: str,
    by: str,
    *,
    classes: int | None = None,
    bins: int | None = None,
    firing: str | None = None,
    recompute: bool = False,
    progress: Progress | None = None,
) -> Associations:
    """Return what each neuron of a layer has to do with each class of images; read if stored, else made and stored.

    `by` is a metadata column, or `outputs:MODEL/LAYER`: then an image's class is the output that is highest on it. Of
    more than `classes` (1,000) classes those with the most images are kept; `bins` divides a column of numbers into as
    many classes, by default 10 where they are measured (`read_classes`). A neuron fires above `firing` (0): a
    number, or mean, quantile:Q, max:F as thresholds of low activation. Earlier associations of the layer by the same
    column are replaced. Errors: those of `read_classes`, and of a layer that is not there or not finished.
    """
    target = catalog.layer(store, LayerKey.parse(layer))
    statistics = catalog.neuron_rows(store, target)
    if statistics.num_rows != target.neurons:
        raise catalog.unfinished(target)
    images = int(statistics["images"][0].as_py())
    above = "0" if firing is None else firing
    described: dict[str, object] = {
        "layer": str(target.key),
        "layer_identity": target.identity,
        "images": images,
        "firing": above,
        "classes": MOST_CLASSES if classes is None else classes,
        **({} if bins is None else {"bins": bins}),
        **classes_described(store, by),
    }
    hashed = settings_hash(described)
    if not recompute and any(one.settings_hash == hashed for one in class_sets(store, target.key)):
        return read_associations(store, target.key, by)
    firing_above = firing_levels(above, statistics)
    chosen = read_classes(store, by, images, MOST_CLASSES if classes is None else classes, bins)
    members = Members(np.searchsorted(chosen.present, chosen.images), chosen.offsets, len(chosen.present))
    study = _Study(target, catalog.covered(store, target.what, images), firing_above, chosen, members)
    with store.write_lock(), record_run(store, "associations", described, {target.what: target.identity}) as run:
        same = f"settings_hash = {sql_text(hashed)}"
        if recompute:
            for table in (ASSOCIATION_CLASSES, ASSOCIATIONS):
                store.delete(table, same)
        _compute(store, study, run, by, progress or unseen)
        for table in (ASSOCIATION_CLASSES, ASSOCIATIONS):
            store.delete(
                table, f"{catalog.layer_filter(target)} AND classed_by = {sql_text(by)} AND settings_hash != '{hashed}'"
            )
        store.append(ASSOCIATION_CLASSES, _class_rows(study, run, by, above))
    return read_associations(store, target.key, by)


def _compute(store: Store, study: _Study, run: Run, by: str, progress: Progress) -> None:
    """Compute and store the rows of the neurons that have none, group by group."""
    same = f"settings_hash = {sql_text(run.settings_hash)}"
    stored = store.read(ASSOCIATIONS, ["neuron"], same)["neuron"].to_numpy()
    missing = np.setdiff1d(np.arange(study.target.neurons), stored)
    count = _Count(study.target.neurons - len(missing), study.target.neurons, progress)
    for first in range(0, len(missing), study.group):
        neurons = missing[first : first + study.group]
        parts = _figures(store, study, neurons, count)
        store.append(ASSOCIATIONS, pa.concat_tables(_rows(study, run, by, *part) for part in parts))
        store.checkpoint()


class _Count:
    """How many neurons are done, told by any thread."""

    def __init__(self, done: int, todo: int, progress: Progress) -> None:
        self._done, self._todo, self._progress, self._lock = done, todo, progress, threading.Lock()

    def add(self, neurons: int) -> None:
        with self._lock:
            self._done += neurons
            self._progress(self._done, self._todo, "neurons")


def _figures(
    store: Store, study: _Study, neurons: np.ndarray, count: _Count
) -> list[tuple[np.ndarray, ClassFigures, list[np.ndarray]]]:
    """Return neurons, their figures, and the activations of the images in these, block by block.

    Threads read one after another, and compute at the same time.
    """
    blocks = list(_blocks(neurons, study.block))
    results: dict[int, tuple[np.ndarray, ClassFigures, list[np.ndarray]]] = {}
    reading, stopped = threading.Lock(), threading.Event()

    def work(place: int) -> None:
        if stopped.is_set():
            return
        with reading:
            values = np.concatenate(list(fetch_tiles(store, study.target, study.marks, blocks[place])), axis=1)
        if len(study.classes.present) < study.classes.total:
            values = np.take(values, study.classes.present, axis=1)
        figures = class_figures(values, study.members, study.firing[blocks[place]], _KEPT)
        rows = np.arange(len(values))[:, None, None]
        images = [values[rows, getattr(figures, name)] for name in IMAGE_LISTS]
        results[place] = blocks[place], figures, images
        count.add(len(blocks[place]))

    try:
        spread(work, range(len(blocks)))
    except BaseException:
        stopped.set()  # the threads end with the block that they compute
        raise
    return [results[place] for place in range(len(blocks))]


def _blocks(neurons: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield neurons in blocks of at most `size` that lie in the same row of a sparse layer."""
    ends = np.flatnonzero(np.diff(neurons // size)) + 1
    yield from np.split(neurons, ends)


def _rows(
    study: _Study, run: Run, by: str, neurons: np.ndarray, figures: ClassFigures, activations: list[np.ndarray]
) -> pa.Table:
    """Return the rows of the table of associations of some neurons, by neuron, then by class."""
    names = study.classes.names
    size = len(neurons) * len(names)
    columns = {
        **_repeated(study, run, by, size),
        "neuron": pa.array(np.repeat(neurons, len(names)).astype(np.int32)),
        "position": pa.array(np.tile(np.arange(len(names), dtype=np.int32), len(neurons))),
        "class_name": pa.array(names).take(pa.array(np.tile(np.arange(len(names)), len(neurons)))),
        "threshold": pa.array(np.repeat(study.firing[neurons], len(names))),
    }
    for name in FIGURES:
        values = getattr(figures, name).reshape(-1)
        columns[name] = pa.array(values, mask=np.isnan(values))
    for name, values in zip(IMAGE_LISTS, activations, strict=True):
        places = getattr(figures, name).reshape(size, -1)
        columns[name] = _lists(study.classes.present[places], places >= 0)
        columns[f"{name}_activations"] = _lists(values.reshape(size, -1), places >= 0)
    kind = STUDIES[ASSOCIATIONS]
    return pa.table([columns[name] for name in kind.names], schema=kind)


def _repeated(study: _Study, run: Run, by: str, size: int) -> dict[str, pa.Array]:
    key = study.target.key
    values = {"run_id": run.run_id, "settings_hash": run.settings_hash, "model": key.model, "layer": key.layer}
    return {name: pa.repeat(pa.scalar(value), size) for name, value in (values | {"classed_by": by}).items()}


def _lists(values: np.ndarray, present: np.ndarray) -> pa.Array:
    """Return lists of the values [R, K] that are present."""
    offsets = np.concatenate([[0], np.cumsum(present.sum(1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[present]))


def _class_rows(study: _Study, run: Run, by: str, firing: str) -> pa.Table:
    classes = study.classes
    count = len(classes.names)
    columns = {
        **_repeated(study, run, by, count),
        "position": pa.array(np.arange(count, dtype=np.int32)),
        "class_name": pa.array(classes.names),
        "images": pa.array(classes.sizes),
        "others": pa.array(len(classes.present) - classes.sizes),
        "without": pa.array(np.full(count, classes.total - len(classes.present))),
        "firing": pa.repeat(pa.scalar(firing), count),
        "note": pa.repeat(pa.scalar(classes.note), count),
    }
    kind = STUDIES[ASSOCIATION_CLASSES]
    return pa.table([columns[name] for name in kind.names], schema=kind)
