"""Neurons by meaning: rank neurons by the cosine of their concept vector with a text or a picture.

A layer is ranked by the concept vectors that it has (`labelling.concept_vectors`). The result says which.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.labelling.concept_vectors import layer_vectors
from csp_index.labelling.kept.read_labels import label_of
from csp_index.labelling.texts.candidate_names import TextSpace, last_vocabulary_key, template_key
from csp_index.models.prompt_templates import templates
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_NAMED = 100  # texts that a condition names; for more, all of a template set are read in a stream
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
    for what, given, kinds in (("a text", text, str), ("the file of an image", picture, str | Path)):
        if given is not None and not isinstance(given, kinds):
            raise SettingError(f"search takes {what}, got an object {type(given).__name__}: image=FILE is for pictures")
    if text is not None:
        return embed_text(space, text)
    from csp_index.labelling.candidates import embed_picture  # torch, as the encoder needs it; stored texts do not

    return embed_picture(space.load(), picture or "").numpy()


def embed_text(space: TextSpace, text: str) -> np.ndarray:
    """Return a text's embedding [D]: as the index holds it under the space's templates, else the encoder's."""
    if not text.strip():
        raise SettingError("the text to search for is empty: write a word or a phrase")
    stored = stored_embeddings(space.store, space.source, space.template_set, [text])
    if text in stored:
        return stored[text]
    return space.load().embed_texts([text], templates(space.template_set))[0].numpy()


def stored_embeddings(
    store: Store, source: EncoderInfo, template_set: str, texts: Collection[str]
) -> dict[str, np.ndarray]:
    """Return the embeddings [D] of those texts that the index holds under a template set; no encoder is loaded."""
    table = column_tables.texts_table(source.name)
    if not store.has(table) or not texts:
        return {}
    where = f"template_set = {catalog.sql_text(template_key(template_set))}"
    if len(texts) <= _NAMED:
        where += f" AND text IN ({','.join(map(catalog.sql_text, texts))})"
    wanted, stored = pa.array(sorted(texts), pa.string()), dict[str, np.ndarray]()
    for batch in store.scan(table, ["text", column_tables.EMBEDDING], where=where):
        rows = batch.filter(pc.is_in(batch["text"], wanted))
        vectors = np.asarray(rows[column_tables.EMBEDDING].flatten(), np.float32).reshape(-1, source.width)
        stored |= zip(rows["text"].to_pylist(), vectors, strict=True)
    return stored


def sampled_embeddings(store: Store, source: EncoderInfo, template_set: str, most: int) -> np.ndarray:
    """Return unit embeddings [S, D] of some texts of the vocabulary stored last, which the seed 0 draws; or none."""
    table, vocabulary = column_tables.texts_table(source.name), last_vocabulary_key(store)
    if not store.has(table) or not vocabulary:
        return np.zeros((0, source.width), np.float32)
    where = (
        f"vocabulary = {catalog.sql_text(vocabulary)} AND template_set = {catalog.sql_text(template_key(template_set))}"
    )
    places = np.sort(store.read(table, ["position"], where)["position"].to_numpy())
    chosen = np.random.default_rng(0).permutation(places)[:most].tolist()
    if not chosen:
        return np.zeros((0, source.width), np.float32)
    rows = store.read(table, [column_tables.EMBEDDING], f"{where} AND position IN ({','.join(map(str, chosen))})")
    vectors = np.asarray(rows[column_tables.EMBEDDING].combine_chunks().flatten(), np.float32).reshape(-1, source.width)
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _TINY)
    return unit


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
        alive = catalog.fires(catalog.neuron_rows(store, target))
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
