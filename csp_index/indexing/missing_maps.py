"""Activation maps for layers that were indexed without: only the top images are decoded and run again.

The rows of a shard are kept at a checkpoint each, so a killed command goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np

from csp_index.images.decode import ImageFailure
from csp_index.images.loader import Prepared, decoded
from csp_index.indexing.batches import batches
from csp_index.indexing.kept_maps import Frames, top_of, with_maps
from csp_index.indexing.map_watch import BatchMaps, PairWatch, joined, no_maps
from csp_index.indexing.model_columns import Part
from csp_index.indexing.unusable_images import CHANGED, indexed_ref, is_changed
from csp_index.models.networks import LoadedNetwork
from csp_index.records import Progress
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.originals import ImageRoots
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import mapped_pairs, packed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Lack:
    """The pairs of a layer of which no map is stored, in the order of neurons, then of rank; `fires`: not at 0."""

    info: LayerInfo
    neurons: np.ndarray  # [P]
    images: np.ndarray  # [P] ids
    fires: np.ndarray  # [P] bool: an activation of 0 has a blank map, for which no image is opened

    def among(self, mark: Shard) -> _Lack:
        """Return the pairs with images of a shard."""
        kept = (self.images >= mark.first_image) & (self.images < mark.first_image + mark.rows)
        return _Lack(self.info, self.neurons[kept], self.images[kept], self.fires[kept])

    def in_batch(self, rows: np.ndarray, mark: Shard) -> tuple[np.ndarray, np.ndarray]:
        """Return the places in a batch and the neurons of the pairs that fire; `rows` are its images in the shard."""
        places = np.full(mark.rows, -1)
        places[rows] = np.arange(len(rows))
        own = places[self.images - mark.first_image]
        kept = (own >= 0) & self.fires
        return own[kept], self.neurons[kept]


def make_missing_maps(
    store: Store,
    networks: Sequence[LoadedNetwork],
    infos: Sequence[LayerInfo],
    frames: Frames,
    *,
    draft: int | None,
    progress: Progress,
) -> None:
    """Write the maps that top images of finished layers lack; images that cannot be used are counted in a warning.

    Errors: SourceError for an address in no place the user named; ModelError where a network fails.
    """
    for network in networks:
        own = [info for info in infos if info.key.model == network.name and info.what in frames]
        lacks = [_lacking(store, info) for info in own if catalog.is_finished(store, info)]
        lacks = [lack for lack in lacks if len(lack.neurons)]
        if lacks:
            _Maker(store, network, lacks, draft, progress).make(frames)


def _lacking(store: Store, info: LayerInfo) -> _Lack:
    top = top_of(store, info)
    values = catalog.neuron_rows(store, info)["top_activations"].combine_chunks()
    fires = values.flatten().to_numpy().reshape(info.neurons, -1)[:, : top.shape[1]] != 0
    neurons = np.repeat(np.arange(info.neurons), top.shape[1])
    span = 1 + int(top.max(initial=0))
    owners, ids = mapped_pairs(store, info)
    lacking = ~np.isin(neurons * span + top.reshape(-1), (owners * span + ids)[ids < span])
    return _Lack(info, neurons[lacking], top.reshape(-1)[lacking], fires.reshape(-1)[lacking])


class _Maker:
    """Runs a network on the images whose maps some of its layers lack, shard by shard."""

    def __init__(
        self, store: Store, network: LoadedNetwork, lacks: Sequence[_Lack], draft: int | None, progress: Progress
    ) -> None:
        self._store, self._lacks, self._draft, self._progress = store, lacks, draft, progress
        self._watch = PairWatch({one.info.key.layer: one.info.pool for one in lacks})
        self._part = Part(network, tuple(one.info for one in lacks), self._watch)
        self._roots, self._done = ImageRoots(store), 0
        self._total = len(np.unique(np.concatenate([one.images[one.fires] for one in lacks])))
        self._failures: list[ImageFailure] = []

    def make(self, frames: Frames) -> None:
        """Write the maps, and warn of images that cannot be used."""
        for mark in catalog.shards(self._store, schema.IMAGES):
            lacks = [one.among(mark) for one in self._lacks]
            usable, maps = self._computed(mark, lacks)
            for one in lacks:
                kept = ~one.fires | usable[one.images - mark.first_image]
                if kept.any():
                    neurons, ids = one.neurons[kept], one.images[kept]
                    frame = frames[one.info.what]
                    pairs = with_maps(frame, neurons, ids, ids - mark.first_image, maps[one.info.what])
                    rows = packed(frame, pairs, np.unique(neurons), mark.first_image, mark.rows)
                    self._store.append(column_tables.maps_table(str(one.info.key)), rows)
            self._store.checkpoint()
        if self._failures:
            first, more = self._failures[0], ", ..." if len(self._failures) > 1 else ""
            _log.warning(
                "%d of %d images have no activation map, because they cannot be used: %s: %s%s",
                *(len(self._failures), self._total, first.uri, first.reason, more),
            )

    def _computed(self, mark: Shard, lacks: Sequence[_Lack]) -> tuple[np.ndarray, dict[str, BatchMaps]]:
        """Return which images of a shard could be used, [n], and the maps of each layer; rows count the images."""
        wanted = np.unique(np.concatenate([one.images[one.fires] for one in lacks]))
        usable, pieces = np.zeros(mark.rows, dtype=bool), {one.info.what: [no_maps()] for one in lacks}
        stored = self._stored(wanted)
        refs = (indexed_ref(self._roots.checked(uri), row["sha256"]) for uri, row in stored.items())
        images = decoded(refs, [self._part.model.preprocess], draft=self._draft)
        with closing(images):
            for batch in batches(self._unchanged(images), [self._part], [len(stored)] if stored else []):
                self._failures += batch.failures
                rows = (
                    np.array([stored[item.ref.uri]["image_id"] for item in batch.images], np.int64) - mark.first_image
                )
                if len(rows):
                    self._watch.expect({one.info.key.layer: one.in_batch(rows, mark) for one in lacks})
                    for what, maps in self._part.compute(batch.pixels[0]).maps.items():
                        pieces[what].append(maps.numbered(rows))
                    usable[rows] = True
                self._done += len(batch.images) + len(batch.failures)
                self._progress(self._done, self._total, "images of maps")
        return usable, {what: joined(parts) for what, parts in pieces.items()}

    def _stored(self, images: np.ndarray) -> dict[str, dict[str, Any]]:
        """Return what the index knows of images, by their addresses, in the order of ids."""
        listed = ",".join(map(str, images.tolist()))
        where = f"image_id IN ({listed})" if listed else "false"
        rows = self._store.read(schema.IMAGES, ["image_id", "uri", "sha256"], where).sort_by("image_id")
        return {row["uri"]: row for row in rows.to_pylist()}

    def _unchanged(self, images: Iterator[Prepared | ImageFailure]) -> Iterator[Prepared | ImageFailure]:
        """Yield the images, and a failure in place of one whose file is another than the one that was indexed."""
        for image in images:
            changed = isinstance(image, Prepared) and is_changed(image)
            yield ImageFailure(image.ref.uri, CHANGED) if changed and isinstance(image, Prepared) else image
