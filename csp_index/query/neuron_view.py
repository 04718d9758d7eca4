"""One neuron as `show` describes it: a label, statistics, all partners of its images, and their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from csp_index.contrast.quality import ContrastQuality, quality_of_pairs
from csp_index.labelling.review.notes import Review, read_notes, review_of, subject_of
from csp_index.labelling.review.pinned import layer_digest
from csp_index.labelling.review.words import PINNED
from csp_index.query.label_html import Veil, label_html
from csp_index.query.results import Labels, SqlResult
from csp_index.query.stored_pictures import StoredPictures, StoredVeils, no_pictures, no_veils
from csp_index.records import ExamplePair, Label
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store
from csp_index.store.values.class_names import class_names
from csp_index.store.values.derived_images import derived_rows, describe_recipe, is_derived

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STATISTICS = ("images", "mean", "std", "min", "max", "firing_rate", "quantiles")  # of a neuron, as `show` prints them


ALWAYS: Final = 0.995
"""A neuron that is above 0 on this share of the images, or more, does not fire on them in any useful sense."""


def share_above_mean(row: Mapping[str, Any]) -> float | None:
    """Return on about which share of the images a neuron is above its mean, where "fires" says little; else None.

    It says little of a neuron that is above 0 on nearly every image. `row` has its statistics; the share is read from
    the quantiles, and exact for a neuron with one and the same activation on every image: 0.
    """
    if row["firing_rate"] < ALWAYS:
        return None
    return 0.0 if row["min"] == row["max"] else float(1 - np.interp(row["mean"], row["quantiles"], schema.QUANTILES))


@dataclass(frozen=True, slots=True)
class NeuronView:
    """All about one neuron: a label, its statistics, all partners of its activating images, and these images' names."""

    label: Label
    statistics: dict[str, Any]
    pairs: tuple[ExamplePair, ...]
    names: dict[int, str]
    class_name: str | None = None  # of an output of a classifier, as it came with the weights
    review: Review = field(default_factory=Review)
    read: Callable[[Iterable[int]], Mapping[int, bytes]] = field(default=no_pictures, compare=False)  # of images, by id
    veil: Veil = field(default=no_veils, compare=False)

    @property
    def contrast(self) -> ContrastQuality:
        """How good the label's contrast is, as its pairs tell."""
        return quality_of_pairs(self.pairs)

    @property
    def above_mean(self) -> float | None:
        """On about which share of the images it is above its mean, where "fires" says little (`share_above_mean`)."""
        return share_above_mean(self.statistics)

    @property
    def class_line(self) -> str:
        """What the weights call this output of a classifier, set apart from a label; empty for other neurons."""
        return "" if self.class_name is None else f"the weights call this output {self.class_name!r}, which is no label"

    def as_json(self) -> dict[str, object]:
        """Return the object that `csp-index show --json` prints."""
        details = {"statistics": self.statistics, "pairs": [asdict(pair) for pair in self.pairs]}
        said = {"review": self.review.as_json()}
        rest = {"contrast_quality": self.contrast.as_json(), "images": self.names, "class_name": self.class_name}
        return self.label.as_json() | details | rest | {"above_mean": self.above_mean} | said

    def __repr__(self) -> str:
        return f"NeuronView({self.label!r})"

    def _repr_html_(self) -> str:
        remarks = (self.class_line, self.review.line(self.label.text), self.contrast.summary())
        head = label_html(self.label, self.pairs, self.read, self.names, remarks, self.veil)
        tables: list[Labels | SqlResult] = [Labels((self.label,)), SqlResult(pa.Table.from_pylist([self.statistics]))]
        if self.pairs:
            tables.append(SqlResult(pa.Table.from_pylist([self._named(pair) for pair in self.pairs])))
        return f"{head}<details><summary>values</summary>{''.join(table._repr_html_() for table in tables)}</details>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return axes with the label's candidates by score, each with its interval; see `query.plots`."""
        from csp_index.query.plots import plot_scores

        return plot_scores(self.label, ax)

    def _named(self, pair: ExamplePair) -> dict[str, object]:
        """Return a pair with the names of its images before their ids."""
        partner = None if pair.contrast_id is None else self.names[pair.contrast_id]
        return {"image": self.names[pair.image_id], "contrast": partner} | asdict(pair)


def neuron_view(store: Store, target: LayerInfo, label: Label) -> NeuronView:
    """Return what `show` prints about a labeled neuron."""
    row = catalog.neuron_rows(store, target, [label.neuron.neuron]).to_pylist()[0]
    statistics = {name: row[name] for name in STATISTICS}
    pairs = _partners(store, target, label)
    ids = {pair.image_id for pair in pairs} | {pair.contrast_id for pair in pairs if pair.contrast_id is not None}
    names: dict[int, str] = {}
    if ids:
        rows = store.read(schema.IMAGES, ["image_id", "uri"], f"image_id IN ({','.join(map(str, sorted(ids)))})")
        names = {row["image_id"]: row["uri"].rpartition("/")[2] for row in rows.to_pylist()}
        derived = derived_rows(store, (image for image in ids if is_derived(image)), ["recipe"])
        names |= {image: describe_recipe(str(row["recipe"])) for image, row in derived.items()}
    made = store.read(schema.RUNS, ["settings"], f"run_id = {catalog.sql_text(label.run_id)}")["settings"].to_pylist()
    label = told_if_stale(label, made[0] if made else None, row["images"])
    review = review_of(read_notes(store, subject_of(str(label.neuron))), layer_digest(target))
    class_name = class_names(store, target.key).get(label.neuron.neuron)
    return NeuronView(label, statistics, pairs, names, class_name, review, StoredPictures(store), StoredVeils(store))


def _partners(store: Store, target: LayerInfo, label: Label) -> tuple[ExamplePair, ...]:
    """Return all stored partners of a label's activating images, by rank and neighbour: `pairs` has the first."""
    where = f"{catalog.layer_filter(target)} AND neuron = {label.neuron.neuron}"
    columns = [field.name for field in fields(ExamplePair)]
    rows = store.read(schema.EXAMPLES, columns, f"{where} AND run_id = {catalog.sql_text(label.run_id)}")
    order = [("rank", "ascending"), ("neighbour", "ascending")]
    return tuple(ExamplePair(**row) for row in rows.sort_by(order).to_pylist())


def told_if_stale(label: Label, settings: str | None, images: int) -> Label:
    """Return the label, noted if the run with those settings (JSON) saw others than the neuron's `images`.

    Imported labels, and names that readers gave, saw none of them.
    """
    made = read_object(settings, schema.RUNS, "settings") if settings else {"images": images}
    seen = made.get("images")
    if seen == images or "imported" in made or label.method == PINNED:
        return label
    stale = f"made on {seen} of {images} images: label again"
    return replace(label, note="; ".join(note for note in (label.note, stale) if note))
