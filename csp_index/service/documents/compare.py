"""Two to four neurons side by side: the document of each, the labels they share, how similar they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from csp_index.errors import SettingError
from csp_index.records import NeuronKey
from csp_index.service.documents.image import has_vectors
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.documents.neuron_shapes import ComparedNeuron, CompareDocument, NeuronDocument
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

NEURONS: Final = (2, 4)
"""The fewest and the most neurons that can be compared."""
_NOTHING: Final = 1e-6  # a score nearer to 0 is 0: consensus cuts its factors at 1e-9, so that ties have an order


def compare_document(
    snapshot: Snapshot, engine: Engine, keys: Sequence[NeuronKey], method: str | None = None
) -> CompareDocument:
    """Return the document of a comparison.

    `shared` are the texts among the kept labels of all neurons, `own` those of one neuron alone, both in the order of
    scores; labels of score 0 count for neither, because nothing supports them. A name that a reader gave has no score.
    `similarity` is the cosine of each two concept vectors, None where a neuron has none. Raises SettingError unless
    `keys` are two to four different neurons.
    """
    least, most = NEURONS
    if not least <= len(keys) <= most or len(set(keys)) < len(keys):
        named = ", ".join(map(str, keys[: most + 1])) or "none"
        raise SettingError(f"a comparison of {named}: expected {least} to {most} different neurons")
    for key in keys:
        snapshot.neuron(key)  # all of them exist before one is described
    documents = [neuron_document(snapshot, engine, key, method) for key in keys]
    texts = [
        [label["text"] for label in document["labels"] if label["score"] is None or abs(label["score"]) > _NOTHING]
        for document in documents
    ]
    return {
        "neurons": list(map(_without_queries, documents)),
        "shared": [text for text in texts[0] if all(text in others for others in texts[1:])],
        "own": {
            str(key): [text for text in texts[at] if not any(text in other for other in texts[:at] + texts[at + 1 :])]
            for at, key in enumerate(keys)
        },
        "similarity": _similarity(snapshot, engine, keys),
    }


def _without_queries(document: NeuronDocument) -> ComparedNeuron:
    return cast(ComparedNeuron, {name: value for name, value in document.items() if name != "queries"})


def _similarity(snapshot: Snapshot, engine: Engine, keys: Sequence[NeuronKey]) -> list[list[float | None]]:
    if not has_vectors(snapshot, engine):
        return [[None] * len(keys) for _ in keys]
    layers = [engine.concepts(key.layer_key) for key in keys]
    vectors = np.stack([concepts.vectors[key.neuron] for concepts, key in zip(layers, keys, strict=True)])
    live = [bool(c.alive[key.neuron]) and bool(v.any()) for c, key, v in zip(layers, keys, vectors, strict=True)]
    cosines = np.clip(vectors @ vectors.T, -1, 1).tolist()
    size = range(len(keys))
    return [[cosines[a][b] if live[a] and live[b] else None for b in size] for a in size]
