"""How alike a neuron's activating images are: its clarity, computed on request from the embeddings of its images."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.errors import CspIndexError
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

IMAGES: Final = 30
"""The most highest activating images that a neuron's clarity is computed from."""
_BLOCK = 2**13  # images of neurons whose embeddings are gathered at once


def clarities(snapshot: Snapshot, engine: Engine, table: LayerTable) -> Clarities:
    """Return the clarity of a layer's neurons; it computes values on request and caches them."""
    return snapshot.cache.get(
        ("clarity", table.info.key), lambda: Clarities(snapshot, engine, table), lambda values: values.nbytes
    )


class Clarities:
    """The mean cosine among a neuron's highest activating images, computed for neurons on request."""

    def __init__(self, snapshot: Snapshot, engine: Engine, table: LayerTable) -> None:
        self._engine, self._has_encoder = engine, bool(snapshot.encoders)
        self._places = top_images(table, IMAGES)[0]
        self._values = np.full(table.info.neurons, np.nan)
        self._known = table.dead.copy()  # a dead neuron has none
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """How much memory the values take."""
        return self._places.nbytes + self._values.nbytes + self._known.nbytes

    def all(self) -> np.ndarray:
        """Return the clarity of all neurons [M]; NaN for fewer than two images, or without embeddings."""
        return self.of(np.arange(len(self._values)))

    def of(self, neurons: np.ndarray) -> np.ndarray:
        """Return the clarity of some neurons [I]."""
        with self._lock:
            missing = neurons[~self._known[neurons]]
            if len(missing) and self._has_encoder and not self._engine.failed:
                step = max(1, _BLOCK // max(1, self._places.shape[1]))
                try:
                    for first in range(0, len(missing), step):
                        self._fill(missing[first : first + step])
                except CspIndexError:
                    if not self._engine.failed:  # without an engine the rest of the page can still be shown
                        raise
            values: np.ndarray = self._values[neurons]
            return values

    def _fill(self, neurons: np.ndarray) -> None:
        places = self._places[neurons]
        ids, rows = np.unique(places, return_inverse=True)
        rows = rows.reshape(places.shape) - int(ids[0] < 0)
        vectors = self._engine.models().vectors_of(ids[ids >= 0].tolist())
        import torch  # the engine has loaded it by now

        from csp_index.evaluation.metrics.structure import clarity
        from csp_index.tensors.torch_threads import one_thread

        with one_thread():
            self._values[neurons] = clarity(torch.from_numpy(vectors), torch.from_numpy(rows)).numpy()
        self._known[neurons] = True


def top_images(table: LayerTable, most: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the `most` highest activating images of each neuron (all by default) and their activations, both [M, K].

    The id is -1 for an image that does not activate the neuron.
    """
    activations = table.lists("top_activations")[:, :most].astype(np.float32)
    return np.where(activations > 0, table.lists("top_images")[:, :most], -1), activations
