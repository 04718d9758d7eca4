"""What every executor of a pass shares: which model fills which columns, and what is stored of an image.

A part is one model and its columns. Knows how rows look and which images are indexed, and nothing about the order in
which a pass runs, writes and marks (`indexer`).
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice

import numpy as np
import pyarrow as pa
import torch

from csp_index.errors import CspIndexError, ModelError, one_line
from csp_index.images.decode import ImageFailure
from csp_index.images.loader import Prepared
from csp_index.indexing.commit import layer_table
from csp_index.indexing.map_watch import BatchMaps, PairWatch, TopWatch, WatchedLayer
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.networks import LoadedNetwork
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo, Shard
from csp_index.store.image_metadata import metadata_text
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import most_maps

Values = dict[str, torch.Tensor]  # [B, W] by a column's name in the shard marks
Maps = dict[str, BatchMaps]  # by the same names


@dataclass(frozen=True, slots=True)
class PartOutput:
    """What one model gives for a batch: a [B, W] tensor for each of its columns, and the maps that may be kept."""

    values: Values
    maps: Maps

    def of(self, rows: Sequence[int]) -> PartOutput:
        """Return the same for some images of the batch."""
        places = torch.tensor(rows)
        values = {what: out[places] for what, out in self.values.items()}
        return PartOutput(values, {what: maps.of(rows) for what, maps in self.maps.items()})


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One model of the pass, the columns that it fills, and what watches a network's maps, if some are kept."""

    model: LoadedEncoder | LoadedNetwork
    infos: tuple[Column, ...]
    watch: TopWatch | PairWatch | None = None

    @property
    def layers(self) -> list[LayerInfo]:
        """The columns that are layers."""
        return [info for info in self.infos if isinstance(info, LayerInfo)]

    @property
    def watched(self) -> tuple[LayerInfo, ...]:
        """The layers whose maps are watched."""
        return () if self.watch is None else tuple(info for info in self.layers if info.key.layer in self.watch.layers)

    def compute(self, pixels: torch.Tensor) -> PartOutput:
        """Return the values of the part's columns for a batch, and the maps that may be kept."""
        try:
            if isinstance(self.model, LoadedNetwork):
                if self.watch is not None:
                    self.watch.taken()  # what a batch left on which the network failed
                values = self.model.activations(pixels, self.watch)
                taken = {} if self.watch is None else self.watch.taken()
                maps = {info.what: taken[info.key.layer] for info in self.layers if info.key.layer in taken}
                return PartOutput({info.what: values[info.key.layer] for info in self.layers}, maps)
            return PartOutput({self.infos[0].what: self.model.embed_images(pixels)}, {})
        except CspIndexError:
            raise
        except Exception as exc:  # a user's model may raise anything
            message = f"{type(exc).__name__}: {one_line(exc)}"
            raise ModelError(f"{self.infos[0].what} fails on {len(pixels)} images: {message}; check the model") from exc

    def learn(self, values: Values) -> None:
        """Let the watch know the activations of images that will be stored."""
        if self.watch is not None:
            for info in self.layers:
                self.watch.learn(info.key.layer, values[info.what])


def columns_of(encoders: Sequence[LoadedEncoder], networks: Sequence[LoadedNetwork], dtype: str) -> list[Column]:
    """Return the columns the models fill: one per encoder, then one per layer of each network."""
    layers = [info for network in networks for info in _layer_infos(network, dtype)]
    return [*map(_encoder_info, encoders), *layers]


def parts_of(
    encoders: Sequence[LoadedEncoder],
    networks: Sequence[LoadedNetwork],
    infos: Sequence[Column],
    mapped: Container[str] = (),
) -> list[Part]:
    """Return the parts of a pass; `infos` are the columns of `columns_of` as the index has them.

    `mapped` are the columns of which activation maps are kept.
    """
    remaining = iter(infos)
    parts = [Part(encoder, (next(remaining),)) for encoder in encoders]
    for network in networks:
        own = tuple(islice(remaining, len(network.layers)))
        parts.append(Part(network, own, watch_of([i for i in own if isinstance(i, LayerInfo) and i.what in mapped])))
    return parts


def watch_of(infos: Sequence[LayerInfo]) -> TopWatch | None:
    """Return what watches the maps of some layers of a network, None without layers."""
    layers = {i.key.layer: WatchedLayer(i.pool, i.neurons, half=i.dtype == "float16") for i in infos}
    return TopWatch(layers, most_maps()) if layers else None


def _encoder_info(encoder: LoadedEncoder) -> EncoderInfo:
    return EncoderInfo(
        encoder.spec,
        encoder.width,
        encoder.logit_scale,
        dict(encoder.identity),
        column_tables.embeddings_table(encoder.spec),
    )


def _layer_infos(network: LoadedNetwork, dtype: str) -> list[LayerInfo]:
    infos = []
    for name, output in network.layers.items():
        key = LayerKey(network.name, name)
        identity = network.identity_of(name)
        table = layer_table(key, sparse="sparse" in identity)
        spec, file = network.spec, network.weights
        infos.append(LayerInfo(key, output.neurons, output.pool, spec, file, dtype, identity, table))
    return infos


# images


class KnownUris:
    """The URIs of the indexed images, in eight bytes per image."""

    def __init__(self, uris: pa.ChunkedArray) -> None:
        """Remember the hashes of the given URIs."""
        hashes = (hash(uri.as_py()) for chunk in uris.chunks for uri in chunk)
        self._hashes = np.sort(np.fromiter(hashes, dtype=np.int64))

    def __contains__(self, uri: str) -> bool:
        position = int(np.searchsorted(self._hashes, hash(uri)))
        return position < len(self._hashes) and bool(self._hashes[position] == hash(uri))


def image_rows(mark: Shard, prepared: Sequence[Prepared]) -> pa.Table:
    """Return one shard's rows of the table of images, in the order of `prepared`."""
    rows = []
    for position, item in enumerate(prepared):
        split = item.ref.metadata.get("split")
        row = {
            "image_id": mark.first_image + position,
            "shard": mark.number,
            "uri": item.ref.uri,
            "sha256": item.sha256,
        }
        row |= {"width": item.width, "height": item.height, "thumbnail": item.thumbnail}
        row |= {"split": None if split is None else str(split), "metadata": metadata_text(item.ref.metadata)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.table_schema(schema.IMAGES))


def write_failures(store: Store, failures: Sequence[ImageFailure], run_id: str) -> None:
    """Add images to the list of failures; one that is already listed gets the new reason."""
    if not failures:
        return
    when = datetime.now(UTC)
    rows = [{"uri": f.uri, "reason": f.reason, "when": when, "run_id": run_id} for f in failures]
    store.upsert(schema.FAILURES, ["uri"], pa.Table.from_pylist(rows, schema=schema.table_schema(schema.FAILURES)))


def forget_failures(store: Store, uris: set[str]) -> None:
    """Remove images that can now be read from the list of failures."""
    repaired = uris.intersection(store.read(schema.FAILURES, ["uri"])["uri"].to_pylist())
    if repaired:
        store.delete(schema.FAILURES, f"uri IN ({','.join(map(catalog.sql_text, sorted(repaired)))})")
