"""Neurons by meaning: rank neurons by the cosine of their concept vector with a text or a picture.

A layer labelled with CSP is ranked by the vectors that run kept; any other by the activation-weighted mean of its
activating images minus the dataset's mean, computed on the spot. The result says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.labelling.candidates import TextSpace, embed_picture, template_key
from csp_index.labelling.label_store import label_of, stored_vectors
from csp_index.labelling.labels import concept_vectors
from csp_index.labelling.request import LabelRequest
from csp_index.models.prompt_templates import templates
from csp_index.records import LayerKey
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_SCHEMA = pa.schema(
    [
        ("neuron", pa.string()),
        ("score", pa.float64()),
        ("method", pa.string()),
        ("label", pa.string()),
        ("labelled_by", pa.string()),
    ]
)


def embed_query(space: TextSpace, text: str | None, picture: str | Path | None) -> torch.Tensor:
    """Return the embedding [D] of a text or of a picture file, whichever is given."""
    if (text is None) == (picture is None):
        raise SettingError("search takes a text or an image: give one of them")
    return embed_text(space, text) if text is not None else embed_picture(space.load(), picture or "")


def embed_text(space: TextSpace, text: str) -> torch.Tensor:
    """Return a text's embedding [D]: as the index holds it under the space's templates, else the encoder's."""
    if not text.strip():
        raise SettingError("the text to search for is empty: write a word or a phrase")
    kept_as, table = template_key(space.template_set), schema.texts_table(space.source.name)
    where = f"text = {catalog.sql_text(text)} AND template_set = {catalog.sql_text(kept_as)}"
    rows = space.store.read(table, ["embedding"], where) if space.store.has(table) else None
    if rows is not None and rows.num_rows:
        return torch.tensor(rows["embedding"][0].as_py())
    return space.load().embed_texts([text], templates(space.template_set))[0]


def searched_layers(store: Store, layer: str | None) -> list[LayerInfo]:
    """Return the layer an address names, or all that are finished."""
    if layer:
        return [catalog.layer(store, LayerKey.parse(layer))]
    return [info for info in catalog.layers(store) if catalog.is_finished(store, info)]


def search_neurons(
    store: Store, source: EncoderInfo, targets: Sequence[LayerInfo], query: torch.Tensor, top: int
) -> pa.Table:
    """Return the `top` neurons nearest to a query vector [D], best first: neuron, score (cosine), method, label."""
    query = torch.nn.functional.normalize(query, dim=0)
    found: list[tuple[float, LayerInfo, int, str]] = []
    for target in targets:
        selection = Selection(source, target, np.arange(target.neurons))
        rows = catalog.neuron_rows(store, target)
        kept = stored_vectors(store, selection, "csp", rows["images"][0].as_py())
        if kept is not None:
            method, vectors = "csp", kept
        else:
            method, vectors = "mean-centred", concept_vectors(store, selection, LabelRequest("mean-centred"))
        alive = torch.from_numpy(rows["max"].to_numpy() > 0)
        scores = (vectors @ query).masked_fill(~alive, -torch.inf)
        order = scores.sort(dim=0, descending=True, stable=True).indices[:top].tolist()
        found += [(float(scores[n]), target, n, method) for n in order if alive[n]]
    found.sort(key=lambda row: -row[0])
    answer = []
    for score, target, neuron, method in found[:top]:
        label = label_of(store, Selection(source, target, np.array([neuron])), neuron, top=1)
        row = {"neuron": f"{target.key}/{neuron}", "score": score, "method": method}
        answer.append(row | {"label": label and label.text, "labelled_by": label and label.method})
    return pa.Table.from_pylist(answer, schema=_SCHEMA)
