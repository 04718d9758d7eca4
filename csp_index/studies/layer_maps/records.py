"""The map of a layer as it is stored and shown: places of neurons, clusters with names. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from csp_index.printable import printable, without_folders
from csp_index.query.results import Tabular
from csp_index.records import LayerKey
from csp_index.studies.layer_maps.map_html import free_names, map_html
from csp_index.studies.layer_maps.names import ClusterName, name_clusters
from csp_index.studies.layer_maps.placing import Placed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR: Final = "Near neurons mean alike; how far apart distant groups lie says little."
"""What a reader of places by UMAP must know."""


@dataclass(frozen=True, slots=True)
class MapCluster:
    """Neurons that are close in the space of concept vectors: the labels that name them, where the name stands.

    `share` of the neurons have one of these labels, the most telling first; there are none where no neuron has one.
    """

    cluster: int
    labels: tuple[str, ...]
    neurons: int
    share: float
    x: float
    y: float

    @property
    def name(self) -> str:
        """The labels in one text."""
        return ", ".join(self.labels)


@dataclass(frozen=True, slots=True, repr=False)
class LayerMap(Tabular):
    """Where the neurons of a layer lie on a plane, by number; those that never fire have no place.

    `by` is umap or pca; `places` [P, 2] are in [0, 1] from the lower left, `clusters` [P] -1 in none, `central` [P] the
    cosine with the mean of the cluster; `labels` [P] are those that are shown. `trust` and `plane_trust` are the
    trustworthiness of these places and of the plane, whose two directions have the shares `explained` of the variance.
    """

    layer: LayerKey
    by: Placed
    encoder: str
    vectors: str  # the method that gave the concept vectors
    seed: int
    neighbors: int
    min_dist: float
    cluster_size: int
    total: int  # neurons of the layer
    neurons: np.ndarray
    places: np.ndarray
    clusters: np.ndarray
    central: np.ndarray
    labels: tuple[str | None, ...]
    named: tuple[MapCluster, ...]
    trust: float | None
    plane_trust: float | None
    explained: tuple[float, float]
    notes: tuple[str, ...]
    about: str = ""  # in which way the index has changed since; "" in none
    run_id: str = ""
    settings_hash: str = ""
    vectors_digest: str = ""

    def __len__(self) -> int:
        return len(self.neurons)

    @property
    def is_stored(self) -> bool:
        """Whether the index has this map, made by `make_map`; else it is the plane, computed now."""
        return bool(self.run_id)

    @property
    def nbytes(self) -> int:
        """How much memory its arrays take."""
        return int(sum(part.nbytes for part in (self.neurons, self.places, self.clusters, self.central)))

    def with_labels(self, labels: tuple[str | None, ...]) -> LayerMap:
        """Return the map with other labels [P] of its neurons, and with the names that these give its clusters."""
        return replace(self, labels=labels, named=tuple(self._named(labels)))

    def _named(self, labels: tuple[str | None, ...]) -> list[MapCluster]:
        names = name_clusters(self.clusters, self.central, labels)
        return [self._cluster(number, name) for number, name in enumerate(names)]

    def _cluster(self, number: int, name: ClusterName) -> MapCluster:
        own = self.places[self.clusters == number].astype(np.float64)
        middle = np.median(own, axis=0)
        x, y = own[np.square(own - middle).sum(1).argmin()].tolist()  # a place that is taken: parts may lie apart
        return MapCluster(number, name.labels, len(own), name.share, x, y)

    def stored_as(self, run_id: str, settings_hash: str, vectors_digest: str) -> LayerMap:
        """Return the map with the run that stores it, the hash of its settings, and the digest of its vectors."""
        return replace(self, run_id=run_id, settings_hash=settings_hash, vectors_digest=vectors_digest)

    def said(self) -> str:
        """Return in words how the places were made, and how far they can be trusted."""
        vectors = f"{self.vectors}, {without_folders(self.encoder)}"
        if self.by == "pca":
            shares = " and ".join(f"{100 * share:.0f} %" for share in self.explained)
            return (
                f"Places are the two directions in which the concept vectors ({vectors}) differ "
                f"most: {shares} of their variance."
            )
        trust = ""
        if self.trust is not None and self.plane_trust is not None:
            trust = (
                f" Trustworthiness {self.trust:.2f}, that of the two main directions {self.plane_trust:.2f}, which "
                f"have {100 * sum(self.explained):.0f} % of the variance."
            )
        return (
            f"Places by UMAP of the concept vectors ({vectors}), {self.neighbors} neighbors, "
            f"min_dist {self.min_dist:g}, seed {self.seed}. {FAR}{trust}"
        )

    def counts(self) -> str:
        """Return in words how many neurons have a place, and how many of these are in clusters."""
        clustered = int((self.clusters >= 0).sum())
        inside = f"; {len(self.named):,} clusters with {clustered:,} of them" if self.named else ""
        return f"{len(self):,} of {self.total:,} neurons{inside}"

    def __repr__(self) -> str:
        return f"LayerMap({printable(self.layer)} by {self.by}: {self.counts()})"

    def to_arrow(self) -> pa.Table:
        """Return a row per neuron: neuron, x, y, cluster (null in none), cluster_name, label."""
        inside = self.clusters >= 0
        names = [one.name for one in self.named]
        return pa.table(
            {
                "neuron": [f"{self.layer}/{neuron}" for neuron in self.neurons.tolist()],
                "x": pa.array(self.places[:, 0]),
                "y": pa.array(self.places[:, 1]),
                "cluster": pa.array(self.clusters, pa.int32(), mask=~inside),
                "cluster_name": pa.array([names[one] if one >= 0 else None for one in self.clusters], pa.string()),
                "label": pa.array(self.labels, pa.string()),
            }
        )

    def as_json(self) -> dict[str, Any]:
        """Return the object that `csp-index map --json` prints for a layer."""
        own = ("by", "encoder", "vectors", "seed", "neighbors", "min_dist", "cluster_size", "trust", "plane_trust")
        return {
            "layer": str(self.layer),
            **{name: getattr(self, name) for name in own},
            "explained": list(self.explained),
            "neurons": self.total,
            "placed": len(self),
            "clusters": [
                {name: getattr(one, name) for name in ("cluster", "name", "labels", "neurons", "share", "x", "y")}
                for one in self.named
            ],
            "unclustered": int((self.clusters < 0).sum()),
            "notes": list(self.notes),
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Return matplotlib axes with the neurons at their places, colored by cluster, and names; see `query.plots`."""
        from csp_index.query.plots import plot_map

        names = [(printable(name), x, y) for name, x, y in free_names(self._names())]
        return plot_map(self.places, self.clusters, names, f"{printable(self.layer)}: {self.counts()}", ax)

    def _names(self) -> list[tuple[str, float, float]]:
        return [(one.labels[0] if one.labels else f"cluster {one.cluster}", one.x, one.y) for one in self.named]

    def _repr_html_(self) -> str:
        titles = [
            f"{neuron}: {label or 'no label'}" for neuron, label in zip(self.neurons.tolist(), self.labels, strict=True)
        ]
        lines = (f"{self.layer}: {self.counts()}", self.said(), *self.notes, *([self.about] if self.about else []))
        return map_html(self.places, self.clusters, titles, self._names(), lines)
