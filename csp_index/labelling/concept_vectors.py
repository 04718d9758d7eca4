"""Concept vectors: which direction in the encoder's space each neuron of a layer stands for.

A layer that a run labelled whole with CSP has the vectors of that run. Any other has the activation-weighted means of
its activating images minus the dataset's mean, which are computed; stored ones are read without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.contrast.selection import Selection
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_STORED: Final = "csp"
_COMPUTED: Final = "mean-centred"


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
    from csp_index.labelling.mean_centred import mean_centred_vectors  # torch: stored vectors do not need it

    return _COMPUTED, (mean_centred_vectors(store, selection) for selection in selections)


def stored_vectors(store: Store, selection: Selection, method: str, images: int) -> np.ndarray | None:
    """Return the concept vectors [M, D] that the newest label run of the whole layer, over `images` images, stored."""
    table = schema.concepts_table(selection.source.name)
    if not store.has(table):
        return None
    where = f"{catalog.layer_filter(selection.target)} AND method = {catalog.sql_text(method)} AND images = {images}"
    runs = store.read(table, ["settings_hash", "run_id"], where).group_by("settings_hash")
    whole = [
        row
        for row in runs.aggregate([("run_id", "count"), ("run_id", "max")]).to_pylist()
        if row["run_id_count"] == selection.target.neurons
    ]
    if not whole:
        return None
    newest = max(whole, key=lambda row: str(row["run_id_max"]))["settings_hash"]
    rows = store.read(table, ["neuron", "vector"], f"{where} AND settings_hash = {catalog.sql_text(newest)}").sort_by(
        "neuron"
    )
    flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.array(flat.reshape(-1, selection.source.width))
