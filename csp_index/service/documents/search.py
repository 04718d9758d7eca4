"""Search for neurons by a text, a picture, an indexed image or a neuron: by meaning, by activation, by label.

Meaning is the cosine of a neuron's concept vector with the vector of the query. The note says which parts of the answer
are missing, and why.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from heapq import nsmallest
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from PIL import Image

from csp_index.errors import LabelError, ModelError, NotFoundError, SettingError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.excited import rows_of_picture
from csp_index.service.documents.image import check_image, excited_by, finished, has_vectors, image_vector, near_images
from csp_index.service.documents.layer import named
from csp_index.service.documents.shapes import (
    ExcitedRow,
    ImageRow,
    NeuronRow,
    SearchDocument,
    SearchKind,
    SearchTerms,
    SimilarRow,
)
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot

if TYPE_CHECKING:
    from csp_index.service.live.engine import Engine

SEARCHED: Final = 12
"""Results of each kind by default."""
_LONGEST: Final = 300  # characters of a text


@dataclass(frozen=True, slots=True)
class SearchQuery:
    """A text, an indexed image, a neuron or a picture, and how many results of each kind to return."""

    text: str | None = None
    image_id: int | None = None
    neuron: NeuronKey | None = None
    upload: Image.Image | None = None
    limit: int = SEARCHED

    def __post_init__(self) -> None:
        names = [name for name in ("text", "image_id", "neuron", "upload") if getattr(self, name) is not None]
        if len(names) != 1:
            raise SettingError(
                f"a search by {' and '.join(names) or 'nothing'}: give one text, image, neuron or picture"
            )
        if self.text is not None and not 1 <= len(self.text.strip()) <= _LONGEST:
            raise SettingError(f"the text has {len(self.text.strip())} characters: expected 1 to {_LONGEST}")
        if self.limit < 1:
            raise SettingError(f"limit is {self.limit}: expected at least 1")

    @property
    def kind(self) -> SearchKind:
        """What is searched by."""
        if self.text is not None:
            return "text"
        if self.image_id is not None:
            return "image"
        return "upload" if self.neuron is None else "neuron"

    def terms(self) -> SearchTerms:
        """Return the query as documents have it."""
        neuron = None if self.neuron is None else str(self.neuron)
        return {"kind": self.kind, "text": self.text, "image_id": self.image_id, "neuron": neuron}


def search_document(snapshot: Snapshot, engine: Engine, query: SearchQuery) -> SearchDocument:
    """Return the results of a search: neurons by meaning, activation and label, and images; the best first in each."""
    notes: list[str] = []
    vector = _vector(snapshot, engine, query, notes)
    return {
        "query": query.terms(),
        "means": [] if vector is None else _meaning(snapshot, engine, query, vector, notes),
        "excites": _excites(snapshot, engine, query, notes),
        "by_name": _named(snapshot, query),
        "images": [] if vector is None else _images(engine, query, vector),
        "note": "; ".join(notes),
    }


def names_document(snapshot: Snapshot, query: SearchQuery) -> SearchDocument:
    """Return what a search by text finds without an encoder: the neurons whose label has these letters."""
    named = _named(snapshot, query)
    return {"query": query.terms(), "means": [], "excites": None, "by_name": named, "images": [], "note": ""}


def _vector(snapshot: Snapshot, engine: Engine, query: SearchQuery, notes: list[str]) -> np.ndarray | None:
    """Return the query as a unit vector [D]; without one return None, and add a note that says why."""
    if query.neuron is not None:
        return _of_neuron(snapshot, engine, query.neuron, notes)
    if query.image_id is not None:
        check_image(snapshot, query.image_id)
    try:
        if query.image_id is not None:
            vector = image_vector(snapshot, engine, query.image_id)
            reason = f"image {query.image_id} has no embedding in the index"
        elif not has_vectors(snapshot, engine):
            vector, reason = None, "the index has no embeddings, or they could not be loaded"
        elif query.text is not None:
            vector, reason = _of_text(engine, query.text.strip()), ""
        else:
            engine.wait_for_encoder()
            vector, reason = engine.models().embed_image(cast(Image.Image, query.upload)), ""
    except ModelError as exc:
        vector, reason = None, str(exc)
    if vector is None:
        notes.append(f"{'meanings were not searched' if query.text is None else 'only names were searched'}: {reason}")
    return vector


def _of_text(engine: Engine, text: str) -> np.ndarray:
    """Return the vector of a text, which waits for the encoder unless the vector is at hand."""
    models = engine.models()
    with suppress(LabelError):  # the index names a file of templates, which is not opened
        if text in (stored := models.stored_texts([text])):
            return stored[text]
    engine.wait_for_encoder()
    return models.embed_text(text)


def _of_neuron(snapshot: Snapshot, engine: Engine, key: NeuronKey, notes: list[str]) -> np.ndarray | None:
    snapshot.neuron(key)
    concepts = engine.concepts(key.layer_key) if has_vectors(snapshot, engine) else None
    if concepts is not None and concepts.alive[key.neuron] and concepts.vectors[key.neuron].any():
        vector: np.ndarray = concepts.vectors[key.neuron]
        return vector
    notes.append(f"{key} has no meaning to compare with: it never fires, or no image contrasts with it")
    return None


def _meaning(
    snapshot: Snapshot, engine: Engine, query: SearchQuery, vector: np.ndarray, notes: list[str]
) -> list[SimilarRow]:
    """Return the neurons of all layers whose concept vectors are most similar to a vector [D]."""
    nearest: list[tuple[float, int, int, LayerTable]] = []
    own = None if query.neuron is None else query.neuron.layer_key
    for place, table in enumerate(compared_layers(snapshot, own, notes)):
        try:
            concepts = engine.concepts(table.info.key)
        except (LabelError, NotFoundError) as exc:
            notes.append(f"layer {table.info.key} was left out: {exc}")
            continue
        cosines = np.einsum("md,d->m", concepts.vectors, vector)  # in this thread alone, unlike BLAS: see `facets`
        live = concepts.alive & ~table.dead & (cosines != 0)  # a neuron without a vector has cosine 0
        if query.neuron is not None and own == table.info.key:
            live[query.neuron.neuron] = False
        neurons = np.flatnonzero(live)
        best = neurons[np.argsort(-cosines[neurons], kind="stable")[: query.limit]]
        nearest += [(-float(cosines[neuron]), place, neuron, table) for neuron in best.tolist()]
    nearest.sort(key=lambda entry: entry[:3])
    return [
        {**table.row(neuron), "similarity": min(1.0, -cosine)} for cosine, _, neuron, table in nearest[: query.limit]
    ]


def compared_layers(snapshot: Snapshot, first: LayerKey | None, notes: list[str]) -> list[LayerTable]:
    """Return the layers whose concept vectors fit into memory together: at least one, `first` before the others.

    With more layers the engine would compute vectors again in each search.
    """
    left = snapshot.cache.limit // (2 * 4 * snapshot.encoder.width)
    compared: list[LayerTable] = []
    skipped = 0
    for table in sorted(finished(snapshot), key=lambda table: table.info.key != first):
        if compared and table.info.neurons > left:
            skipped += 1
            continue
        left -= table.info.neurons
        compared.append(table)
    if skipped:
        notes.append(
            f"{skipped} of {skipped + len(compared)} layers were not searched by meaning: raise serve_held_bytes"
        )
    return compared


def _excites(snapshot: Snapshot, engine: Engine, query: SearchQuery, notes: list[str]) -> list[ExcitedRow] | None:
    """Return the neurons that a picture or an indexed image excites, or None if that is unknown."""
    if query.image_id is not None:
        return excited_by(snapshot, query.image_id, query.limit)
    if query.upload is None:
        return None
    excited = engine.models().excited(query.upload, query.limit) if has_vectors(snapshot, engine) else None
    if excited is None:
        notes.append("which neurons the picture excites is not known: no network can be loaded here")
        return None
    return rows_of_picture(snapshot, excited)


def _named(snapshot: Snapshot, query: SearchQuery) -> list[NeuronRow]:
    """Return the neurons whose label contains the text, shorter labels first: the text is a larger part of them."""
    if query.text is None:
        return []
    matches: list[tuple[int, int, int, LayerTable]] = []
    for place, table in enumerate(finished(snapshot)):
        labels = table.labels()
        if labels is not None:
            hits = np.flatnonzero(named(labels, query.text)).tolist()
            matches += [(len(labels.texts[neuron]), place, neuron, table) for neuron in hits]
    best = nsmallest(query.limit, matches, key=lambda entry: entry[:3])
    return [table.row(neuron) for _, _, neuron, table in best]


def _images(engine: Engine, query: SearchQuery, vector: np.ndarray) -> list[ImageRow]:
    near = near_images(engine, vector, query.limit, query.image_id)
    return [{"image_id": image, "similarity": cosine} for image, cosine in near]
