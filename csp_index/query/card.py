"""The picture card of a neuron: its label, pairs and activations read from the store, and drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from csp_index.query.card_drawing import CardData, CardPair, draw_card
from csp_index.query.stored_pictures import pictures_or_originals
from csp_index.records import Label
from csp_index.store import catalog, schema
from csp_index.store.tables import Store

_SHOWN = 10
_BINS = 40


def neuron_card(store: Store, label: Label, activations: np.ndarray, path: str | Path) -> Path:
    """Draw the card of a label whose neuron has the given activations [N]; pictures are thumbnails or files."""
    pairs = label.pairs[:_SHOWN]
    ids = {pair.image_id for pair in pairs} | {pair.contrast_id for pair in pairs if pair.contrast_id is not None}
    pictures = pictures_or_originals(store, ids)
    counts, edges = np.histogram(activations, bins=_BINS)
    return draw_card(
        CardData(
            title=str(label.neuron),
            method=label.method,
            labels=[(score.text, score.score) for score in label.labels],
            state=label.state,
            note=" · ".join(
                part for part in (label.note, label.doubt, label.null_rank and str(label.null_rank)) if part
            ),
            pairs=[
                CardPair(
                    pictures[pair.image_id],
                    None if pair.contrast_id is None else pictures[pair.contrast_id],
                    pair.activation,
                    pair.contrast_activation,
                    pair.similarity,
                )
                for pair in pairs
            ],
            histogram=counts.tolist(),
            edges=edges.tolist(),
            threshold=_threshold(store, label),
            threshold_name="threshold" if label.pairs else "mean",
        ),
        path,
    )


def _threshold(store: Store, label: Label) -> float | None:
    where = f"run_id = {catalog.sql_text(label.run_id)} AND neuron = {label.neuron.neuron}"
    thresholds = store.read(schema.EXAMPLES, ["threshold"], where)["threshold"]
    if len(thresholds):
        return float(thresholds[0].as_py())
    target = catalog.layer(store, label.neuron.layer_key)
    return float(catalog.neuron_rows(store, target, [label.neuron.neuron])["mean"][0].as_py())
