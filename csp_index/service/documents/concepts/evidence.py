"""What the layers of an index have to say of a word, from what the service holds of them; loads no torch.

The parts that do not depend on the word are made once per version of the index, and of what readers say.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from csp_index.errors import LabelError, NotFoundError
from csp_index.labelling.review.words import PINNED
from csp_index.records import LayerKey
from csp_index.service.documents.image import finished, has_vectors
from csp_index.service.documents.search import compared_layers
from csp_index.service.documents.studies.classes import stored_sets
from csp_index.service.layer_table import LayerTable, MethodLabels
from csp_index.service.snapshot import Snapshot
from csp_index.studies.concepts.chance import WORDS, chance_lead, word_cosines
from csp_index.studies.concepts.concept import LayerEvidence
from csp_index.studies.concepts.known_classes import KnownClass, known_classes
from csp_index.studies.concepts.words import LabelWords, normal

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

_WHOLE: Final = 4  # label vectors take at most this fraction of the memory for caches, 1 / 4


@dataclass(frozen=True, slots=True)
class CandidateWords:
    """The stored candidates behind a layer's labels: the R rows of `MethodLabels`, found by the normal form of a word.

    `codes` are those of each normal form among the distinct texts, `rows` [R] the code of each row.
    """

    codes: Mapping[str, Sequence[int]]
    rows: np.ndarray

    @classmethod
    def of(cls, labels: MethodLabels) -> CandidateWords:
        """Return the candidates of a layer's labels."""
        codes: dict[str, list[int]] = defaultdict(list)
        for code, text in enumerate(labels.candidates.dictionary.to_pylist()):
            codes[normal(text or "")].append(code)
        return cls(dict(codes), labels.candidates.indices.fill_null(-1).to_numpy().astype(np.int32))

    @property
    def nbytes(self) -> int:
        """About how much memory this takes."""
        return self.rows.nbytes + 300 * len(self.codes)

    def ranks(self, labels: MethodLabels, word: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the word's place among each neuron's candidates [M] (-1: none) and its score there (NaN)."""
        neurons = len(labels.states)
        ranks, scores = np.full(neurons, -1, np.int32), np.full(neurons, np.nan)
        codes = self.codes.get(normal(word), ())
        if codes:
            rows = np.flatnonzero(np.isin(self.rows, codes))[::-1]  # the first of a neuron's rows comes last, and stays
            owners = np.searchsorted(labels.offsets, rows, side="right") - 1
            ranks[owners] = rows - labels.offsets[owners]
            scores[owners] = labels.values[rows, 0]
        return ranks, scores


def label_words(snapshot: Snapshot) -> LabelWords:
    """Return the distinct labels of all finished layers, names that readers gave included."""
    tables = list(finished(snapshot))

    def read() -> LabelWords:
        return LabelWords.of({table.info.key: _texts(table) for table in tables})

    return snapshot.cache.get("label words", read, lambda words: words.nbytes, state=_state(snapshot))


def label_vectors(snapshot: Snapshot, engine: Engine, words: LabelWords) -> np.ndarray:
    """Return the unit embeddings [W, D] of labels, zero where none is stored; all are zero where they are large."""
    width = snapshot.encoder.width if snapshot.encoders else 0
    if not has_vectors(snapshot, engine) or 4 * width * len(words.normals) * _WHOLE > snapshot.cache.limit:
        return words.stacked({}, width)

    def read() -> np.ndarray:
        try:
            stored = engine.models().stored_texts(words.spellings)
        except LabelError:  # the index names a file of templates, which is not opened
            stored = {}
        return words.stacked(stored, width)

    return snapshot.cache.get("label vectors", read, lambda vectors: vectors.nbytes, state=_state(snapshot))


def word_spellings(snapshot: Snapshot, words: LabelWords, word: str) -> list[str]:
    """Return a word as it was written, and as labels and stored candidates spell it: one of them may be embedded."""
    wanted = normal(word)
    spellings = [word, words.spelling(word) or word]
    for table in finished(snapshot):
        if (labels := table.labels()) is not None:
            texts = labels.candidates.dictionary
            spellings += [texts[code].as_py() for code in _candidates(snapshot, table, labels).codes.get(wanted, ())]
    return list(dict.fromkeys(spellings))


def layer_evidence(
    snapshot: Snapshot, engine: Engine, words: LabelWords, word: str, vector: np.ndarray | None, notes: list[str]
) -> list[LayerEvidence]:
    """Return what each finished layer has to say of a word, whose embedding is `vector` [D]; it adds notes."""
    says = words.says(word)
    compared: set[LayerKey] = set()
    if vector is not None:
        compared = {table.info.key for table in compared_layers(snapshot, None, notes)}
    layers = []
    for table in finished(snapshot):
        key, labels = table.info.key, table.labels()
        neurons, nothing = table.info.neurons, np.full(table.info.neurons, -1, np.int32)
        cosines = _cosines(engine, table, vector, notes) if vector is not None and key in compared else None
        lead = None if cosines is None else _lead(snapshot, engine, key)
        ranks, scores = nothing, np.full(neurons, np.nan)
        if labels is not None:
            ranks, scores = _candidates(snapshot, table, labels).ranks(labels, word)
        layers.append(
            LayerEvidence(
                key,
                np.full(neurons, None, object) if labels is None else labels.texts,
                words.of_layer(key, says),
                np.zeros(neurons, bool) if labels is None else labels.methods == PINNED,
                np.zeros(neurons, bool) if labels is None else labels.uncertain > 0,
                ranks,
                scores,
                cosines,
                lead,
                _classes(snapshot, key, word),
            )
        )
    return layers


def _state(snapshot: Snapshot) -> tuple[str, ...]:
    """Return what labels depend on besides the version: the names that readers gave."""
    return tuple(snapshot.reviews.pins(info)[0] for info in snapshot.layers())


def _texts(table: LayerTable) -> list[str | None]:
    labels = table.labels()
    return [None] * table.info.neurons if labels is None else labels.texts.tolist()


def _candidates(snapshot: Snapshot, table: LayerTable, labels: MethodLabels) -> CandidateWords:
    made = ("candidate words", table.info.key)
    return snapshot.cache.get(made, lambda: CandidateWords.of(labels), lambda one: one.nbytes)


def _cosines(engine: Engine, table: LayerTable, vector: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """Return the cosine of each neuron's concept vector with a vector [D]: [M], NaN for neurons without one."""
    try:
        concepts = engine.concepts(table.info.key)
    except (LabelError, NotFoundError) as exc:
        notes.append(f"layer {table.info.key} was left out: {exc}")
        return None
    return word_cosines(concepts.vectors, concepts.alive & ~table.dead, vector)


def _lead(snapshot: Snapshot, engine: Engine, key: LayerKey) -> float | None:
    """Return by how much the nearest neuron of a layer leads for chance words; None without a vocabulary."""

    def read() -> float | None:
        concepts = engine.concepts(key)
        return chance_lead(concepts.vectors[concepts.alive], engine.models().sample_texts(WORDS))

    return snapshot.cache.get(("chance lead", key), read, lambda value: 64)


def _classes(snapshot: Snapshot, key: LayerKey, word: str) -> list[KnownClass]:
    return snapshot.cache.get(
        ("known classes", key, normal(word)),
        lambda: known_classes(snapshot.store, stored_sets(snapshot, key), word),
        lambda known: 200 + sum(one.auroc.nbytes for one in known),
    )
