"""Activation maps of top images: whether they are whole, of images that are at the top, and of layers that exist."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.values.activation_maps import NeuronMaps, read_maps

_NEURONS: Final = 64  # of a layer that are looked at without `full`
_AT_ONCE: Final = 1024


def check_maps(subject: Subject) -> None:
    """Check the maps of every layer, and find tables of maps of no layer."""
    tables = {column_tables.maps_table(str(info.key)): info for info in subject.layers}
    for name in subject.store.table_names():
        if name.startswith(column_tables.MAPS) and subject.is_readable(name) and subject.store.count(name):
            with reading(subject.result.findings, name):
                if name in tables:
                    _check_layer(subject, tables[name], name)
                elif subject.rests_on(schema.LAYERS, schema.SHARDS):
                    subject.find(name, "these maps are of no layer", key=(name,))


def _check_layer(subject: Subject, info: LayerInfo, table: str) -> None:
    numbers = subject.store.read(table, ["neuron"])["neuron"].to_numpy()
    if ((numbers < 0) | (numbers >= info.neurons)).any():
        subject.find(table, f"they are of neurons that {info.key} does not have", key=(table,))
        return
    compared = catalog.is_finished(subject.store, info) and subject.rests_on(schema.NEURONS)
    places = subject.sample(info.neurons, _NEURONS)
    for part in np.array_split(places, -(-len(places) // _AT_ONCE)):
        maps = read_maps(subject.store, info, part)
        top = (
            catalog.neuron_rows(subject.store, info)["top_images"].take(pa.array(part)).to_pylist() if compared else []
        )
        lists = dict(zip(part.tolist(), top, strict=True)) if compared else {}
        wrong = [number for number, own in maps.items() if not _hold(own, lists.get(number))]
        subject.result.count("maps", sum(len(own.images) for own in maps.values()))
        if wrong:
            where = f"{info.key}: {many(wrong, 'neuron')}"
            subject.find(table, "these maps are not those of top images", where, key=(table,))
            return


def _hold(maps: NeuronMaps, top: list[int] | None) -> bool:
    """Return whether the largest value of every map that fires is 255, and its image at the top, if that is known."""
    highest = maps.maps.reshape(len(maps.maps), -1).max(1) if len(maps.maps) else np.zeros(0)
    if not np.array_equal(highest, np.where(maps.scales > 0, 255, 0)):
        return False
    return top is None or set(maps.images.tolist()) <= set(top)
