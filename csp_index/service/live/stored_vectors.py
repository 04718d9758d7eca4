"""Vectors of images and neurons as the index stores them, read by NumPy: what pages need, without waiting for models.

Loads no torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from csp_index.labelling.concept_vectors import layer_vectors
from csp_index.lru_cache import LRUCache
from csp_index.records import LayerKey
from csp_index.service.live.queries import Concepts
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, column_tables
from csp_index.store.values.arrays import embedding_blocks, embedding_rows
from csp_index.store.values.derived_images import is_derived, read_derived


class StoredVectors:
    """Embeddings and concept vectors of a snapshot, in the space of its encoder; many threads may use it."""

    def __init__(self, snapshot: Snapshot, held_bytes: int) -> None:
        """Refer to the snapshot; concept vectors stay in memory, at most `held_bytes` of them."""
        self._snapshot, self._store = snapshot, snapshot.store
        self._concepts = LRUCache(held_bytes)

    def concepts(self, key: LayerKey) -> Concepts:
        """Return the concept vectors that a layer has (`labelling.concept_vectors`)."""
        target = self._snapshot.info(key)

        def read() -> Concepts:
            concepts = layer_vectors(self._store, self._snapshot.encoder, target)
            alive = catalog.fires(catalog.neuron_rows(self._store, target))
            return Concepts(concepts.method, concepts.vectors, alive)

        return self._concepts.get(key, read, lambda concepts: concepts.vectors.nbytes)

    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        """Return the unit embeddings [I, D] of images, in their order. Raises NotFoundError for an unknown image."""
        for image in ids:
            self._snapshot.check_image(image)
        source = self._snapshot.encoder
        numbers = np.asarray(ids, dtype=np.int64)
        derived = is_derived(numbers)
        vectors = np.empty((len(numbers), source.width), np.float32)
        vectors[~derived] = embedding_rows(self._store, source, numbers[~derived])
        if derived.any():
            rows = read_derived(self._store, source, numbers[derived].tolist(), [column_tables.EMBEDDING])
            column = rows[column_tables.EMBEDDING].combine_chunks()
            vectors[derived] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, source.width)
        return vectors

    def nearest_images(self, vector: np.ndarray, count: int) -> list[tuple[int, float]]:
        """Return the images most similar to a unit vector [D], with their cosines, best first, ties by lower id.

        A pass over all embeddings.
        """
        source = self._snapshot.encoder
        marks = catalog.covered(self._store, source.what, catalog.image_count(self._store, source.what))
        ids, values, first = np.zeros(0, np.int64), np.zeros(0, np.float32), 0
        for block in embedding_blocks(self._store, source, marks):
            cosines = np.concatenate([values, np.einsum("nd,d->n", block, vector.astype(np.float32))])
            places = np.concatenate([ids, np.arange(first, first + len(block))])
            best = np.lexsort((places, -cosines))[:count]
            ids, values, first = places[best], cosines[best], first + len(block)
        return list(zip(ids.tolist(), values.tolist(), strict=True))
