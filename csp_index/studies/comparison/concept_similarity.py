"""Concept vectors of two layers in one encoder's space, and those that random images would give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from csp_index.errors import NotFoundError, SettingError
from csp_index.labelling.concept_vectors import activating_lists, weighted_means
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo
from csp_index.store.values.arrays import embedding_rows
from csp_index.studies.comparison.shared_images import SharedImages, Side

_BLOCK = 1024  # rows of a matrix of cosines at once
_COMPARED, _SAME = 64, 0.999  # shared images whose embeddings are compared; their cosine at least


def common_encoder(
    first: Side, second: Side, shared: SharedImages, name: str | None
) -> tuple[tuple[EncoderInfo, EncoderInfo] | None, str]:
    """Return the encoder of both indexes, or None, and why there is none.

    Two indexes have one space if they embed the images that they share alike. Raises NotFoundError or SettingError
    for an encoder of the first index as `catalog.encoder` does.
    """
    if name is None and not catalog.encoders(first.store):
        return None, "concept vectors are left out: the index holds no embeddings"
    source = catalog.encoder(first.store, name)
    if first.store.uri == second.store.uri:
        return (source, source), ""
    try:
        other = catalog.encoder(second.store, source.name)
    except (NotFoundError, SettingError) as exc:
        return None, f"concept vectors are left out: {second.store.uri}: {exc}"
    places = np.linspace(0, len(shared) - 1, min(_COMPARED, len(shared))).astype(np.int64)
    if source.width == other.width:
        one = embedding_rows(first.store, source, shared.first[places])
        two = embedding_rows(second.store, other, shared.second[places])
        if (np.einsum("nd,nd->n", one, two) > _SAME).all():
            return (source, other), ""
    return None, f"concept vectors are left out: {source.name} embeds the shared images otherwise in {second.store.uri}"


def concept_vectors(side: Side, source: EncoderInfo) -> np.ndarray:
    """Return the mean-centred concept vectors [M, D] of a layer; those of dead neurons mean nothing."""
    return weighted_means(side.store, source, side.images, *activating_lists(side.store, side.target))


def vectors_of_random_images(side: Side, source: EncoderInfo, rng: np.random.Generator) -> np.ndarray:
    """Return the concept vectors [M, D] that the layer's activations would give on random images."""
    ids, activations = activating_lists(side.store, side.target)
    return weighted_means(side.store, source, side.images, rng.integers(0, side.images, ids.shape), activations)


def cosine_blocks(first: np.ndarray, second: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the cosines [M1, M2] of unit vectors [M1, D] and [M2, D] in blocks of rows."""
    for start in range(0, len(first), _BLOCK):
        yield np.clip(first[start : start + _BLOCK] @ second.T, -1, 1)
