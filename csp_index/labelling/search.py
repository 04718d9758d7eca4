"""Neurons by meaning: rank neurons by the cosine of their concept vector with a text or a picture.

A layer is ranked by the concept vectors that it has (`labelling.concept_vectors`). The result says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.labelling.concept_vectors import layer_vectors
from csp_index.labelling.kept.read_labels import label_of
from csp_index.labelling.texts.candidate_names import TextSpace, template_key
from csp_index.models.prompt_templates import templates
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_TINY = 1e-12  # the least length that a vector is divided by
_SCHEMA = pa.schema(
    [
        ("neuron", pa.string()),
        ("score", pa.float64()),
        ("method", pa.string()),
        ("label", pa.string()),
        ("labelled_by", pa.string()),
    ]
)


def embed_query(space: TextSpace, text: str | None, picture: str | Path | None) -> np.ndarray:
    """Return the embedding [D] of a text or of a picture file, whichever is given."""
    if (text is None) == (picture is None):
        raise SettingError("search takes a text or an image: give one of them")
    if text is not None:
        return embed_text(space, text)
    from csp_index.labelling.candidates import embed_picture  # torch, as the encoder needs it; stored texts do not

    return embed_picture(space.load(), picture or "").numpy()


def embed_text(space: TextSpace, text: str) -> np.ndarray:
    """Return a text's embedding [D]: as the index holds it under the space's templates, else the encoder's."""
    if not text.strip():
        raise SettingError("the text to search for is empty: write a word or a phrase")
    set_key, table = template_key(space.template_set), column_tables.texts_table(space.source.name)
    where = f"text = {catalog.sql_text(text)} AND template_set = {catalog.sql_text(set_key)}"
    rows = space.store.read(table, ["embedding"], where) if space.store.has(table) else None
    if rows is not None and rows.num_rows:
        return np.array(rows["embedding"][0].as_py(), np.float32)
    return space.load().embed_texts([text], templates(space.template_set))[0].numpy()


def searched_layers(store: Store, layer: str | None) -> list[LayerInfo]:
    """Return the layer an address names, or all that are finished."""
    if layer:
        return [catalog.layer(store, LayerKey.parse(layer))]
    return [info for info in catalog.layers(store) if catalog.is_finished(store, info)]


def search_neurons(
    store: Store, source: EncoderInfo, targets: Sequence[LayerInfo], query: np.ndarray, top: int
) -> pa.Table:
    """Return the `top` neurons nearest to a query vector [D], best first: neuron, score (cosine), method, label."""
    query = query / max(float(np.linalg.norm(query)), _TINY)
    nearest: list[tuple[float, LayerInfo, int, str]] = []
    for target in targets:
        concepts = layer_vectors(store, source, target)
        alive = catalog.neuron_rows(store, target)["max"].to_numpy() > 0
        scores = np.where(alive, concepts.vectors @ query, -np.inf)
        order = np.argsort(-scores, kind="stable")[:top].tolist()
        nearest += [(float(scores[n]), target, n, concepts.method) for n in order if alive[n]]
    nearest.sort(key=lambda row: -row[0])
    rows = []
    for score, target, neuron, method in nearest[:top]:
        label = label_of(store, Selection(source, target, np.array([neuron])), neuron, top=1)
        row = {"neuron": f"{target.key}/{neuron}", "score": score, "method": method}
        rows.append(row | {"label": label and label.text, "labelled_by": label and label.method})
    return pa.Table.from_pylist(rows, schema=_SCHEMA)
