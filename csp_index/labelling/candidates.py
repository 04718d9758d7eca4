"""Candidate labels with their text embeddings, stored so that an encoder reads each text once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import read_bytes, user_path
from csp_index.labelling.texts.candidate_names import (
    TextArrays,
    TextSpace,
    keep_vocabulary,
    template_key,
    texts_key,
)
from csp_index.labelling.vocabularies import Vocabulary, digest
from csp_index.models.prompt_templates import templates
from csp_index.settings import MAX_IMAGE_BYTES
from csp_index.store import column_tables
from csp_index.store.catalog import EncoderInfo, sql_text
from csp_index.store.tables import Store
from csp_index.tensors.library import torch

if TYPE_CHECKING:
    from csp_index.models.encoders import LoadedEncoder

_PROPOSED = "proposed"  # the name of vocabularies of texts that models proposed


@dataclass(frozen=True, slots=True)
class Ownership:
    """The neurons of each candidate: all for the first `shared`, for the others the neurons they are paired with.

    `neurons` [P] are numbers of neurons, `places` [P] places among the candidates; a pair may name a shared candidate.
    """

    shared: int
    neurons: torch.Tensor
    places: torch.Tensor

    def mask(self, scores: torch.Tensor, neurons: torch.Tensor) -> torch.Tensor:
        """Return the scores [M, C] of `neurons` [M] (sorted), in place, with -inf for candidates of others."""
        row = torch.searchsorted(neurons, self.neurons).clamp(max=len(neurons) - 1)
        own = (neurons[row] == self.neurons) & (self.places >= self.shared)
        barred = torch.ones(len(neurons), scores.shape[1] - self.shared, dtype=torch.bool)
        barred[row[own], self.places[own] - self.shared] = False
        scores = scores.contiguous()
        scores[:, self.shared :].masked_fill_(barred, -torch.inf)
        return scores

    def named(self, neurons: torch.Tensor, beyond: int = 0) -> torch.Tensor:
        """Return how many candidates from the place `beyond` on are paired with each of `neurons` [M] (sorted)."""
        row = torch.searchsorted(neurons, self.neurons).clamp(max=len(neurons) - 1)
        own = (neurons[row] == self.neurons) & (self.places >= beyond)
        return torch.bincount(row[own], minlength=len(neurons))

    def available(self, neurons: torch.Tensor) -> torch.Tensor:
        """Return how many candidates each of `neurons` [M] (sorted) has, including the shared ones."""
        return self.shared + self.named(neurons, self.shared)


@dataclass(frozen=True)
class CandidateTexts:
    """Candidate labels with their embeddings [C, D] from the encoder (or an array), not renormalized.

    `key` names content and templates; labels made from equal keys are comparable. `empty` [D] is the empty template's
    embedding. `own` says which neurons each candidate belongs to; None means to all.
    """

    texts: tuple[str, ...]
    embeddings: torch.Tensor
    key: str
    empty: torch.Tensor | None = None
    own: Ownership | None = None

    @cached_property
    def directions(self) -> torch.Tensor:
        """The embeddings [C, D] at unit length, laid out column by column.

        With this layout the product of one vector with all labels takes a third of the time.
        """
        return torch.nn.functional.normalize(self.embeddings, dim=1).T.contiguous().T


def read_text_arrays(embeddings: str | Path, texts: str | Path) -> CandidateTexts:
    """Return candidate labels made elsewhere: embeddings [C, D] in a .npy file, and a text file with a line per row."""
    return texts_of_arrays(TextArrays.read(embeddings, texts))


def texts_of_arrays(arrays: TextArrays) -> CandidateTexts:
    """Return candidate labels made elsewhere as tensors."""
    return CandidateTexts(arrays.texts, torch.from_numpy(arrays.embeddings), arrays.key)


def vocabulary_texts(space: TextSpace, vocabulary: Vocabulary) -> CandidateTexts:
    """Return the vocabulary's labels with their embeddings; if stored, it becomes the one the index used last."""
    texts = embed_vocabulary(space.store, space.source, vocabulary, space.template_set, space.load, keep=space.keep)
    if space.keep:
        keep_vocabulary(space.store, vocabulary, space.template_set)
    return texts


def embed_vocabulary(
    store: Store,
    source: EncoderInfo,
    vocabulary: Vocabulary,
    template_set: str,
    load: Callable[[], LoadedEncoder],
    *,
    keep: bool = True,
) -> CandidateTexts:
    """Return the vocabulary's embeddings from the index; the encoder is loaded only if they are not stored yet.

    With `keep` new embeddings are stored, which needs the write lock (the caller holds it).
    """
    prompts = templates(template_set)
    set_key = template_key(template_set)
    table = column_tables.texts_table(source.name)
    where = f"vocabulary = {sql_text(vocabulary.key)} AND template_set = {sql_text(set_key)}"
    key = texts_key(vocabulary, template_set)
    count = len(vocabulary.texts) + 1  # the last row is the empty template's
    if store.count(table, where) == count:
        rows = store.read(table, ["position", "embedding"], where).sort_by("position")
        flat = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = torch.from_numpy(flat.reshape(count, source.width).copy())
        return CandidateTexts(vocabulary.texts, vectors[:-1], key, vectors[-1])
    texts = [*vocabulary.texts, ""]
    vectors = load().embed_texts(texts, prompts)
    if keep:
        store.delete(table, where)
        _keep_texts(store, source, vocabulary.key, set_key, texts, vectors)
    return CandidateTexts(vocabulary.texts, vectors[:-1], key, vectors[-1])


def embed_proposed(space: TextSpace, texts: Sequence[str]) -> torch.Tensor:
    """Return the embeddings [T, D] of different texts outside any vocabulary; the empty text is the empty template.

    The encoder is loaded only for texts that no earlier call stored; with `keep`, new ones become another vocabulary.
    """
    store, source = space.store, space.source
    set_key = template_key(space.template_set)
    table = column_tables.texts_table(source.name)
    places = {text: place for place, text in enumerate(texts)}
    vectors = torch.zeros(len(places), source.width)
    cached = np.zeros(len(places), dtype=bool)
    if places and store.has(table):
        where = f"template_set = {sql_text(set_key)} AND vocabulary LIKE '{_PROPOSED}@%'"
        names = pa.array(list(places), pa.string())
        for batch in store.scan(table, ["text", "embedding"], where=where):
            place = pc.index_in(batch["text"], names)
            known = pc.is_valid(place)
            rows = place.filter(known).to_numpy(zero_copy_only=False).astype(np.int64)
            flat = batch["embedding"].filter(known).flatten().to_numpy(zero_copy_only=False)
            vectors[rows] = torch.from_numpy(flat.reshape(-1, source.width).copy())
            cached[rows] = True
    missing = [text for text, place in places.items() if not cached[place]]
    if missing:
        made = space.load().embed_texts(missing, templates(space.template_set))
        vectors[[places[text] for text in missing]] = made
        if space.keep:
            _keep_texts(store, source, f"{_PROPOSED}@{digest(missing)}", set_key, missing, made)
    return vectors


def _keep_texts(
    store: Store, source: EncoderInfo, key: str, set_key: str, texts: Sequence[str], vectors: torch.Tensor
) -> None:
    """Append texts with their embeddings [T, D] as the vocabulary `key`."""
    columns = {
        "vocabulary": pa.array([key] * len(texts)),
        "template_set": pa.array([set_key] * len(texts)),
        "position": pa.array(range(len(texts)), pa.int32()),
        "text": pa.array(texts),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1).numpy()), source.width),
    }
    store.append(
        column_tables.texts_table(source.name), pa.table(columns, schema=column_tables.texts_schema(source.width))
    )
    store.checkpoint()


def embed_picture(encoder: LoadedEncoder, path: str | Path) -> torch.Tensor:
    """Return the embedding [D] of a picture file."""
    from csp_index.images.decode import decode  # Pillow, which texts do not need

    try:
        data = read_bytes(user_path(path), MAX_IMAGE_BYTES)
    except OSError as exc:
        raise SourceError(f"the picture {path} cannot be read: {one_line(exc)}") from exc
    try:
        image = decode(data)
    except SourceError as exc:
        raise SourceError(f"the picture {path} cannot be read: {exc}") from exc
    return encoder.embed_images(encoder.preprocess(image)[None])[0]
