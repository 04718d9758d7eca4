"""Where a neuron's activations lie: its histogram, and images from the strongest to the weakest.

Its functions read stored activations and return arrays; no model is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from csp_index.records import NeuronKey
from csp_index.service.documents.neuron_shapes import Histogram, QuantileRow
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog
from csp_index.store.values.arrays import fetch_tiles

_QUANTILES = (1.0, 0.99, 0.95, 0.9, 0.75, 0.5, 0.25, 0.0)
_ROW = 6  # images per quantile
_BINS = 40
_BLOCK, _BLOCK_BYTES = 8, 16 * 2**20  # most neurons, and bytes of their activations, that are read together
# At 50,000 images to read one neuron takes 8 ms, 8 take 9 and 64 take 36; to sort its activations each takes 1.7.


@dataclass(frozen=True, slots=True)
class Spread:
    """Where a neuron's activations lie: a histogram, and the images of ranks around some quantiles, strongest first."""

    counts: np.ndarray  # [B]
    edges: np.ndarray  # [B + 1]
    values: np.ndarray  # [Q]
    images: np.ndarray  # [Q, I] ids
    activations: np.ndarray  # [Q, I]

    @property
    def nbytes(self) -> int:
        """Approximately how much memory this takes."""
        return 1000 + sum(a.nbytes for a in (self.counts, self.edges, self.values, self.images, self.activations))

    def histogram(self) -> Histogram:
        """Return the counts and edges of the bins."""
        return {"counts": self.counts.tolist(), "edges": self.edges.tolist()}

    def rows(self) -> list[QuantileRow]:
        """Return a row of images for each quantile, from the maximum to the minimum."""
        columns = (self.values.tolist(), self.images.tolist(), self.activations.tolist())
        return [
            {
                "quantile": quantile,
                "value": value,
                "images": [{"image_id": image, "activation": one} for image, one in zip(ids, activations, strict=True)],
            }
            for quantile, value, ids, activations in zip(_QUANTILES, *columns, strict=True)
        ]


def spread_of_neuron(snapshot: Snapshot, table: LayerTable, key: NeuronKey) -> Spread:
    """Return where a neuron's activations lie; reads and caches the neurons around it together with it."""
    size = min(_BLOCK, max(1, _BLOCK_BYTES // (4 * table.images)))
    first = key.neuron - key.neuron % size

    def read() -> list[Spread]:
        marks = catalog.covered(snapshot.store, table.info.what, table.images)
        neurons = np.arange(first, min(first + size, table.info.neurons))
        parts = fetch_tiles(snapshot.store, table.info, marks, neurons)
        return [_spread_of(np.concatenate(rows)) for rows in zip(*parts, strict=True)]

    block = snapshot.cache.get(("spread", key.layer_key, first), read, lambda made: sum(one.nbytes for one in made))
    return block[key.neuron - first]


def _spread_of(activations: np.ndarray) -> Spread:
    """Return where activations [N] (N > 0) lie; of equal activations the image with the lower id counts as stronger."""
    lowest, highest, count = activations.min(), activations.max(), len(activations)
    margin = max(0.5, 1e-6 * abs(float(lowest))) if lowest == highest else 0.0
    edges = np.linspace(float(lowest) - margin, float(highest) + margin, _BINS + 1)
    bins = ((activations - edges[0]) * (_BINS / (edges[-1] - edges[0]))).astype(np.intp)
    # After the sign, 16 bits of numbers from 0 on rise with them; NumPy sorts such by radix, in a fourth of the time.
    with np.errstate(over="ignore"):  # a range beyond float32 leaves the largest on one level
        levels = ((activations - lowest).view(np.uint32) >> 15).astype(np.uint16)
    ordered = np.sort(levels, kind="stable")
    size = min(_ROW, count)

    @cache
    def ranked(low: int, high: int) -> np.ndarray:
        images = np.flatnonzero((levels >= low) & (levels <= high))[::-1]
        return images[np.argsort(activations[images], kind="stable")]

    values, rows = [], []
    for quantile in _QUANTILES:
        place = round(quantile * (count - 1))
        first = min(max(place - size // 2, 0), count - size)
        low, high = ordered[first], ordered[first + size - 1]
        row = ranked(low, high)[first - np.searchsorted(ordered, low) :][:size]
        values.append(activations[row[place - first]])
        rows.append(row[::-1])
    images, counts = np.stack(rows), np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS)
    return Spread(counts, edges, np.array(values), images, activations[images])
