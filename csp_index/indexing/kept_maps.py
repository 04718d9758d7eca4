"""Which activation maps are stored, and how: those of each neuron's top images, shard by shard, then a row per neuron.

A shard's maps are written with its activations, before its mark, so what a killed pass had marked is complete. After
the last shard the rows of all shards become one row per neuron, with the maps of the images that are still at the top.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from csp_index.images.footprint import middle_square
from csp_index.indexing.map_watch import BatchMaps
from csp_index.models.layers.coarse_maps import coarse_grid
from csp_index.models.networks import LoadedNetwork
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import Column, LayerInfo, Shard
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import (
    Frame,
    MapPairs,
    has_maps,
    map_blocks,
    most_maps,
    packed,
    ranked_pairs,
    schema_of_maps,
    stored_frame,
)
from csp_index.store.values.statistics import NeuronStatistics

_log = logging.getLogger(__name__)

Frames = Mapping[str, Frame]  # of the layers whose maps are kept, by the column's name in the shard marks


def kept_frames(
    store: Store, networks: Sequence[LoadedNetwork], infos: Sequence[Column], requested: bool | None
) -> dict[str, Frame]:
    """Return of which layers a pass keeps maps, by the column's name, with what these share.

    Of all that have places if `requested`, of none if it is False; None: of new layers, and of those that have maps.
    """
    known = {info.key: info for info in infos if isinstance(info, LayerInfo)}
    frames = {}
    for network in networks:
        own = [info for info in known.values() if info.key.model == network.name and info.key.layer in network.layers]
        some = [info for info in own if _is_wanted(store, info, requested)]
        grids = {info.what: network.map_grid(info.key.layer) for info in some}
        if requested:
            for info in (info for info in some if grids[info.what] is None):
                _log.warning("%s has no activation maps: its neurons have no places in the image", info.key)
        new = any(grids[info.what] is not None and not has_maps(store, info) for info in some)
        side = _side(network) if new else None  # of maps that are there already it is stored
        for info in some:
            if (grid := grids[info.what]) is not None:
                frames[info.what] = stored_frame(store, info) or Frame(*coarse_grid(grid), side)
    return frames


def _is_wanted(store: Store, info: LayerInfo, requested: bool | None) -> bool:
    if requested is not None:
        return requested
    return has_maps(store, info) or not catalog.shards(store, info.what)


def _side(network: LoadedNetwork) -> float | None:
    try:
        return middle_square(network.preprocess)
    except Exception as exc:  # it is somebody else's code
        _log.warning(
            "which part of a picture %s sees is unknown, so its maps have no place on pictures: its preprocessing "
            "fails on a trial picture (%s)",
            *(network.name, f"{type(exc).__name__}: {exc}"),
        )
        return None


def write_shard_maps(
    store: Store, info: LayerInfo, frame: Frame, shard: Shard, maps: BatchMaps, statistics: NeuronStatistics
) -> None:
    """Append the maps of a shard's images that are among the top images so far; `statistics` include the shard.

    The rows of `maps` count the shard's images. An image without one there fires nowhere.
    """
    ids = statistics.top_images(most_maps())
    neurons, ranks = np.nonzero(ids >= shard.first_image)
    if len(neurons):
        images = ids[neurons, ranks]
        pairs = with_maps(frame, neurons, images, images - shard.first_image, maps)
        rows = packed(frame, pairs, np.unique(neurons), shard.first_image, shard.rows)
        store.append(column_tables.maps_table(str(info.key)), rows)


def with_maps(frame: Frame, neurons: np.ndarray, images: np.ndarray, rows: np.ndarray, maps: BatchMaps) -> MapPairs:
    """Return pairs with their maps; those without one in `maps` fire nowhere. `rows` [P] count as its rows."""
    span = 1 + max(rows.max(initial=0), maps.rows.max(initial=0))
    known, wanted = maps.neurons * span + maps.rows, neurons * span + rows
    order = np.argsort(known, kind="stable")
    places = np.searchsorted(known, wanted, sorter=order)
    found = places < len(known)
    found[found] = known[order[places[found]]] == wanted[found]
    taken = order[places[found]]
    scales = np.zeros(len(neurons), np.float32)
    levels = np.zeros((len(neurons), frame.height, frame.width), np.uint8)
    scales[found], levels[found] = maps.scales[taken], maps.maps[taken]
    return MapPairs(neurons, images, scales, levels)


def drop_maps(store: Store, infos: Sequence[Column]) -> None:
    """Delete the stored maps of layers."""
    for info in infos:
        if isinstance(info, LayerInfo) and has_maps(store, info):
            store.delete(column_tables.maps_table(str(info.key)), "true")


def copy_maps(source: Store, target: Store, info: LayerInfo, new_ids: np.ndarray) -> None:
    """Copy a layer's maps to an index with some of the images; `new_ids` [N] are their ids there, -1 of the others.

    Images that moved up into the top there, as others are left out, have no map: the images were not run again.
    """
    if not has_maps(source, info):
        return
    table, images = column_tables.maps_table(str(info.key)), catalog.image_count(target, info.what)
    top = top_of(target, info) if catalog.is_finished(target, info) else None
    for numbers, frame, pairs in map_blocks(source, info):
        if frame is not None:
            pairs = replace(pairs, images=new_ids[pairs.images])
            kept = pairs.take(np.flatnonzero(pairs.images >= 0))
            own = kept if top is None else ranked_pairs(kept, numbers, top[numbers])
            target.append(table, packed(frame, own, numbers, 0, images))


def finish_maps(store: Store, infos: Sequence[LayerInfo], frames: Frames) -> bool:
    """Make the rows of finished layers one per neuron, over all images; return whether any changed.

    Maps of images that are at the top no longer are left out, also of layers whose maps are not kept by the pass.
    """
    changed = False
    for info in infos:
        frame = stored_frame(store, info) if catalog.is_finished(store, info) else None
        if frame is not None:
            table, images = column_tables.maps_table(str(info.key)), catalog.image_count(store, info.what)
            count, whole = store.count(table), store.count(table, f"first_image = 0 AND images = {images}")
            of_all = info.what in frames  # else they are made on demand, of some neurons
            if whole != count or (of_all and count != info.neurons):
                batches = _merged(store, info, frame, images, of_all=of_all)
                store.replace(table, pa.RecordBatchReader.from_batches(schema_of_maps(frame), batches))
                changed = True
    return changed


def _merged(store: Store, info: LayerInfo, frame: Frame, images: int, *, of_all: bool) -> Iterator[pa.RecordBatch]:
    top = top_of(store, info)
    for numbers, _, pairs in map_blocks(store, info):
        own = ranked_pairs(pairs, numbers, top[numbers])
        yield from packed(frame, own, numbers if of_all else np.unique(own.neurons), 0, images).to_batches()


def top_of(store: Store, info: LayerInfo) -> np.ndarray:
    """Return the ids [M, K] of the images whose maps are kept, highest activation first, of a finished layer."""
    lists = catalog.neuron_rows(store, info)["top_images"].combine_chunks()
    ids: np.ndarray = lists.flatten().to_numpy().reshape(info.neurons, -1)[:, : most_maps()]
    return ids
