"""A layer's map: read where it is stored under the same settings, else made and stored; without one, the plane.

Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from csp_index.concurrency import unseen
from csp_index.errors import SettingError, StudyError
from csp_index.records import LayerKey, Progress, check_seed
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store
from csp_index.studies.layer_maps.concepts import LiveConcepts, described, live_concepts
from csp_index.studies.layer_maps.placing import LEAST, Placement, on_plane, place, placing_versions
from csp_index.studies.layer_maps.records import LayerMap
from csp_index.studies.layer_maps.stored import stored_map, stored_names, write_map, write_names
from csp_index.studies.shown_labels import shown_labels

_VERSION = 1  # of what places and clusters are made of: another one is another settings hash
BOUNDS = {"neighbors": (2, 500), "cluster_size": (2, 100_000)}
"""The least and the highest value of an option of a map."""


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How a map is made: see `csp-index map`."""

    seed: int = 0
    neighbors: int = 15  # of a neuron, that its place rests on
    min_dist: float = 0.1  # how close places may be, 0 to 1
    cluster_size: int | None = None  # neurons that make a cluster, at least; None: by the number of neurons

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name, (least, most) in BOUNDS.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and least <= value <= most):
                words = name.replace("_", " ")
                raise SettingError(f"{words} is {value!r}: expected a whole number from {least} to {most:,}")
        if not 0 <= self.min_dist <= 1:
            raise SettingError(f"min_dist is {self.min_dist}: expected a number from 0 to 1")

    def size(self, neurons: int) -> int:
        """Return how many neurons make a cluster, at least: by default a fifth of the root of their number.

        >>> [MapOptions().size(neurons) for neurons in (38, 2_048, 20_000)]
        [3, 9, 28]
        """
        return self.cluster_size or max(3, int(neurons**0.5 / 5))


def layer_map(store: Store, layer: str, encoder: str | None = None) -> LayerMap:
    """Return the stored map of a layer, else the plane of the two directions in which its concept vectors differ most.

    The plane has no clusters. Raises StudyError where no neuron fires.
    """
    target = catalog.layer(store, LayerKey.parse(layer))
    found = stored_map(store, target)
    if found is not None:
        return found
    source = catalog.encoder(store, encoder)
    live = _live(store, source, target)
    options = MapOptions()
    return _map_of(store, source, target, live, on_plane(live.vectors), options, options.neighbors, [])


def make_map(
    store: Store,
    layer: str,
    *,
    seed: int = 0,
    neighbors: int = 15,
    min_dist: float = 0.1,
    cluster_size: int | None = None,
    encoder: str | None = None,
    recompute: bool = False,
    progress: Progress | None = None,
) -> LayerMap:
    """Return the map of a layer, made and stored unless the index has it of the same vectors and options.

    Where only labels have changed, the names of its clusters are stored anew. Errors: StudyError where no neuron fires,
    all concept vectors are the same, or umap-learn is missing.
    """
    options = MapOptions(seed, neighbors, min_dist, cluster_size)
    target, source = catalog.layer(store, LayerKey.parse(layer)), catalog.encoder(store, encoder)
    of_vectors = described(store, source, target)
    settings: dict[str, object] = {"layer": str(target.key), **of_vectors, **asdict(options), "version": _VERSION}
    kept = None if recompute else stored_map(store, target, settings_hash(settings))
    if kept is not None and stored_names(store, kept) == [one.name for one in kept.named]:
        return kept
    models = {target.what: target.identity, source.what: source.identity, "placing": placing_versions()}
    with store.write_lock(), record_run(store, "map", settings, models, options.seed) as run:
        if kept is not None:
            write_names(store, kept)
            return kept
        live = _live(store, source, target)
        found = _made(store, source, target, live, options, progress or unseen)
        found = found.stored_as(run.run_id, run.settings_hash, settings_hash(of_vectors))
        write_map(store, found)
    return found


def _made(
    store: Store, source: EncoderInfo, target: LayerInfo, live: LiveConcepts, options: MapOptions, progress: Progress
) -> LayerMap:
    count = len(live.neurons)
    neighbors, size = min(options.neighbors, max(1, count - 1)), options.size(count)
    try:
        found = place(live.vectors, neighbors, options.min_dist, size, options.seed, progress)
    except StudyError as exc:
        raise StudyError(f"{target.key}: {exc}") from exc
    notes = []
    if found.by == "pca":
        notes.append(
            f"{count:,} neurons are too few for UMAP, which places {LEAST} at least: their places are the two main "
            "directions of their concept vectors"
        )
    elif neighbors < options.neighbors:
        notes.append(f"{count:,} neurons have no {options.neighbors} neighbors each: places rest on {neighbors}")
    if count < target.neurons:
        notes.append(f"{target.neurons - count:,} neurons that never fire, or have no concept vector, have no place")
    return _map_of(store, source, target, live, found, options, neighbors, notes)


def _map_of(
    store: Store,
    source: EncoderInfo,
    target: LayerInfo,
    live: LiveConcepts,
    found: Placement,
    options: MapOptions,
    neighbors: int,
    notes: Sequence[str],
) -> LayerMap:
    """Return the map of neurons that have a place, named by the labels that are shown now; `neighbors` as used."""
    texts = shown_labels(store, target).texts
    made = LayerMap(
        target.key,
        found.by,
        source.name,
        live.method,
        options.seed,
        neighbors,
        options.min_dist,
        options.size(len(live.neurons)),
        total=target.neurons,
        neurons=live.neurons,
        places=found.places,
        clusters=found.clusters,
        central=found.central,
        labels=(),
        named=(),
        trust=found.trust,
        plane_trust=found.plane_trust,
        explained=found.explained,
        notes=tuple(notes),
    )
    return made.with_labels(tuple(texts[neuron] for neuron in live.neurons.tolist()))


def _live(store: Store, source: EncoderInfo, target: LayerInfo) -> LiveConcepts:
    live = live_concepts(store, source, target)
    if not len(live.neurons):
        raise StudyError(f"no neuron of {target.key} fires and has a concept vector: there is nothing to map")
    return live
