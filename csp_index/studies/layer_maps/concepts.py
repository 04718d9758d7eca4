"""The concept vectors that a map places: which neurons have one, what they depend on, whether they are still those.

Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from csp_index.errors import NotFoundError
from csp_index.labelling.concept_vectors import layer_vectors, vectors_behind
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store
from csp_index.studies.column_digests import column_digest


@dataclass(frozen=True, slots=True)
class LiveConcepts:
    """The unit concept vectors [P, D] of the neurons [P] that fire, and the method behind them."""

    method: str
    neurons: np.ndarray
    vectors: np.ndarray


def live_concepts(store: Store, source: EncoderInfo, target: LayerInfo) -> LiveConcepts:
    """Return the concept vectors of the neurons of a layer that fire and have one."""
    concepts = layer_vectors(store, source, target)
    neurons = np.flatnonzero(catalog.fires(catalog.neuron_rows(store, target)) & concepts.vectors.any(axis=1))
    return LiveConcepts(concepts.method, neurons, concepts.vectors[neurons])


def described(store: Store, source: EncoderInfo, target: LayerInfo) -> dict[str, object]:
    """Return all that the concept vectors of a layer depend on: the run that stored them, or what they come from."""
    method, run = vectors_behind(store, source, target)
    images = catalog.image_count(store, target.what)
    own: dict[str, object] = {"encoder": source.name, "vectors": method, "images": images}
    if run is not None:
        return own | {"labels": run}
    return own | {"values": [column_digest(store, target), column_digest(store, source)]}


def changed(store: Store, target: LayerInfo, head: Mapping[str, Any]) -> str:
    """Return in which way the index has outgrown the map with this row of `layer_maps`, "" if in none."""
    again = f"run `csp-index map DB --layer {target.key}` again"
    try:
        source = catalog.encoder(store, head["encoder"])
    except NotFoundError:
        return f"the encoder {head['encoder']} of the map is gone: {again}"
    if head["neurons"] != target.neurons or settings_hash(described(store, source, target)) != head["vectors_digest"]:
        return f"made of other concept vectors than the index has now: {again}"
    return ""
