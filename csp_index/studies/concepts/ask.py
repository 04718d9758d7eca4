"""Ask an index which neurons of all layers answer to a word. Loads no torch for a word whose embedding is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from csp_index.errors import LabelError, ModelError
from csp_index.labelling.concept_vectors import layer_vectors
from csp_index.labelling.nulls.ranks import read_ranks
from csp_index.labelling.review.words import PINNED
from csp_index.labelling.search import embed_text, sampled_embeddings, searched_layers, stored_embeddings
from csp_index.labelling.texts.candidate_names import TextSpace
from csp_index.query.results import SqlResult
from csp_index.query.stored_pictures import StoredPictures
from csp_index.records import LayerKey, NeuronKey
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo, sql_text
from csp_index.store.tables import Store
from csp_index.studies.classes.associations import class_sets
from csp_index.studies.concepts.chance import WORDS, chance_lead, word_cosines
from csp_index.studies.concepts.concept import LayerEvidence, find_neurons
from csp_index.studies.concepts.known_classes import known_classes
from csp_index.studies.concepts.metadata_words import uncompared_values
from csp_index.studies.concepts.near_words import near_words
from csp_index.studies.concepts.records import Concept
from csp_index.studies.concepts.words import LabelWords, checked_word, normal

Ask = Callable[[str], SqlResult]  # a statement to rows
_LABELS = (
    "SELECT model, layer, neuron, text, method, uncertain, run_id FROM neuron_labels ORDER BY model, layer, neuron"
)


def ask_concept(space: TextSpace, ask: Ask, word: str, most: int) -> Concept:
    """Return what the neurons of all finished layers have to do with a word, at most `most` neurons of each way.

    `ask` runs a statement over the index. Where the word's embedding is not stored and no encoder is at hand, a note
    says so. SettingError for what is no word.
    """
    clean, notes, store = checked_word(word), list[str](), space.store
    shown: dict[LayerKey, list[dict[str, Any]]] = defaultdict(list)
    for row in ask(_LABELS).rows():
        shown[LayerKey(row["model"], row["layer"])].append(row)
    targets = [info for info in searched_layers(store, None) if info.key in shown]
    words = LabelWords.of({info.key: [row["text"] for row in shown[info.key]] for info in targets})
    texts = [row["text"] for row in ask("SELECT DISTINCT text FROM labels WHERE text IS NOT NULL").rows()]
    spellings = [text for text in texts if normal(text) == normal(clean)]
    vector = _vector(space, list(dict.fromkeys([clean, *spellings])), notes)
    says, ranks = words.says(clean), _candidates(ask, spellings)
    others = np.zeros((0, space.source.width), np.float32)
    if vector is not None:
        others = sampled_embeddings(store, space.source, space.template_set, WORDS)
    layers = []
    for info in targets:
        one = _evidence(store, info, shown[info.key], words.of_layer(info.key, says), ranks.get(info.key, []))
        if vector is not None:
            one = _with_vectors(space, info, one, vector, others)
        classes = known_classes(store, class_sets(store, info.key), clean)
        layers.append(replace(one, classes=classes))
    also, by = near_words(words, clean, vector, _label_vectors(space, words))
    found = find_neurons(layers, most)
    known = tuple(one for layer in layers for one in layer.classes)
    uncompared = uncompared_values(store, clean, known, notes)
    return Concept(
        clean, found, also, by, known, tuple(notes), uncompared, _pictures(store, targets, set(found.every()))
    )


def _vector(space: TextSpace, spellings: Sequence[str], notes: list[str]) -> np.ndarray | None:
    """Return the unit vector [D] of a word, as stored in one of its spellings, else by the encoder."""
    stored = stored_embeddings(space.store, space.source, space.template_set, spellings)
    vector = next((stored[text] for text in spellings if text in stored), None)
    if vector is None:
        try:
            vector = embed_text(space, spellings[0])
        except (LabelError, ModelError) as exc:
            notes.append(f"concept vectors were not compared: {exc}")
            return None
    unit: np.ndarray = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


def _candidates(ask: Ask, spellings: Sequence[str]) -> dict[LayerKey, list[dict[str, Any]]]:
    """Return the rows of the word among the candidates behind the labels shown, by layer, the best of a neuron last."""
    found: dict[LayerKey, list[dict[str, Any]]] = defaultdict(list)
    if spellings:
        rows = ask(
            "SELECT model, layer, neuron, rank, score FROM labels SEMI JOIN neuron_labels "
            f"USING (model, layer, neuron, run_id) WHERE rank >= 0 AND text IN ({','.join(map(sql_text, spellings))}) "
            "ORDER BY rank DESC"
        ).rows()
        for row in rows:
            found[LayerKey(row["model"], row["layer"])].append(row)
    return found


def _evidence(
    store: Store, info: LayerInfo, shown: list[dict[str, Any]], says: np.ndarray, candidates: list[dict[str, Any]]
) -> LayerEvidence:
    ranks, scores = np.full(info.neurons, -1, np.int32), np.full(info.neurons, np.nan)
    for row in candidates:
        ranks[row["neuron"]] = row["rank"]
        scores[row["neuron"]] = np.nan if row["score"] is None else row["score"]
    readers = np.array([row["method"] == PINNED for row in shown])
    uncertain = np.array([bool(row["uncertain"]) for row in shown])
    runs = [row["run_id"] for row in shown]
    for (run, neuron), rank in read_ranks(store, info.key).items():
        if runs[neuron] == run and not rank.passes and not readers[neuron]:
            uncertain[neuron] = True
    labels = np.array([row["text"] for row in shown], object)
    return LayerEvidence(info.key, labels, says, readers, uncertain, ranks, scores, None)


def _with_vectors(
    space: TextSpace, info: LayerInfo, one: LayerEvidence, vector: np.ndarray, others: np.ndarray
) -> LayerEvidence:
    vectors = layer_vectors(space.store, space.source, info).vectors
    alive = catalog.fires(catalog.neuron_rows(space.store, info))
    return replace(one, cosines=word_cosines(vectors, alive, vector), lead=chance_lead(vectors[alive], others))


def _label_vectors(space: TextSpace, words: LabelWords) -> np.ndarray:
    """Return the unit embeddings [W, D] of labels, zero where none is stored."""
    stored = stored_embeddings(space.store, space.source, space.template_set, words.spellings)
    vectors = words.stacked(stored, space.source.width)
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def _pictures(store: Store, targets: Sequence[LayerInfo], neurons: set[NeuronKey]) -> dict[NeuronKey, bytes]:
    """Return the strongest image of each neuron that has one with a picture."""
    first: dict[NeuronKey, int] = {}
    for info in targets:
        numbers = sorted(one.neuron for one in neurons if one.layer_key == info.key)
        if numbers:
            rows = catalog.neuron_rows(store, info, numbers)
            top = zip(rows["neuron"].to_pylist(), rows["top_images"].to_pylist(), rows["max"].to_pylist(), strict=True)
            first |= {
                NeuronKey(info.key.model, info.key.layer, number): ids[0]
                for number, ids, most in top
                if ids and most > 0
            }
    pictures = StoredPictures(store)(first.values())
    return {key: pictures[image] for key, image in first.items() if pictures.get(image)}
