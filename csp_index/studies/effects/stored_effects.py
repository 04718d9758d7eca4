"""Effects of neurons on a network's logits, as they are stored and read again; loads no torch.

The effect of a neuron on a class is its part in the class's logit on images of the class, minus that elsewhere. With a
linear head it is weight x activation, and the effects of all neurons add up to how far the logit stands out. Without
one it is how far the logit falls when the neuron alone is set to zero, or to its mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.query.results import Tabular
from csp_index.records import LayerKey
from csp_index.store import catalog, schema
from csp_index.store.study_tables import EFFECT_CLASSES, EFFECT_LISTS, EFFECTS
from csp_index.store.tables import Store
from csp_index.studies.class_sums import Contrast
from csp_index.studies.newest_rows import newest_rows

EffectBy = Literal["linear", "zero", "mean"]
"""How an effect is found: by the weights of a linear head, or by setting the neuron to zero or to its mean."""


@dataclass(frozen=True, slots=True)
class EffectClass:
    """A class: its index among the logits, its name, how many images it has, its mean logit on them and elsewhere."""

    index: int
    name: str | None
    images: int
    logit_on: float  # NaN without images of it, as the next
    logit_elsewhere: float

    def __str__(self) -> str:
        return self.name or f"class {self.index}"


@dataclass(frozen=True, slots=True)
class SumCheck:
    """How far weights x activations + bias differ from the network's logits: the largest difference over images."""

    images: int
    difference: float
    largest: float  # logit, by size

    def __str__(self) -> str:
        share = self.difference / self.largest if self.largest else 0.0
        return (
            f"weights x activations and the bias give the logits of {self.images:,} images within {self.difference:.2g}"
            f", which is {share:.1g} of the largest"
        )


@dataclass(frozen=True, slots=True)
class LayerEffects(Tabular):
    """The effects of m neurons of a layer on C classes; arrays are [m, C] float32, NaN for a class without images.

    `effects` is `on_class` - `elsewhere`: the neuron's mean part in the logit on images of the class, and on the
    others. `low` and `high` bound 95 % by the normal approximation over images. `values` [m] is what each neuron was
    set to, NaN with a linear head.
    """

    layer: LayerKey
    by: EffectBy
    head: str
    images: int
    check: SumCheck | None  # of a linear head
    classes: tuple[EffectClass, ...]
    neurons: np.ndarray  # [m] int64, sorted
    values: np.ndarray
    effects: np.ndarray
    low: np.ndarray
    high: np.ndarray
    on_class: np.ndarray
    elsewhere: np.ndarray
    settings_hash: str = ""

    def __len__(self) -> int:
        return len(self.neurons)

    @property
    def nbytes(self) -> int:
        """About how much memory this takes."""
        return 5 * self.effects.nbytes + 200 * len(self.classes) + 16 * len(self.neurons)

    @property
    def how(self) -> str:
        """How the effects were found, in words."""
        head = self.head or "the network"
        if self.check is not None:
            return f"exact: the weights of {head} x activations, over {self.images:,} images; {self.check}"
        done = "zero" if self.by == "zero" else "its mean over these images"
        return f"by setting one neuron at a time to {done}, on {self.images:,} images; logits of {head}"

    def place(self, neuron: int) -> int | None:
        """Return the row of a neuron, None if it is not among those with effects."""
        at = int(np.searchsorted(self.neurons, neuron))
        return at if at < len(self.neurons) and self.neurons[at] == neuron else None

    def strongest(self, place: int, count: int | None = None) -> list[int]:
        """Return the classes on which the neuron of a row has the largest effects by size, largest first."""
        sizes = np.abs(self.effects[place])
        known = np.flatnonzero(~np.isnan(sizes))
        ordered: list[int] = known[np.argsort(-sizes[known], kind="stable")][:count].tolist()
        return ordered

    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each neuron's largest effect by size, with its sign [m], and its class [m]: NaN and -1 without any."""
        if not self.effects.size:
            return np.full(len(self), np.nan), np.full(len(self), -1)
        sizes = np.nan_to_num(np.abs(self.effects), nan=-1.0)
        classes = sizes.argmax(1)
        values = self.effects[np.arange(len(self)), classes].astype(np.float64)
        return values, np.where(np.isnan(values), -1, classes)

    def row(self, place: int, number: int) -> dict[str, Any]:
        """Return the effect of the neuron of a row on a class; numbers that are not known are None."""
        one = self.classes[number]
        figures = {"effect": self.effects, "low": self.low, "high": self.high}
        figures |= {"on_class": self.on_class, "elsewhere": self.elsewhere}
        values = {name: float(array[place, number]) for name, array in figures.items()}
        known = {name: None if np.isnan(value) else value for name, value in values.items()}
        return {"class_index": one.index, "class_name": one.name, **known}

    def rows(self, place: int, count: int | None = None) -> list[dict[str, Any]]:
        """Return the effects of the neuron of a row, the largest by size first; classes without images are left out."""
        return [self.row(place, number) for number in self.strongest(place, count)]

    def to_arrow(self) -> pa.Table:
        """Return one row per neuron and class that has images, neuron by neuron, the largest effects by size first."""
        order = np.argsort(-np.nan_to_num(np.abs(self.effects), nan=-1.0), axis=1, kind="stable")
        place = np.repeat(np.arange(len(self)), len(self.classes))
        number = order.reshape(-1)
        known = ~np.isnan(self.effects[place, number])
        place, number = place[known], number[known]
        names = pa.array([one.name for one in self.classes], pa.string())
        addresses = pa.array([f"{self.layer}/{neuron}" for neuron in self.neurons.tolist()], pa.string())
        columns = {"neuron": addresses.take(pa.array(place)), "class_index": pa.array(number.astype(np.int32))}
        columns["class_name"] = names.take(pa.array(number))
        figures = (self.effects, self.low, self.high, self.on_class, self.elsewhere)
        for name, array in zip(("effect", *EFFECT_LISTS[1:]), figures, strict=True):
            columns[name] = pa.array(array[place, number], from_pandas=True)
        return pa.table(columns)


def read_effects(
    store: Store, layer: LayerKey, neurons: Iterable[int] | None = None, *, settings_hash: str | None = None
) -> LayerEffects | None:
    """Return stored effects of a layer's neurons (default all that have some), None if there are none.

    Effects are those with this settings hash, by default of the newest run that wrote effects of the layer, or of these
    neurons: all of one kind, so that they can be compared.
    """
    rows = newest_rows(store, EFFECTS, layer, neurons, settings_hash)
    if rows is None:
        return None
    settings_hash = rows["settings_hash"][0].as_py()
    same = f" AND settings_hash = {catalog.sql_text(settings_hash)}"
    classes = store.read(EFFECT_CLASSES, where=catalog.of_layer(layer) + same).sort_by("class_index").to_pylist()
    return _effects_of(layer, rows, [_class_of(row) for row in classes], settings_hash)


def _class_of(row: dict[str, Any]) -> EffectClass:
    means = (np.nan if row[name] is None else row[name] for name in ("logit_on", "logit_elsewhere"))
    return EffectClass(row["class_index"], row["class_name"], row["images"], *means)


def _effects_of(layer: LayerKey, rows: pa.Table, classes: Sequence[EffectClass], settings_hash: str) -> LayerEffects:
    first = rows.slice(0, 1).to_pylist()[0]
    check = None
    if first["by"] == "linear":
        check = SumCheck(first["checked"], first["difference"], first["largest"])
    lists = [rows[name].combine_chunks().flatten().to_numpy(zero_copy_only=False) for name in EFFECT_LISTS]
    if any(len(flat) != rows.num_rows * len(classes) for flat in lists):
        raise StoreError(
            f"the effects of {layer} are not one for each of the {len(classes):,} classes in {EFFECT_CLASSES}: the "
            "index is damaged, run `csp-index verify`"
        )
    arrays = [flat.reshape(rows.num_rows, len(classes)) for flat in lists]
    return LayerEffects(
        layer=layer,
        by=first["by"],
        head=first["head"],
        images=first["images"],
        check=check,
        classes=tuple(classes),
        neurons=rows["neuron"].to_numpy().astype(np.int64),
        values=rows["value"].combine_chunks().to_numpy(zero_copy_only=False),
        settings_hash=settings_hash,
        **dict(zip(EFFECT_LISTS, arrays, strict=True)),
    )


def classes_of(names: Sequence[str | None], counts: np.ndarray, logits: Contrast) -> tuple[EffectClass, ...]:
    """Return the classes with these names, counts of images [C], and mean logits [1, C]."""
    rows = zip(names, counts.tolist(), logits.on_class[0].tolist(), logits.elsewhere[0].tolist(), strict=True)
    return tuple(EffectClass(number, *row) for number, row in enumerate(rows))


def by_name(parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of `LayerEffects` by their names, in single precision."""
    return {name: part.astype(np.float32) for name, part in zip(EFFECT_LISTS, parts, strict=True)}


def effect_rows(effects: LayerEffects, run_id: str) -> pa.Table:
    """Return the rows of the table `effects`."""
    count, check = len(effects), effects.check
    columns: dict[str, Any] = {
        "run_id": [run_id] * count,
        "settings_hash": [effects.settings_hash] * count,
        "model": [effects.layer.model] * count,
        "layer": [effects.layer.layer] * count,
        "neuron": pa.array(effects.neurons.astype(np.int32)),
        "by": [effects.by] * count,
        "head": [effects.head] * count,
        "images": [effects.images] * count,
        "checked": [0 if check is None else check.images] * count,
        "difference": [None if check is None else check.difference] * count,
        "largest": [None if check is None else check.largest] * count,
        "value": pa.array(effects.values.astype(np.float64), from_pandas=True),
    }
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * len(effects.classes))
    for name in EFFECT_LISTS:
        flat = np.ascontiguousarray(getattr(effects, name), dtype=np.float32).reshape(-1)
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(flat, from_pandas=True))

    return pa.table(columns, schema=schema.table_schema(EFFECTS))


def class_rows(effects: LayerEffects, run_id: str) -> pa.Table:
    """Return the rows of the table `effect_classes`."""

    same = {"run_id": run_id, "settings_hash": effects.settings_hash}
    same |= {"model": effects.layer.model, "layer": effects.layer.layer}
    rows = [
        {
            **same,
            "class_index": one.index,
            "class_name": one.name,
            "images": one.images,
            "logit_on": None if np.isnan(one.logit_on) else one.logit_on,
            "logit_elsewhere": None if np.isnan(one.logit_elsewhere) else one.logit_elsewhere,
        }
        for one in effects.classes
    ]
    return pa.Table.from_pylist(rows, schema=schema.table_schema(EFFECT_CLASSES))
