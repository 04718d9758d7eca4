"""What neurons of a layer have to do with classes of images, as it is stored: read whole, of a neuron, or of a class.

`associate` makes it. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from csp_index.errors import NotFoundError, StoreError
from csp_index.evaluation.hierarchy import normal_text
from csp_index.query.results import Tabular
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.catalog import of_layer, sql_text
from csp_index.store.study_tables import ASSOCIATION_CLASSES, ASSOCIATIONS, IMAGE_LISTS, STUDIES
from csp_index.store.tables import Store
from csp_index.studies.staleness import outgrown

FIGURES: Final = ("auroc", "rate_in", "rate_out", "mean_in", "mean_out")
"""The numbers of an association."""

_NORMAL: Final = 1.96  # standard errors on both sides of a mean that leave out 5 %

_KEY = ("run_id", "settings_hash", "model", "layer", "classed_by")
_COLUMNS = [name for name in STUDIES[ASSOCIATIONS].names if name not in _KEY]


@dataclass(frozen=True, slots=True)
class ClassSet:
    """The C classes by which the neurons of a layer were compared, and what there was to see of each.

    `images` [C] are in each class, `others` [C] have a class and are not in it; `without` have no class. An image fires
    a neuron above `firing`: a number, or mean, quantile:Q, max:F of the neuron's activations.
    """

    layer: LayerKey
    by: str
    names: tuple[str, ...]
    images: np.ndarray
    others: np.ndarray
    without: int
    firing: str
    note: str
    run_id: str
    settings_hash: str

    @property
    def total(self) -> int:
        """How many images were looked at, those without a class included."""
        return int(self.images[0] + self.others[0]) + self.without

    @property
    def chance(self) -> np.ndarray:
        """How far from 0.5 the AUROC of 95 % of the neurons comes that say nothing about a class [C].

        1.96 standard errors of Mann and Whitney's statistic as a share of the pairs, sqrt((N + 1) / 12 n (N - n)) for n
        of N images; where activations are equal it is less. 0 where the class or the others have fewer than two images.
        """
        pairs = self.images * self.others
        error = np.sqrt((self.images + self.others + 1) / (12 * np.maximum(pairs, 1)))
        chance: np.ndarray = np.where(np.minimum(self.images, self.others) > 1, _NORMAL * error, 0.0)
        return chance

    def position(self, name: str) -> int:
        """Return the place of a class. NotFoundError says which ones there are."""
        if name not in self.names:
            listed = ", ".join(self.names[:20]) + (", ..." if len(self.names) > 20 else "")
            raise NotFoundError(f"{self.by!r} has no class {name!r} (has: {listed})")
        return self.names.index(name)

    def about(self, store: Store) -> str:
        """Return what a reader should know: the note, and whether the index has other images or values by now."""
        stale = outgrown(store, self.layer, self.total, self.run_id, "associations")
        return "; ".join(part for part in (self.note, stale) if part)


@dataclass(frozen=True, slots=True)
class Associations(Tabular):
    """What each of M neurons has to do with each of C classes: `rows`, M x C of them, by neuron, then by class.

    Columns: neuron, position, class_name; `auroc`, the chance that an image of the class activates the neuron more than
    another image, in [0, 1]: 1 or 0 tell the class wholly, 0.5 not at all; the rates of firing and mean activations in
    the class and outside; the strongest and weakest images of the class, and the strongest outside that fire.
    """

    classes: ClassSet
    rows: pa.Table

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def matrix(self, name: str) -> np.ndarray:
        """Return one of FIGURES as [M, C] float64; NaN for what a class without images outside does not have."""
        values = self.rows[name].to_numpy().astype(np.float64)
        matrix: np.ndarray = values.reshape(-1, len(self.classes.names))
        return matrix

    @property
    def tells(self) -> np.ndarray:
        """Which neurons tell which class, [M, C] bool: AUROC above 0.5 by more than chance."""
        tells: np.ndarray = self.matrix("auroc") > 0.5 + self.classes.chance
        return tells

    def of_class(self, name: str, top: int | None = None) -> list[dict[str, Any]]:
        """Return the rows of a class, the neurons that tell it best first; of equals the lower number."""
        place, size = self.classes.position(name), len(self.classes.names)
        return ranked(self.rows.take(pa.array(np.arange(place, self.rows.num_rows, size))), top)

    def of_neuron(self, neuron: int, top: int | None = None) -> list[dict[str, Any]]:
        """Return the rows of a neuron, the classes it tells best first. NotFoundError for one that is not there."""
        size = len(self.classes.names)
        if not 0 <= neuron < self.rows.num_rows // size:
            raise NotFoundError(f"{self.classes.layer} has no neuron {neuron}")
        return ranked(self.rows.slice(neuron * size, size), top)

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.rows


def ranked(rows: pa.Table, top: int | None = None) -> list[dict[str, Any]]:
    """Return rows by falling AUROC, those without one last; of equals in the order of the table."""
    values = rows["auroc"].to_numpy().astype(np.float64)
    order = np.argsort(np.where(np.isnan(values), np.inf, -values), kind="stable")[:top]
    result: list[dict[str, Any]] = rows.take(pa.array(order)).to_pylist()
    return result


def telling(classes: ClassSet, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows, as ranked, of neurons that tell their class: AUROC above 0.5 by more than chance."""
    chance = classes.chance
    return [dict(row) for row in rows if (row["auroc"] or 0) > 0.5 + chance[row["position"]]]


def silenced(classes: ClassSet, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of neurons that are weaker on their class: AUROC below 0.5 by more than chance, lowest first."""
    chance = classes.chance
    known = [row for row in reversed(rows) if row["auroc"] is not None]
    return [dict(row) for row in known if row["auroc"] < 0.5 - chance[row["position"]]]


def class_sets(store: Store, layer: LayerKey | None = None) -> list[ClassSet]:
    """Return what neurons were compared by, of one layer or of all; a comparison that was cut off is none."""
    where = None
    if layer is not None:
        where = of_layer(layer)
    parts: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in store.read(ASSOCIATION_CLASSES, where=where).to_pylist():
        parts.setdefault(tuple(row[name] for name in _KEY[1:]), []).append(row)
    return [_class_set(rows) for rows in parts.values()]


def _class_set(rows: list[dict[str, Any]]) -> ClassSet:
    rows.sort(key=lambda row: row["position"])
    first = rows[0]
    said = {name: first[name] for name in ("without", "firing", "note", "run_id", "settings_hash")}
    return ClassSet(
        layer=LayerKey(first["model"], first["layer"]),
        by=first["classed_by"],
        names=tuple(str(row["class_name"]) for row in rows),
        images=np.array([row["images"] for row in rows], np.int64),
        others=np.array([row["others"] for row in rows], np.int64),
        **said,
    )


def find_class_set(store: Store, layer: LayerKey, by: str | None = None) -> ClassSet:
    """Return the classes that a layer's neurons were compared by; without `by` the only ones, or those made last.

    Raises NotFoundError, which says how to make them.
    """
    known = sorted(class_sets(store, layer), key=lambda one: one.run_id, reverse=True)
    for one in known:
        if by in (None, one.by):
            return one
    has = ", ".join(one.by for one in known) or "none"
    named = by or "COLUMN"
    raise NotFoundError(
        f"neurons of {layer} are not compared by {named} (has: {has}): "
        f"run `csp-index associations DB --layer {layer} --by {named}`"
    )


def read_associations(store: Store, layer: LayerKey | str, by: str | None = None) -> Associations:
    """Return the stored associations of a layer by `by`, a metadata column or `outputs:MODEL/LAYER`.

    Without `by`, those made last. Raises NotFoundError where there are none, StoreError where rows are lost.
    """
    key = layer if isinstance(layer, LayerKey) else LayerKey.parse(layer)
    classes = find_class_set(store, key, by)
    rows = _read(store, classes)
    size, neurons = len(classes.names), catalog.layer(store, key).neurons
    whole = np.array_equal(rows["neuron"].to_numpy(), np.repeat(np.arange(neurons), size))
    if not (whole and np.array_equal(rows["position"].to_numpy(), np.tile(np.arange(size), neurons))):
        raise StoreError(f"associations of {key} by {classes.by} are not whole: run `csp-index verify {store.uri}`")
    return Associations(classes, rows)


def read_figures(store: Store, classes: ClassSet, names: Sequence[str] = FIGURES) -> dict[str, np.ndarray]:
    """Return some of FIGURES, each [M, C] float64, without reading the images; NaN where there is none."""
    rows = _read(store, classes, columns=["neuron", "position", *names])
    shape = -1, len(classes.names)
    return {name: rows[name].to_numpy().astype(np.float64).reshape(shape) for name in names}


def class_figures(store: Store, classes: ClassSet, name: str, figures: Sequence[str]) -> dict[str, np.ndarray]:
    """Return some of FIGURES of one class, each [M] float64, without reading the images; NaN where there is none."""
    where = f"position = {classes.position(name)}"
    rows = _read(store, classes, where, ["neuron", "position", *figures])
    return {figure: rows[figure].to_numpy().astype(np.float64) for figure in figures}


def class_rows(store: Store, classes: ClassSet, name: str) -> pa.Table:
    """Return the rows of one class, by neuron. NotFoundError for a class that is not there."""
    return _read(store, classes, f"position = {classes.position(name)}")


def neuron_rows(store: Store, classes: ClassSet, neurons: Iterable[int]) -> pa.Table:
    """Return the rows of some neurons, by neuron, then by class."""
    return _read(store, classes, f"neuron IN ({','.join(map(str, neurons))})")


def _read(store: Store, classes: ClassSet, where: str = "true", columns: Sequence[str] = _COLUMNS) -> pa.Table:
    same = f"settings_hash = {sql_text(classes.settings_hash)} AND {where}"
    rows = store.read(ASSOCIATIONS, columns, same).combine_chunks()
    neurons, positions = (rows[name].to_numpy().astype(np.int64) for name in ("neuron", "position"))
    keys = neurons * len(classes.names) + positions
    return rows if (np.diff(keys) > 0).all() else rows.take(pa.array(np.argsort(keys, kind="stable")))


def association_document(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row as JSON can hold it: its figures, and images with their activations.

    `strongest` and `weakest` are of the class. What speaks against the neuron: `fires_outside` are the strongest images
    without the class, `silent_inside` the weakest of the class that do not fire it.
    """
    images: dict[str, list[dict[str, float]]] = {
        name: [
            {"image_id": image, "activation": value}
            for image, value in zip(row[name], row[f"{name}_activations"], strict=True)
        ]
        for name in IMAGE_LISTS
    }
    against = images.pop("outside")
    silent = [one for one in images["weakest"] if one["activation"] <= row["threshold"]]
    head = {"neuron": row["neuron"], "class_name": row["class_name"], **{name: row[name] for name in FIGURES}}
    return {**head, **images, "fires_outside": against, "silent_inside": silent}


def image_ids(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """Return the ids of all images that rows name."""
    return {image for row in rows for name in IMAGE_LISTS for image in row[name]}


def names_class(label: str | None, name: str) -> bool:
    """Return whether a label says a class: all words of one follow each other in the other, however they are written.

    >>> names_class("a red_star", "Red star"), names_class("0.6 dog + 0.3 grass", "dog"), names_class("cart", "car")
    (True, True, False)
    """
    texts = [f" {normal_text(text)} " for text in (label or "", name)]
    return all(text.strip() for text in texts) and (texts[0] in texts[1] or texts[1] in texts[0])
