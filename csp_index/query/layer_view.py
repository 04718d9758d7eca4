"""The layers of an index, an object each: how many neurons have a label, what these are, some with their pictures."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import pyarrow as pa

from csp_index.errors import NotFoundError
from csp_index.printable import printable
from csp_index.query.items import Items
from csp_index.query.picture_html import Tile, tiles_html
from csp_index.query.results import SqlResult, Tabular
from csp_index.query.stored_pictures import StoredPictures
from csp_index.records import LayerKey
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHOWN = 12  # neurons of a layer in a notebook
_OF_INDEX = 6  # of each layer where the whole index is shown
Ask = Callable[[str], SqlResult]  # a statement to rows


@dataclass(frozen=True, slots=True, repr=False)
class LayerView(Tabular):
    """A layer of an index; as rows, one a neuron with the label shown everywhere, null where it has none.

    `neurons`, `labelled` and `dead` are counts; the last one is None while the layer is not finished.
    """

    key: LayerKey
    neurons: int
    labelled: int
    dead: int | None
    network: str
    ask: Ask
    store: Store

    def __len__(self) -> int:
        return self.neurons

    def __repr__(self) -> str:
        return f"LayerView({printable(self.key)}: {self.counts()})"

    def counts(self) -> str:
        """Return in words how many neurons there are, and how many of them are labeled or dead."""
        dead = f", {self.dead:,} dead" if self.dead else ""
        return f"{self.neurons:,} neurons, {self.labelled:,} labeled{dead}"

    @property
    def best(self) -> SqlResult:
        """One row per neuron, in order: neuron, state, text, method, score, interval, confidence and what else speaks.

        The label is the one shown everywhere (`csp_index.labelling.label_rule`); `text` is null where there is none.
        """
        return self.ask(
            "SELECT address AS neuron, state, text, method, score, score_low, score_high, confidence, probability, "
            f"null_percentile, uncertain, note FROM neuron_labels WHERE {catalog.of_layer(self.key)} "
            "ORDER BY neuron_labels.neuron"
        )

    def to_arrow(self) -> pa.Table:
        """Return the rows of `best` as an Arrow table."""
        return self.best.to_arrow()

    def plot(self, column: str = "score", ax: Axes | None = None) -> Axes:
        """Return axes with the histogram of a column of `best` over the layer's neurons; see `query.plots`."""
        from csp_index.query.plots import plot_column

        return plot_column(self.best.to_arrow(), column, printable(self.key), ax)

    def tiles_html(self, shown: int = _SHOWN) -> str:
        """Return the neurons with the best labels, each with its strongest image, as HTML."""
        rows = self.ask(
            "SELECT neuron, neuron_labels.text AS text, top_images[1] AS image FROM neuron_labels "
            f"JOIN neurons USING (model, layer, neuron) WHERE {catalog.of_layer(self.key)} AND text IS NOT NULL "
            f"ORDER BY uncertain, confidence DESC NULLS LAST, score DESC, neuron LIMIT {shown}"
        ).rows()
        pictures = StoredPictures(self.store)(row["image"] for row in rows if row["image"] is not None)
        return tiles_html(
            [[Tile(pictures.get(row["image"]), f"{row['neuron']}: {row['text']}", row["text"])] for row in rows]
        )

    def as_html(self, shown: int = _SHOWN) -> str:
        """Return the layer as HTML: its counts, and some neurons with their pictures."""
        return f"<p><b>{html.escape(printable(self.key))}</b> {self.counts()}</p>{self.tiles_html(shown)}"

    def _repr_html_(self) -> str:
        return self.as_html()


@dataclass(frozen=True, slots=True, repr=False)
class Layers(Tabular, Items[LayerView]):
    """The layers of an index, in the order they were added; `layers["m/l"]` is one of them, and so is `layers[0]`."""

    views: tuple[LayerView, ...]

    def __len__(self) -> int:
        return len(self.views)

    @overload
    def __getitem__(self, place: int | str) -> LayerView: ...
    @overload
    def __getitem__(self, place: slice) -> Layers: ...
    def __getitem__(self, place: int | str | slice) -> LayerView | Layers:
        if isinstance(place, slice):
            return Layers(self.views[place])
        if isinstance(place, int):
            return self.views[place]
        key = LayerKey.parse(place)
        for view in self.views:
            if view.key == key:
                return view
        known = ", ".join(str(view.key) for view in self.views) or "none"
        raise NotFoundError(f"layer {key} is not in the index (has: {known})")

    def __contains__(self, layer: object) -> bool:
        """Return whether a layer is in the index, by its address or as one of these."""
        return layer in self.views or layer in [str(view.key) for view in self.views]

    def __repr__(self) -> str:
        return f"Layers({'; '.join(f'{printable(view.key)}: {view.counts()}' for view in self.views) or 'none'})"

    def to_arrow(self) -> pa.Table:
        """Return one row per layer: layer, network, neurons, labelled, dead."""
        names = ("network", "neurons", "labelled", "dead")
        columns = {name: [getattr(view, name) for view in self.views] for name in names}
        kinds = (pa.string(), pa.int64(), pa.int64(), pa.int64())
        shape = pa.schema([("layer", pa.string()), *zip(names, kinds, strict=True)])
        return pa.table({"layer": [str(view.key) for view in self.views]} | columns, schema=shape)


def layer_views(store: Store, ask: Ask) -> Layers:
    """Return the layers of an index; `ask` runs a statement over it."""
    rows = ask(
        "SELECT model, layer, count(text) AS labelled, count(*) FILTER (max <= 0) AS dead FROM neuron_labels "
        "JOIN neurons USING (model, layer, neuron) GROUP BY model, layer"
    ).rows()
    counts = {(row["model"], row["layer"]): row for row in rows}

    def view(info: LayerInfo) -> LayerView:
        known = counts.get((info.key.model, info.key.layer), {"labelled": 0, "dead": None})
        return LayerView(info.key, info.neurons, known["labelled"], known["dead"], info.network, ask, store)

    return Layers(tuple(map(view, catalog.layers(store))))


def index_html(name: str, store: Store, views: Layers) -> str:
    """Return an index as HTML: where it is, what it holds, and of each layer some neurons with their pictures."""
    images, failures = catalog.image_count(store), store.count(schema.FAILURES)
    failed = f", {failures:,} could not be read or used" if failures else ""
    encoders = ", ".join(info.name for info in catalog.encoders(store)) or "no encoder"
    head = f"<p><b>{html.escape(printable(name))}</b> {images:,} images{failed}; {html.escape(printable(encoders))}</p>"
    return head + "".join(view.as_html(_OF_INDEX) for view in views)


def index_repr(uri: str, store: Store | None) -> str:
    """Return an index in a line: where it is, and how many images and layers it has, or that there is nothing yet."""
    if store is None:
        return f"Index({uri!r})"
    infos, images = catalog.layers(store), catalog.image_count(store)
    layers = ", ".join(printable(info.key) for info in infos) if len(infos) <= 3 else f"{len(infos)} layers"
    return f"Index({uri!r}: {images:,} images, {layers or 'no layer'})"
