"""The page of a word: which neurons of all layers answer to it, in three ways kept apart. Loads no torch.

A word whose embedding is stored needs no encoder; any other waits for it, or is shown without its meaning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from csp_index.errors import LabelError, ModelError
from csp_index.service.documents.concepts.concept_shapes import ConceptDocument, ConceptRow, WordsDocument
from csp_index.service.documents.concepts.evidence import (
    label_vectors,
    label_words,
    layer_evidence,
    word_spellings,
)
from csp_index.service.documents.image import has_vectors
from csp_index.service.documents.maps import placed_maps
from csp_index.service.snapshot import Snapshot
from csp_index.studies.concepts.concept import WAYS, ConceptNeuron, find_neurons
from csp_index.studies.concepts.metadata_words import uncompared_values
from csp_index.studies.concepts.near_words import near_words
from csp_index.studies.concepts.records import Concept, row_of
from csp_index.studies.concepts.words import checked_word

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

SHOWN: Final = 12
"""Neurons of each way by default."""
WORDS: Final = 60
"""Labels that the page without a word lists."""


def needs_encoder(snapshot: Snapshot, engine: Engine, word: str) -> bool:
    """Return whether a word's meaning is known only to the encoder. SettingError for what is no word."""
    return has_vectors(snapshot, engine) and _stored(snapshot, engine, checked_word(word)) is None


def concept_document(
    snapshot: Snapshot, engine: Engine, word: str, most: int = SHOWN, *, encode: bool = True
) -> ConceptDocument:
    """Return what the neurons of all layers have to do with a word, at most `most` neurons of each way.

    Without `encode` only a stored embedding gives the word's meaning. SettingError for what is no word.
    """
    clean, notes = checked_word(word), list[str]()
    words = label_words(snapshot)
    vector = _vector(snapshot, engine, clean, notes) if encode else _stored(snapshot, engine, clean)
    layers = layer_evidence(snapshot, engine, words, clean, vector, notes)
    also, by = near_words(words, clean, vector, label_vectors(snapshot, engine, words))
    classes = tuple(known for layer in layers for known in layer.classes)
    uncompared = uncompared_values(snapshot.store, clean, classes, notes)
    concept = Concept(clean, find_neurons(layers, most), also, by, classes, tuple(notes), uncompared)
    found, told = concept.found, concept.as_json()
    rows = {key: _row(snapshot, one) for key, one in found.every().items()}
    told |= {way: [rows[one.neuron] for one in getattr(found, way)] for way in WAYS}
    for group, one in zip(told["groups"], found.groups, strict=True):
        group["neurons"] = [rows[neuron.neuron] for neuron in one.neurons]
    return cast(ConceptDocument, told)


def words_document(snapshot: Snapshot) -> WordsDocument:
    """Return the labels that most neurons have."""
    words = label_words(snapshot)
    rows = zip(words.spellings[:WORDS], words.counts[:WORDS].tolist(), strict=True)
    return {"words": [{"text": text, "neurons": count} for text, count in rows], "total": len(words.normals)}


def _stored(snapshot: Snapshot, engine: Engine, word: str) -> np.ndarray | None:
    """Return the unit vector [D] of a word whose embedding is at hand, in any of its spellings; else None."""
    if not has_vectors(snapshot, engine):
        return None
    spellings = word_spellings(snapshot, label_words(snapshot), word)
    try:
        stored = engine.models().stored_texts(spellings)
    except LabelError:  # the index names a file of templates, which is not opened
        return None
    return next((stored[text] for text in spellings if text in stored), None)


def _vector(snapshot: Snapshot, engine: Engine, word: str, notes: list[str]) -> np.ndarray | None:
    """Return a word as a unit vector [D]; without one return None, and add a note that says why."""
    if not has_vectors(snapshot, engine):
        notes.append("concept vectors were not compared: the index has no embeddings, or they could not be loaded")
        return None
    vector = _stored(snapshot, engine, word)
    if vector is not None:
        return vector
    engine.wait_for_encoder()
    try:
        return engine.models().embed_text(word)
    except (LabelError, ModelError) as exc:
        notes.append(f"concept vectors were not compared: {exc}")
        return None


def _row(snapshot: Snapshot, one: ConceptNeuron) -> ConceptRow:
    values: dict[str, Any] = {**snapshot.neuron_row(one.neuron)}
    values |= {name: value for name, value in row_of(one).items() if name not in values}
    mapped = placed_maps(snapshot, one.neuron.layer_key).of(one.neuron.neuron, values["top_images"])
    return cast(ConceptRow, values | {"mapped": mapped})
