"""What an index answers without tensors: SQL over its tables, stored labels, its state. Knows nothing about models.

`Index` builds on it. What only reads does not load torch, and so starts in a fraction of the time.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from csp_index import settings
from csp_index.labelling.elsewhere.records import check_stored_method
from csp_index.labelling.review.words import PINNED
from csp_index.query.layer_view import Layers, index_html, index_repr, layer_views
from csp_index.query.results import SqlResult
from csp_index.query.sql_views import ALL, labels_statement, sql_views
from csp_index.query.status import describe
from csp_index.records import Label, LayerKey, NeuronKey, Progress
from csp_index.store import catalog
from csp_index.store.addresses import resolve
from csp_index.store.catalog import LayerInfo
from csp_index.store.connect import find_store, open_store, open_version
from csp_index.store.history.backup import Backup, back_up
from csp_index.store.history.named_versions import tag_version, version_rows
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import NeuronMaps, required_maps
from csp_index.store.values.arrays import activations_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from csp_index.query.sql import SqlLimits


class Reader:
    """An index that is only read."""

    def __init__(self, uri: str | Path, version: str | int | None = None) -> None:
        """Refer to the database at `uri`, or to what it was at a `version` (a number or a tag; see `versions`)."""
        self.uri = str(uri)
        self._version = version
        self._store: Store | None = find_store(uri) if version is None else open_version(uri, version)

    def close(self) -> None:
        """Let go of what was read of the database; the next method opens it again."""
        self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return index_repr(self.uri, self._store)

    def _repr_html_(self) -> str:
        if self._store is None:
            return f"<p>{html.escape(repr(self))}</p>"
        return index_html(self.uri, self.store, self.layers)

    @property
    def layers(self) -> Layers:
        """The layers of the index, each with counts and its neurons' labels: `index.layers["m/l"].best`."""
        return layer_views(self.store, self.sql)

    @property
    def store(self) -> Store:
        """The database's tables."""
        if self._store is None:
            self._store = open_store(self.uri) if self._version is None else open_version(self.uri, self._version)
        return self._store

    def versions(self) -> SqlResult:
        """Return the versions of the index that are still there, newest first: what each command left.

        Columns: version, when, command, run_id, tags (a list), images, labels (rows of the tables). Clean-up keeps the
        last one, those with a tag, and those that somebody reads (see `csp-index optimize`).
        """
        return SqlResult(version_rows(self.store))

    def tag(self, name: str, version: str | int | None = None) -> int:
        """Give a version (by default the last one) a name under which it can be read, and which no clean-up removes.

        Returns the version's number. Errors: SettingError for a name that is taken or none, NotFoundError.
        """
        return tag_version(self.store, name, version)

    def untag(self, name: str) -> None:
        """Remove a tag; the version stays until clean-up. NotFoundError if there is no such tag."""
        self.store.log.untag(name)

    def backup(
        self, place: str | Path, version: str | int | None = None, *, progress: Progress | None = None
    ) -> Backup:
        """Copy a version (by default the last one) to a new directory, whole, also while somebody writes.

        Errors: StoreError for a place that exists, NotFoundError for a version that is not there.
        """
        return back_up(self.store, place, version, progress)

    def labels(self, layer: str | None = None, *, method: str | None = None, top: int = 1) -> SqlResult:
        """Return stored labels, neuron by neuron, the best candidate first.

        Without a method these are the labels shown (see `csp_index.labelling.label_rule`), one per neuron; with one its
        newest, and with "all" the newest of every method, controls included; "pinned" are the names that readers gave.
        """
        if layer is not None:
            catalog.layer(self.store, LayerKey.parse(layer))
        if method not in (None, ALL, PINNED):
            check_stored_method(self.store, method)
        return self.sql(labels_statement(layer, method, top))

    def sql(self, statement: str, *, limits: SqlLimits | None = None) -> SqlResult:
        """Run one read-only SELECT over the views images, neurons, labels, examples, texts, runs, failures and more.

        `FROM activations('model/layer/7')` is one neuron's activations: image_id, activation.
        """
        from csp_index.query.sql import SqlLimits, run_sql  # DuckDB: what is read without SQL does not wait for it

        limits = limits or SqlLimits(memory=settings.SQL_MEMORY.value())
        views, definitions = sql_views(self.store)
        return run_sql(
            views,
            statement,
            definitions=definitions,
            read_activations=self._activation_table,
            limits=limits,
        )

    def activations(self, neuron: str) -> np.ndarray:
        """Return one neuron's activations over all indexed images, [N] float32; no other neuron is read."""
        key = NeuronKey.parse(neuron)
        target = catalog.layer(self.store, key.layer_key)
        catalog.check_neurons(target, [key.neuron])
        images = int(catalog.neuron_rows(self.store, target, [key.neuron])["images"][0].as_py())
        return activations_of(self.store, target, key.neuron, images)

    def maps(self, neuron: str) -> NeuronMaps:
        """Return where a neuron fires in its top images: `images` [K], `scales` [K], `maps` [K, h, w], `peaks` [K, 2].

        The value of a place is scale x byte / 255. Raises NotFoundError where no maps of the layer are stored.
        """
        key = NeuronKey.parse(neuron)
        target = catalog.layer(self.store, key.layer_key)
        catalog.check_neurons(target, [key.neuron])
        return required_maps(self.store, target, key.neuron)

    def plot(self, neuron: str, ax: Axes | None = None) -> Axes:
        """Return matplotlib axes with the histogram of one neuron's activations over the images; see `query.plots`."""
        from csp_index.query.plots import plot_activations

        return plot_activations(self.activations(neuron), neuron, ax)

    def card(self, label: Label, path: str | Path) -> Path:
        """Draw a label's picture card as PNG: activating images above their contrastive partners."""
        from csp_index.query.card import neuron_card  # Pillow: those who only count need not wait for it

        return neuron_card(self.store, label, self.activations(str(label.neuron)), path)

    def resolve(self, neurons: str | Iterable[str]) -> list[tuple[LayerInfo, np.ndarray]]:
        """Return the layers and neuron numbers that addresses `m/l` or `m/l/7` name, layer by layer, sorted."""
        return resolve(self.store, neurons)

    def status(self) -> dict[str, Any]:
        """Return what the index holds: images, failures, encoders, layers, runs, and whether a run was cut off."""
        return describe(self.store)

    def _activation_table(self, neuron: str) -> pa.Table:
        values = self.activations(neuron)
        return pa.table({"image_id": pa.array(np.arange(len(values))), "activation": pa.array(values)})
