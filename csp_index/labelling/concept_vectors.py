"""Concept vectors: which direction in the encoder's space each neuron of a layer stands for.

A layer that a run labelled whole with CSP has the vectors of that run. Any other has the activation-weighted means of
its activating images minus the dataset's mean, which are computed. Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from csp_index.contrast.selection import Selection
from csp_index.labelling.kept.crop_labels import crop_key, stored_under
from csp_index.labelling.methods import METHODS
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values.arrays import embedding_blocks

_STORED: Final = "csp"
_COMPUTED: Final = "mean-centred"
_TINY: Final = 1e-12  # the least length that a vector is divided by


@dataclass(frozen=True, slots=True)
class ConceptVectors:
    """The unit concept vectors [M, D] of a layer's neurons and the method behind them; meaningless for dead neurons."""

    method: str
    vectors: np.ndarray


def layer_vectors(store: Store, source: EncoderInfo, target: LayerInfo) -> ConceptVectors:
    """Return the concept vectors that a layer has."""
    method, vectors = comparable_vectors(store, source, [target])
    return ConceptVectors(method, next(vectors))


def comparable_vectors(
    store: Store, source: EncoderInfo, targets: Sequence[LayerInfo]
) -> tuple[str, Iterator[np.ndarray]]:
    """Return a method that gives concept vectors to all layers alike, and the vectors [M, D] of one layer at a time.

    The vectors of CSP runs are used only where each of the layers has them.
    """
    selections = [Selection(source, target, np.arange(target.neurons)) for target in targets]
    stored = [stored_vectors(store, selection, _STORED, selection.images(store)) for selection in selections]
    known = [vectors for vectors in stored if vectors is not None]
    if len(known) == len(selections):
        return _STORED, iter(known)
    return _COMPUTED, (mean_centred_vectors(store, selection) for selection in selections)


def mean_centred_vectors(store: Store, selection: Selection) -> np.ndarray:
    """Return the weighted means [M, D] of activating images minus the mean of all images, at unit length.

    They are those of the method mean-centred, but for rounding; one pass over the embeddings.
    """
    rows, images = selection.statistics(store), selection.images(store)
    ids, activations = (_lists(rows, name) for name in ("top_images", "top_activations"))
    return weighted_means(store, selection.source, images, ids, activations)


def activating_lists(store: Store, target: LayerInfo) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids and activations [M, K] of the images that the mean-centred vectors of a layer rest on."""
    rows = catalog.neuron_rows(store, target)
    return _lists(rows, "top_images"), _lists(rows, "top_activations")


def weighted_means(
    store: Store, source: EncoderInfo, images: int, ids: np.ndarray, activations: np.ndarray
) -> np.ndarray:
    """Return the means [M, D] of the embeddings of images (ids [M, K]), minus that of all images, at unit length.

    Weights are the activations [M, K], those below 0 counting as 0.
    """
    weights = np.maximum(activations, 0).astype(np.float32)
    weights /= np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float32).tiny)
    used, places = np.unique(np.where(weights > 0, ids, ids[:, :1]), return_inverse=True)
    vectors, mean = _vectors_and_mean(store, source, images, used)
    total = np.zeros((len(ids), source.width), np.float32)
    for place, weight in zip(places.reshape(ids.shape).T, weights.T, strict=True):
        total += weight[:, None] * vectors[place]
    total -= mean
    result: np.ndarray = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), _TINY)
    return result


def _lists(rows: pa.Table, name: str) -> np.ndarray:
    """Return the values of the most activating images of each neuron, [M, K]."""
    lists = rows[name].combine_chunks()
    values: np.ndarray = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1)
    return values[:, : METHODS[_COMPUTED].examples]


def _vectors_and_mean(
    store: Store, source: EncoderInfo, images: int, used: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the embeddings [U, D] of some images (ids in order), and the mean [D] of the first `images`."""
    vectors, total = np.zeros((len(used), source.width), np.float32), np.zeros(source.width)
    first = 0
    for block in embedding_blocks(store, source, catalog.covered(store, source.what, images)):
        total += block.sum(0, dtype=np.float64)
        pick = slice(*np.searchsorted(used, (first, first + len(block))))
        vectors[pick] = block[used[pick] - first]
        first += len(block)
    return vectors, (total / images).astype(np.float32)


def stored_vectors(store: Store, selection: Selection, method: str, images: int) -> np.ndarray | None:
    """Return the concept vectors [M, D] that the newest label run of the whole layer, over `images` images, stored."""
    newest = _newest_whole(store, selection, method, images)
    if newest is None:
        return None
    where = f"{_of_method(selection, method, images)} AND settings_hash = {catalog.sql_text(newest)}"
    table = column_tables.concepts_table(selection.source.name)
    rows = store.read(table, ["neuron", "vector"], where).sort_by("neuron")
    flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat.reshape(-1, selection.source.width))


def vectors_behind(store: Store, source: EncoderInfo, target: LayerInfo) -> tuple[str, str | None]:
    """Return the method that gives a layer its concept vectors, and what their labels are stored under; None: computed.

    That is the settings hash of their run; of labels from crops with a digest of what those of each neuron are under.
    """
    selection = Selection(source, target, np.arange(target.neurons))
    newest = _newest_whole(store, selection, _STORED, selection.images(store))
    return (_COMPUTED, None) if newest is None else (_STORED, _with_maps(store, target, newest))


def _with_maps(store: Store, target: LayerInfo, hashed: str) -> str:
    """Return a settings hash; where labels under it are from crops, with a digest of the maps by which these were cut.

    Other maps give other labels under the same hash.
    """
    where = f"{catalog.layer_filter(target)} AND rank <= 0 AND {stored_under(hashed, crop=True)}"
    rows = store.read(schema.LABELS, ["neuron", "settings_hash"], where)
    if not rows.num_rows:
        return hashed
    keys = rows.sort_by("neuron")["settings_hash"].to_pylist()
    return crop_key(hashed, hashlib.sha256(" ".join(keys).encode()).hexdigest()[:16])


def _newest_whole(store: Store, selection: Selection, method: str, images: int) -> str | None:
    """Return the settings hash of the newest label run that stored a vector for each neuron of the layer."""
    table = column_tables.concepts_table(selection.source.name)
    if not store.has(table):
        return None
    runs = store.read(table, ["settings_hash", "run_id"], _of_method(selection, method, images))
    counts = runs.group_by("settings_hash").aggregate([("run_id", "count"), ("run_id", "max")]).to_pylist()
    whole = [row for row in counts if row["run_id_count"] == selection.target.neurons]
    return str(max(whole, key=lambda row: str(row["run_id_max"]))["settings_hash"]) if whole else None


def _of_method(selection: Selection, method: str, images: int) -> str:
    return f"{catalog.layer_filter(selection.target)} AND method = {catalog.sql_text(method)} AND images = {images}"
