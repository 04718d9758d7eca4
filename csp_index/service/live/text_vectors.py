"""Texts as embeddings for the live service: vocabularies that the index holds, and the candidates of a query."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np
import torch

from csp_index.errors import CspIndexError, LabelError, SettingError
from csp_index.labelling.candidates import CandidateTexts, vocabulary_texts
from csp_index.labelling.search import stored_embeddings
from csp_index.labelling.texts.candidate_names import TextSpace, chosen_templates, last_vocabulary, template_key
from csp_index.labelling.vocabularies import Vocabulary, make_vocabulary
from csp_index.lru_cache import LRUCache
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.prompt_templates import TEMPLATE_SETS, templates
from csp_index.store import column_tables, schema
from csp_index.store.catalog import EncoderInfo, sql_text
from csp_index.store.tables import Store

_TEXTS = 2048  # candidates of queries whose embeddings are cached


class TextVectors:
    """Embeddings of the vocabulary that the index used last, of a run's, or of a query's own candidates."""

    def __init__(
        self, store: Store, source: EncoderInfo, load: Callable[[], LoadedEncoder], arrays: CandidateTexts | None = None
    ) -> None:
        """Read from the store; `load` returns the encoder. `arrays` stand in for the index's vocabulary."""
        self._store, self._source, self._load, self._arrays = store, source, load, arrays
        self._vocabulary = LRUCache(2)
        self._loose = LRUCache(_TEXTS)
        self._encoding = threading.Lock()  # tokenizers are not made for several threads

    @cached_property
    def _templates(self) -> str:
        try:
            return chosen_templates(self._store)
        except SettingError as exc:
            raise LabelError(str(exc)) from exc

    def vocabulary(self) -> CandidateTexts:
        """Return the vocabulary that was used last. Raises LabelError where the index holds no embeddings of one."""
        return self._arrays or self._vocabulary.get("texts", self._read_vocabulary)

    def of_run(self, candidates: str) -> CandidateTexts:
        """Return the vocabulary that a run's settings name. Raises LabelError where the index does not hold it."""
        if self._arrays is not None:
            return self._arrays
        head = candidates.partition(" + ")[0]  # the rest names candidates of models
        return self._vocabulary.get(head, lambda: self._read_of_run(head))

    def _read_of_run(self, head: str) -> CandidateTexts:
        vocabulary, _, set_key = head.rpartition(" ")
        named = set_key.rpartition("@")[0]
        known = [*([named] if named in TEMPLATE_SETS else []), self._templates]
        sets = [name for name in known if template_key(name) == set_key]
        where = f"vocabulary = {sql_text(vocabulary)} AND template_set = {sql_text(set_key)} AND text != ''"
        rows = (
            self._store.read(column_tables.texts_table(self._source.name), ["position", "text"], where)
            if sets
            else None
        )
        if rows is None or rows.num_rows == 0:
            raise LabelError("the candidates of that label run are not in the index any more: name candidates")
        texts = tuple(rows.sort_by("position")["text"].to_pylist())
        space = TextSpace(self._store, self._source, sets[0], self._refuse, keep=False)
        return vocabulary_texts(space, Vocabulary(vocabulary.rpartition("@")[0], texts))

    def own(self, texts: Sequence[str]) -> CandidateTexts:
        """Return a query's texts as candidates, equal ones once: from the vocabulary, or by the encoder.

        Raises LabelError for a text without a visible character, and for a new text where the encoder is not available.
        """
        candidates = make_vocabulary("candidates", list(texts))
        known, places = self._places()
        new = [text for text in candidates.texts if text not in places]
        try:
            encoded = self._encoded(new)
        except CspIndexError as exc:
            raise LabelError(
                f"the candidate {new[0]!r} is not in the vocabulary, and the encoder that could embed it is not at "
                f"hand: choose texts of the vocabulary ({exc})"
            ) from exc
        rows = [encoded[text] if text in encoded else known[places[text]] for text in candidates.texts]
        return CandidateTexts(candidates.texts, torch.stack(rows), candidates.key)

    def embed(self, text: str) -> torch.Tensor:
        """Return the embedding [D] of a text, the mean over the templates; raises the errors of the encoder.

        A text of the vocabulary needs no encoder.
        """
        vectors, places = self._places()
        return vectors[places[text]] if text in places else self._encoded([text])[text]

    def stored(self, texts: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the embeddings [D] of those texts that are at hand without the encoder.

        They are of the vocabulary, were asked for before, or are stored in the index.
        """
        known, places = self._places()
        vectors = {text: known[places[text]] for text in texts if text in places}
        vectors |= {text: vector for text in texts if (vector := self._loose.find(text)) is not None}
        rest = [text for text in texts if text not in vectors]
        if rest and self._arrays is None:
            found = stored_embeddings(self._store, self._source, self._templates, rest)
            vectors |= {text: torch.from_numpy(vector) for text, vector in found.items()}
        return vectors

    def sample(self, most: int) -> torch.Tensor:
        """Return embeddings [S, D] of some texts of the vocabulary, which the seed 0 draws; none without one."""
        vectors = self._places()[0]
        chosen = np.random.default_rng(0).permutation(len(vectors))[:most]
        return vectors[torch.from_numpy(chosen)]

    def _read_vocabulary(self) -> CandidateTexts:
        if self._store.count(schema.VOCABULARIES) == 0:
            raise LabelError(
                "the index holds no vocabulary to label with: name candidates, or run `csp-index label` first"
            )
        space = TextSpace(self._store, self._source, self._templates, self._refuse, keep=False)
        texts = vocabulary_texts(space, last_vocabulary(self._store))
        _ = texts.directions  # cached from now on
        return texts

    def _refuse(self) -> LoadedEncoder:
        raise LabelError(
            f"the vocabulary used last has no embeddings of {self._source.name} in the index: "
            "name candidates, or run `csp-index label` first"
        )

    def _places(self) -> tuple[torch.Tensor, dict[str, int]]:
        """Return the embeddings of the vocabulary, if there is one, and the place of each text."""
        try:
            texts = self.vocabulary()
        except LabelError:
            return torch.zeros(0, self._source.width), {}
        return texts.embeddings, self._vocabulary.get("places", lambda: {t: i for i, t in enumerate(texts.texts)})

    def _encoded(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """Return the embedding [D] of every text by the encoder; recent ones come from the cache."""
        cached = ((text, self._loose.find(text)) for text in texts)
        vectors = {text: vector for text, vector in cached if vector is not None}
        new = [text for text in texts if text not in vectors]
        if new:
            encoder = self._load()
            with self._encoding:
                vectors |= zip(new, encoder.embed_texts(new, templates(self._templates)), strict=True)
                for text in new:
                    self._loose.put(text, vectors[text].clone())
        return vectors
