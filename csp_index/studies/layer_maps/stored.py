"""Maps of layers as they are stored and read again; loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.errors import StudyError
from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo, of_layer, sql_text
from csp_index.store.study_tables import LAYER_MAPS, MAP_CLUSTERS, MAP_PLACES
from csp_index.store.tables import Store
from csp_index.studies.layer_maps.concepts import changed
from csp_index.studies.layer_maps.records import LayerMap
from csp_index.studies.shown_labels import shown_labels

_TABLES = (LAYER_MAPS, MAP_CLUSTERS, MAP_PLACES)
_KNOWN = ("encoder", "vectors", "seed", "neighbors", "min_dist", "cluster_size", "neurons")
_SAME = ("encoder", "vectors", "seed", "neighbors", "min_dist", "cluster_size", "trust", "plane_trust")


def map_heads(store: Store) -> dict[LayerKey, dict[str, Any]]:
    """Return the row of `layer_maps` of each layer that has a map."""
    rows = sorted(store.read(LAYER_MAPS).to_pylist(), key=lambda row: str(row["run_id"]))
    return {LayerKey(row["model"], row["layer"]): row for row in rows}


def stored_map(store: Store, target: LayerInfo, settings_hash: str | None = None) -> LayerMap | None:
    """Return the map of a layer, named by the labels that are shown now; None without one (of a settings hash).

    Raises StudyError for rows that are no map: an index may be damaged, or come from a stranger.
    """
    head = map_heads(store).get(target.key)
    if head is None or settings_hash not in (None, head["settings_hash"]):
        return None
    own = f"{of_layer(target.key)} AND run_id = {sql_text(head['run_id'])}"
    rows = store.read(MAP_PLACES, where=own).sort_by("neuron").combine_chunks()
    neurons = rows["neuron"].to_numpy().astype(np.int64)
    places = np.stack([rows["x"].to_numpy(), rows["y"].to_numpy()], axis=1)
    clusters = rows["cluster"].fill_null(-1).to_numpy().astype(np.int64)
    wrong = _fault(head, neurons, places, clusters, target.neurons)
    if wrong:
        raise StudyError(
            f"the stored map of {target.key} is damaged ({wrong}): run `csp-index map DB --layer {target.key} "
            "--recompute`, and `csp-index verify DB` for the rest of the index"
        )
    central = rows["central"].cast(pa.float64()).fill_null(np.nan).to_numpy()
    texts = shown_labels(store, target).texts
    found = LayerMap(
        target.key,
        head["by"],
        **{name: head[name] for name in _SAME},
        total=head["neurons"],
        neurons=neurons,
        places=places,
        clusters=clusters,
        central=central,
        labels=(),
        named=(),
        explained=(float(head["explained"][0]), float(head["explained"][1])),
        notes=tuple(head["notes"] or ()),
        about=changed(store, target, head),
        run_id=head["run_id"],
        settings_hash=head["settings_hash"],
        vectors_digest=head["vectors_digest"],
    )
    return found.with_labels(tuple(texts[neuron] for neuron in neurons.tolist()))


def _fault(head: Mapping[str, Any], neurons: np.ndarray, places: np.ndarray, clusters: np.ndarray, most: int) -> str:
    """Return why rows are no map of a layer of `most` neurons, "" if they are: places [P, 2], clusters [P] (-1: none).

    Clusters are numbered without gaps, or their names could take all memory.
    """
    if any(head[name] is None for name in _KNOWN) or len(head["explained"] or ()) != 2 or None in head["explained"]:
        return "its head is incomplete"
    if len(np.unique(neurons)) != len(neurons) or (len(neurons) and not 0 <= neurons[0] <= neurons[-1] < most):
        return "neurons are there twice, or are none of the layer's"
    if not ((places >= 0) & (places <= 1)).all():
        return "places lie outside the map"
    numbers = np.unique(clusters[clusters >= 0])
    if not np.array_equal(numbers, np.arange(len(numbers))):
        return "clusters are not numbered from 0"
    return ""


def stored_names(store: Store, found: LayerMap) -> list[str]:
    """Return the names of a map's clusters as they are stored."""
    where = f"{of_layer(found.layer)} AND run_id = {sql_text(found.run_id)}"
    rows = store.read(MAP_CLUSTERS, ["cluster", "name"], where).sort_by("cluster")
    return [str(name) for name in rows["name"].to_pylist()]


def write_map(store: Store, found: LayerMap) -> None:
    """Store a map in place of the layer's earlier one; under the write lock, in a run. Its head comes last."""
    key = found.layer
    for table in _TABLES:
        store.delete(table, of_layer(key))
    head = {"run_id": found.run_id, "settings_hash": found.settings_hash, "model": key.model, "layer": key.layer}
    count, inside = len(found), found.clusters >= 0
    columns: Mapping[str, Any] = {name: [value] * count for name, value in head.items()} | {
        "neuron": found.neurons,
        "x": found.places[:, 0].astype(np.float64),
        "y": found.places[:, 1].astype(np.float64),
        "cluster": pa.array(found.clusters, pa.int32(), mask=~inside),
        "central": pa.array(found.central, pa.float64(), mask=~inside),
    }
    store.append(MAP_PLACES, pa.table(columns, schema=schema.table_schema(MAP_PLACES)))
    write_names(store, found)
    own = head | {name: getattr(found, name) for name in ("by", "vectors_digest", *_SAME)}
    own |= {"neurons": found.total, "placed": count, "clusters": len(found.named)}
    own |= {"explained": list(found.explained), "notes": list(found.notes)}
    store.append(LAYER_MAPS, pa.Table.from_pylist([own], schema=schema.table_schema(LAYER_MAPS)))


def write_names(store: Store, found: LayerMap) -> None:
    """Store a map's clusters in place of those that it has."""
    store.delete(MAP_CLUSTERS, of_layer(found.layer))
    head = {"run_id": found.run_id, "settings_hash": found.settings_hash}
    head |= {"model": found.layer.model, "layer": found.layer.layer}
    names = ("cluster", "name", "neurons", "share", "x", "y")
    rows = [head | {name: getattr(one, name) for name in names} for one in found.named]
    if rows:
        store.append(MAP_CLUSTERS, pa.Table.from_pylist(rows, schema=schema.table_schema(MAP_CLUSTERS)))
