"""The facets of neurons as they are stored and read again: the meanings of each, with label and images. Loads no torch.

`make_facets` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

import pyarrow as pa

from csp_index.query.results import Tabular
from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.study_tables import FACETS
from csp_index.store.tables import Store
from csp_index.studies.newest_rows import newest_rows
from csp_index.studies.staleness import outgrown

_OF_NEURON: Final = ("looked_at", "clusters", "clear")


@dataclass(frozen=True, slots=True)
class Facet:
    """A meaning of a neuron: its label, and the activating images that show it, the most activating first.

    `score` is the label's by the method of the facets; `share` is the part of the neuron's images that it has.
    """

    label: str
    score: float
    share: float
    images: tuple[int, ...]
    activations: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class NeuronFacets:
    """The facets of a neuron, the one with the most images first; a dead neuron has none.

    `looked_at` images that fire it were divided into `clusters` by texts; those that are one meaning were joined. How
    `clear` its facets are: 1 less the most that one's label explains of another's images (0 where there is one).
    """

    neuron: int
    facets: tuple[Facet, ...]
    looked_at: int
    clusters: int
    clear: float

    def as_json(self, layer: LayerKey) -> dict[str, Any]:
        """Return the object that `csp-index facets --json` prints, one per line."""
        own = asdict(self)
        return own | {"neuron": f"{layer}/{self.neuron}", "facets": [asdict(one) for one in self.facets]}


@dataclass(frozen=True, slots=True)
class LayerFacets(Tabular):
    """The facets of some neurons of a layer, by the texts of a vocabulary; `rows` are those of the table `facets`."""

    layer: LayerKey
    encoder: str
    method: str
    candidates: str
    images: int
    rows: pa.Table
    settings_hash: str

    def neurons(self) -> list[NeuronFacets]:
        """Return the facets neuron by neuron."""
        grouped = groupby(self.rows.to_pylist(), key=lambda row: int(row["neuron"]))
        return [_neuron(number, list(rows)) for number, rows in grouped]

    def several(self) -> list[NeuronFacets]:
        """Return the neurons that have more than one facet, the most clearly divided first."""
        return sorted((one for one in self.neurons() if len(one.facets) > 1), key=lambda one: (-one.clear, one.neuron))

    def __len__(self) -> int:
        return len(self.rows["neuron"].unique())

    def about(self, store: Store) -> str:
        """Return what a reader should know: whether the index has other images or values by now."""
        return outgrown(store, self.layer, self.images, self.rows["run_id"][0].as_py(), "facets")

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.rows


def _neuron(number: int, rows: list[dict[str, Any]]) -> NeuronFacets:
    facets = tuple(
        Facet(row["label"], row["score"], row["share"], tuple(row["images"]), tuple(row["activations"]))
        for row in sorted(rows, key=lambda row: row["facet"] or 0)
        if row["facet"] is not None
    )
    return NeuronFacets(number, facets, *(rows[0][name] for name in _OF_NEURON))


def read_facets(
    store: Store, layer: LayerKey, neurons: Iterable[int] | None = None, *, settings_hash: str | None = None
) -> LayerFacets | None:
    """Return stored facets of a layer's neurons (default all that have some), None if there are none.

    They are those with this settings hash, by default the newest.
    """
    rows = newest_rows(store, FACETS, layer, neurons, settings_hash)
    if rows is None:
        return None
    rows = rows.sort_by([("neuron", "ascending"), ("facet", "ascending")]).combine_chunks()
    head = {name: rows[name][0].as_py() for name in ("encoder", "method", "candidates", "of_images", "settings_hash")}
    return LayerFacets(
        layer, head["encoder"], head["method"], head["candidates"], head["of_images"], rows, head["settings_hash"]
    )


def facet_rows(repeated: Mapping[str, object], neurons: Iterable[NeuronFacets]) -> pa.Table:
    """Return the rows of the table `facets`; `repeated` is what all of them share. A dead neuron has one without facet.

    The columns of `repeated`: run_id, settings_hash, model, layer, encoder, method, candidates, of_images.
    """
    rows = []
    for one in neurons:
        own = {**repeated, "neuron": one.neuron, **{name: getattr(one, name) for name in _OF_NEURON}}
        for place, facet in enumerate(one.facets):
            rows.append({**own, "facet": place, "facets": len(one.facets), **asdict(facet)})
        if not one.facets:
            rows.append({**own, "facets": 0, "images": [], "activations": []})
    return pa.Table.from_pylist(rows, schema=schema.table_schema(FACETS))
