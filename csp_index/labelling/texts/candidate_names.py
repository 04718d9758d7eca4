"""Which candidates a question means: the key that names them, and a function that loads them; loads no torch.

A label that is stored is read by the key alone. `labelling.candidates` has the embeddings.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TypeAlias, Union

import numpy as np
import pyarrow as pa

from csp_index.errors import ArrayError, LabelError, SettingError, one_line
from csp_index.files.array_files import load_array
from csp_index.labelling.vocabularies import Vocabulary, digest, in_prose, load_vocabulary, make_vocabulary, text_lines
from csp_index.models.prompt_templates import as_stored, from_index, is_text, templates
from csp_index.store import schema
from csp_index.store.catalog import EncoderInfo, LayerInfo, sql_text
from csp_index.store.tables import Store

if TYPE_CHECKING:
    from csp_index.labelling.candidates import CandidateTexts
    from csp_index.models.encoders import LoadedEncoder


VOCABULARY = "vocabulary"
_ARRAYS: Final = "arrays"  # in keys, the name of texts that came with embeddings
_DIGEST: Final = re.compile("@[0-9a-f]{12}(?=[ -]|$)")
KINDS = ("vlm", "captioner", "neighbours")  # of what models and other neurons say
_FIRST = "imagenet1k"  # the vocabulary of an index that has used none


@dataclass(frozen=True, slots=True)
class Mix:
    """Which candidates are scored: the kinds, in the order of `vocabulary` and KINDS.

    `pooled`: what was named for one neuron is a candidate of all neurons of the layer.
    """

    kinds: tuple[str, ...] = (VOCABULARY,)
    pooled: bool = False

    @classmethod
    def parse(cls, kinds: str | Sequence[str], pooled: bool = False) -> Mix:
        """Return the mix that comma-separated kinds, or several, name.

        >>> Mix.parse("vlm, vocabulary").kinds
        ('vocabulary', 'vlm')
        """
        known = (VOCABULARY, *KINDS)
        named = [kind.strip() for kind in (kinds.split(",") if isinstance(kinds, str) else kinds)]
        strange = [kind for kind in named if kind not in known]
        if strange or not named:
            got = repr(strange[0]) if strange else "nothing"
            raise SettingError(f"candidates name {got}: expected one or several of {', '.join(known)}, with commas")
        mix = cls(tuple(kind for kind in known if kind in named), pooled)
        if pooled and not mix.proposed:
            raise SettingError("pooling applies to candidates of models: add a kind of them, for example vlm")
        return mix

    @property
    def with_vocabulary(self) -> bool:
        """Whether the vocabulary's labels are candidates."""
        return VOCABULARY in self.kinds

    @property
    def proposed(self) -> tuple[str, ...]:
        """The kinds of candidates that belong to single neurons."""
        return tuple(kind for kind in self.kinds if kind != VOCABULARY)


@dataclass(frozen=True, slots=True)
class TextArrays:
    """Candidate labels made elsewhere, as they are read: embeddings [C, D], and the key that names both."""

    texts: tuple[str, ...]
    embeddings: np.ndarray
    key: str

    @classmethod
    def read(cls, embeddings: str | Path, texts: str | Path) -> Self:
        """Return the embeddings [C, D] of a .npy file, and the lines of a text file, one per row.

        Errors: LabelError for the texts, ArrayError for the embeddings, or where the two do not match.
        """
        array = load_array(embeddings, "text embeddings")
        try:
            lines = tuple(text_lines(Path(texts)))
        except (OSError, UnicodeDecodeError) as exc:
            raise LabelError(f"texts {texts} cannot be read: {one_line(exc)}") from exc
        if not any(line.strip() for line in lines):
            raise LabelError(f"vocabulary {texts} is empty: expected one label a line")
        if len(lines) != len(array):
            raise ArrayError(
                f"texts have {len(lines)} lines and text embeddings {len(array)} rows: expected the same labels in both"
            )
        vectors = np.array(array, dtype=np.float32)
        if not vectors.any(1).all():
            raise ArrayError(
                f"text embeddings are all zero in row {int((~vectors.any(1)).argmax())}: a direction is needed"
            )
        content = hashlib.sha256(vectors.tobytes()).hexdigest()[:12]
        return cls(lines, vectors, f"{_ARRAYS}@{digest(lines)}-{content}")


Candidates: TypeAlias = Union[str, Path, Sequence[str], Vocabulary, TextArrays, "CandidateTexts"]
"""The forms a caller may pass."""


@dataclass(frozen=True, slots=True)
class TextSpace:
    """An encoder's space for texts under a template set; `load` returns the encoder, which only new texts need.

    With `keep` new embeddings are stored, which needs the write lock.
    """

    store: Store
    source: EncoderInfo
    template_set: str
    load: Callable[[], LoadedEncoder]
    keep: bool = True


def plain_candidates(space: TextSpace, candidates: Candidates | None) -> tuple[Callable[[], CandidateTexts], str]:
    """Return a function that loads the candidates of a vocabulary or of arrays, and the key that names them.

    None names the vocabulary the index used last.
    """
    if isinstance(candidates, TextArrays):
        return partial(_of_arrays, candidates), candidates.key
    if candidates is None or isinstance(candidates, str | Path | Vocabulary | list | tuple):
        vocabulary = named_vocabulary(space.store, candidates)
        return partial(_of_vocabulary, space, vocabulary), texts_key(vocabulary, space.template_set)
    from csp_index.labelling.candidates import CandidateTexts  # torch: who passes them has loaded it

    if isinstance(candidates, CandidateTexts):
        return partial(_same, candidates), candidates.key
    return plain_candidates(space, list(candidates))


def layer_candidates(
    space: TextSpace, target: LayerInfo, mix: Mix, candidates: Candidates | None
) -> tuple[Callable[[], CandidateTexts], str]:
    """Return the same for a layer some of whose candidates are of models: see `candidate_mix.mixed_candidates`."""
    from csp_index.labelling.texts.candidate_mix import mixed_candidates

    return mixed_candidates(space, target, mix, candidates)


def _of_vocabulary(space: TextSpace, vocabulary: Vocabulary) -> CandidateTexts:
    from csp_index.labelling.candidates import vocabulary_texts  # torch: a label that is read needs the key alone

    return vocabulary_texts(space, vocabulary)


def _of_arrays(arrays: TextArrays) -> CandidateTexts:
    from csp_index.labelling.candidates import texts_of_arrays

    return texts_of_arrays(arrays)


def _same(texts: CandidateTexts) -> CandidateTexts:
    return texts


def named_vocabulary(store: Store, vocabulary: str | Path | Sequence[str] | Vocabulary | None) -> Vocabulary:
    """Return the vocabulary for a name or a list of texts; for None the one used last."""
    if vocabulary is None:
        return last_vocabulary(store)
    if isinstance(vocabulary, Vocabulary):
        return vocabulary
    if isinstance(vocabulary, str | Path):
        return load_vocabulary(vocabulary, store)
    return make_vocabulary("list", list(vocabulary))


def texts_key(vocabulary: Vocabulary, template_set: str) -> str:
    """Return the key of a vocabulary's embeddings under a template set: equal keys mean equal texts and templates."""
    return f"{vocabulary.key} {template_key(template_set)}"


def texts_in_prose(key: str) -> str:
    """Return the texts that a key names as a sentence calls them; how to tell two lists of one name, only keys say.

    >>> texts_in_prose("birds@0d239f78ed2d none@4f53cda18c2b")
    'texts of the vocabulary birds'
    >>> texts_in_prose("arrays@0d239f78ed2d-4f53cda18c2b")
    'texts that came with their embeddings'
    """
    name = _DIGEST.split(key, maxsplit=1)[0]
    return "texts that came with their embeddings" if name == _ARRAYS else f"texts of {in_prose(name)}"


def template_key(template_set: str) -> str:
    """Return the name of a template set in keys: its own or its file's, and a digest of the templates."""
    title = template_set.partition("\n")[0] if is_text(template_set) else Path(template_set).stem
    return f"{title}@{digest(templates(template_set))}"


def keep_vocabulary(store: Store, vocabulary: Vocabulary, template_set: str) -> None:
    """Store the vocabulary itself, so that a later command need not name it; the caller holds the write lock."""
    where = _filter_of(vocabulary.key, template_set)
    newest = _last(store) == (vocabulary.key, template_set)
    if newest and store.count(schema.VOCABULARIES, where) == len(vocabulary.texts):
        return
    store.delete(schema.VOCABULARIES, where)
    head = {"vocabulary": vocabulary.key, "template_set": template_set}
    rows = [head | {"position": i, "text": text} for i, text in enumerate(vocabulary.texts)]
    store.append(schema.VOCABULARIES, pa.Table.from_pylist(rows, schema=schema.table_schema(schema.VOCABULARIES)))


def last_vocabulary(store: Store) -> Vocabulary:
    """Return the vocabulary the index stored last, or imagenet1k if it has none."""
    key, template_set = _last(store)
    if not key:
        return load_vocabulary(_FIRST)
    rows = store.read(schema.VOCABULARIES, where=_filter_of(key, template_set)).sort_by("position")
    return Vocabulary(key.rpartition("@")[0], tuple(rows["text"].to_pylist()))


def last_vocabulary_key(store: Store) -> str:
    """Return the key of the vocabulary that the index stored last, "" where it has none."""
    return _last(store)[0]


def last_vocabulary_name(store: Store) -> str:
    """Return the name of the vocabulary that `last_vocabulary` returns, without reading its texts."""
    return last_vocabulary_key(store).rpartition("@")[0] or _FIRST


def chosen_templates(store: Store, given: str | None = None) -> str:
    """Return the template set that a user gives, or else the one the index used last, or `csp` if it used none.

    Raises SettingError if the index names a file, which is not opened.
    """
    return from_index(_last(store)[1]) if given is None else as_stored(given)


def _last(store: Store) -> tuple[str, str]:
    rows = store.read(schema.VOCABULARIES, ["vocabulary", "template_set"])
    if rows.num_rows == 0:
        return "", "csp"
    last = rows.slice(rows.num_rows - 1).to_pylist()[0]
    return last["vocabulary"], last["template_set"]


def _filter_of(key: str, template_set: str) -> str:
    return f"vocabulary = {sql_text(key)} AND template_set = {sql_text(template_set)}"
