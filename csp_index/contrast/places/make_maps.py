"""Maps of where neurons look, made by the layer's network and stored: for layers without places, which have none.

They stand in the table that indexing writes for layers with places, so whatever shows or cuts by maps takes them, too.
What is finished is kept at checkpoints, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from csp_index.concurrency import unseen
from csp_index.contrast.places.driving import MapMaker, computed_maps
from csp_index.errors import SourceError, StoreError
from csp_index.models.index_models import Models
from csp_index.records import Progress
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import LayerInfo
from csp_index.store.runs import record_run
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import (
    Frame,
    Made,
    MapPairs,
    has_maps,
    most_maps,
    packed,
    ranked_pairs,
    read_maps,
    stored_frame,
)

_NEURONS: Final = 16  # whose maps are kept at one checkpoint: the most that Ctrl-C or a kill can lose


@dataclass(frozen=True, slots=True)
class MapsMade:
    """What `make_maps` did: of how many `neurons` of a layer, how many new `maps` it stored."""

    layer: str
    neurons: int
    maps: int
    lacking: int  # pairs of a neuron and a top image without a map, because the picture cannot be opened
    made: Made

    def as_json(self) -> dict[str, object]:
        """Return the values by name."""
        return asdict(self)


def make_maps(
    store: Store,
    models: Models,
    target: LayerInfo,
    neurons: Sequence[int],
    *,
    recompute: bool = False,
    progress: Progress = unseen,
) -> MapsMade:
    """Store maps of the top images of some neurons of a layer, as many as are kept of each, where they are missing.

    Errors: ModelError where the network is not at hand, SourceError where no picture can be opened, StoreError where
    the index cannot be written, before the network's code runs, or the layer has maps of another kind.
    """
    store.check_writable()
    numbers = np.unique(np.array(neurons, np.int64))
    maker = MapMaker(models.held_network(target), target.key.layer)
    settings: dict[str, object] = {"layer": str(target.key), "neurons": numbers.tolist(), "images": most_maps()}
    made = lost = 0
    with store.write_lock(), record_run(store, "maps", settings | {"made": maker.made}, {target.what: target.identity}):
        blocks = [numbers[start : start + _NEURONS] for start in range(0, len(numbers), _NEURONS)]
        for done, block in enumerate(blocks, 1):
            top, wanted = _wanted(store, target, block, recompute=recompute)
            if wanted.any():
                owners = np.repeat(block, wanted.sum(1))
                found = computed_maps(store, maker, owners, top[wanted])
                if found is not None:
                    _write(store, target, block, top, *found)
                    made += len(found[1].images)
                lost += len(owners) - (0 if found is None else len(found[1].images))
            progress(min(done * _NEURONS, len(numbers)), len(numbers), "neurons with maps")
        if lost and not made:
            raise SourceError(f"no picture for maps of {target.key} can be opened: name their folder by --images")
    return MapsMade(str(target.key), len(numbers), made, lost, maker.made)


def _wanted(store: Store, target: LayerInfo, block: np.ndarray, *, recompute: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the top images [n, K] of neurons, and on which of them they are not silent and have no map, or any."""
    rows = catalog.neuron_rows(store, target, block.tolist())
    columns = [rows[name].combine_chunks().flatten().to_numpy() for name in ("top_images", "top_activations")]
    top, values = (column.reshape(len(block), -1)[:, : most_maps()] for column in columns)
    stored = {} if recompute else read_maps(store, target, block)
    known = [np.isin(own, stored[n].images if n in stored else -1) for n, own in zip(block.tolist(), top, strict=True)]
    return top, (values != 0) & ~np.array(known)


def _write(store: Store, target: LayerInfo, block: np.ndarray, top: np.ndarray, frame: Frame, pairs: MapPairs) -> None:
    """Put new maps beside those that are stored of the same neurons, in the order of their `top` images [n, K]."""
    table, count = column_tables.maps_table(str(target.key)), catalog.image_count(store, target.what)
    known = stored_frame(store, target)
    if known is not None and known != frame:
        raise StoreError(
            f"{target.key} has maps of {known.height} x {known.width} places by {known.made}, not of {frame.height} x "
            f"{frame.width} by {frame.made}: csp-index index DB --no-maps deletes them"
        )
    for number, own in read_maps(store, target, block).items():
        pairs = pairs.beside(MapPairs(np.full(len(own.images), number), own.images, own.scales, own.maps))
    pairs = ranked_pairs(pairs, block, top)
    rows = packed(frame, pairs, np.unique(pairs.neurons), 0, count)
    if has_maps(store, target):
        store.delete(table, f"neuron IN ({','.join(map(str, block.tolist()))})")
        store.append(table, rows)
    elif store.has(table):
        store.replace(table, rows)  # it is empty, and may say that its maps were of another kind
    else:
        store.append(table, rows)
    store.checkpoint()
