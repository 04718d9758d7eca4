"""Candidate labels: vocabularies, and their text embeddings, kept so that an encoder reads each text once."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from csp_index import schema
from csp_index.arrays import load_array
from csp_index.catalog import EncoderInfo, sql_text
from csp_index.encoders import Encoder
from csp_index.errors import LabelError, SourceError
from csp_index.images import decode
from csp_index.store import Store
from csp_index.templates import templates

BUILT_IN = ("imagenet1k", "imagenet21k")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A named list of candidate labels, without duplicates or empty texts."""

    name: str
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name and content hash: two lists of one name are two vocabularies."""
        return f"{self.name}@{_digest(self.texts)}"


@dataclass(frozen=True)
class CandidateTexts:
    """Candidate labels with their embeddings [C, D], as the encoder (or an array) gave them: not re-normalised.

    `key` names content and templates; labels made from equal keys are comparable. `empty` [D] is the empty template's
    embedding.
    """

    texts: tuple[str, ...]
    embeddings: torch.Tensor
    key: str
    empty: torch.Tensor | None = None

    @cached_property
    def directions(self) -> torch.Tensor:
        """The embeddings [C, D] at unit length."""
        return torch.nn.functional.normalize(self.embeddings, dim=1)


def load_vocabulary(name: str | Path) -> Vocabulary:
    """Return a built-in vocabulary (`imagenet1k`, `imagenet21k`) or the one in a text file, one label a line.

    Texts that differ only in case, spacing or Unicode form are merged, the first spelling wins. Errors: LabelError for
    an empty list, or an empty line (told by number).
    """
    if str(name) in BUILT_IN:
        return Vocabulary(str(name), _merged(_built_in(str(name))))
    path = Path(name).expanduser()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise LabelError(f"vocabulary {name} is neither a file nor built in (has: {', '.join(BUILT_IN)})") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise LabelError(f"vocabulary {path} cannot be read as UTF-8 text: {exc}") from exc
    return make_vocabulary(path.stem, lines, str(path))


def make_vocabulary(name: str, texts: Sequence[str], where: str = "") -> Vocabulary:
    """Return the vocabulary of the given texts.

    >>> make_vocabulary("mine", ["striped", "Striped ", "red star"]).texts
    ('striped', 'red star')
    """
    where = where or name
    if not any(text.strip() for text in texts):
        raise LabelError(f"vocabulary {where} is empty: expected one label a line")
    for number, text in enumerate(texts, 1):
        if not text.strip():
            raise LabelError(f"vocabulary {where} has an empty label in line {number}: expected one label a line")
    return Vocabulary(name, _merged(texts))


def read_text_arrays(embeddings: str | Path, texts: str | Path) -> CandidateTexts:
    """Return candidate labels made elsewhere: embeddings [C, D] in a .npy file and one text a line, row by row."""
    array = load_array(embeddings, "text embeddings")
    try:
        lines = tuple(Path(texts).read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as exc:
        raise LabelError(f"texts {texts} cannot be read: {exc}") from exc
    if not any(line.strip() for line in lines):
        raise LabelError(f"vocabulary {texts} is empty: expected one label a line")
    if len(lines) != len(array):
        raise LabelError(
            f"texts have {len(lines)} lines and text embeddings {len(array)} rows: expected the same labels in both"
        )
    vectors = np.array(array, dtype=np.float32)
    if not vectors.any(1).all():
        raise LabelError(
            f"text embeddings are all zero in row {int((~vectors.any(1)).argmax())}: a direction is needed"
        )
    content = hashlib.sha256(vectors.tobytes()).hexdigest()[:12]
    return CandidateTexts(lines, torch.from_numpy(vectors), f"arrays@{_digest(lines)}-{content}")


def embed_vocabulary(
    store: Store,
    source: EncoderInfo,
    vocabulary: Vocabulary,
    template_set: str,
    load: Callable[[], Encoder],
    *,
    keep: bool = True,
) -> CandidateTexts:
    """Return the vocabulary's embeddings from the index; the encoder is loaded only for texts it does not hold yet.

    With `keep` new embeddings are stored, which needs the write lock (the caller holds it).
    """
    chosen = templates(template_set)
    kept_as = template_key(template_set)
    table = schema.texts_table(source.name)
    where = f"vocabulary = {sql_text(vocabulary.key)} AND template_set = {sql_text(kept_as)}"
    key = texts_key(vocabulary, template_set)
    wanted = len(vocabulary.texts) + 1  # the last row is the empty template's
    if store.count(table, where) == wanted:
        rows = store.read(table, ["position", "embedding"], where).sort_by("position")
        flat = rows["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = torch.from_numpy(flat.reshape(wanted, source.width).copy())
        return CandidateTexts(vocabulary.texts, vectors[:-1], key, vectors[-1])
    texts = [*vocabulary.texts, ""]
    vectors = load().embed_texts(texts, chosen)
    if keep:
        store.delete(table, where)
        columns = {
            "vocabulary": pa.array([vocabulary.key] * wanted),
            "template_set": pa.array([kept_as] * wanted),
            "position": pa.array(range(wanted), pa.int32()),
            "text": pa.array(texts),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1).numpy()), source.width),
        }
        store.append(table, pa.table(columns, schema=schema.texts_schema(source.width)))
    return CandidateTexts(vocabulary.texts, vectors[:-1], key, vectors[-1])


def texts_key(vocabulary: Vocabulary, template_set: str) -> str:
    """Return the key of a vocabulary's embeddings under a template set: equal keys mean equal texts and templates."""
    return f"{vocabulary.key} {template_key(template_set)}"


def template_key(template_set: str) -> str:
    """Return what names a template set in keys: built-in ones by name, others by what they say."""
    return f"{Path(template_set).stem}@{_digest(templates(template_set))}"


def keep_vocabulary(store: Store, vocabulary: Vocabulary, template_set: str) -> None:
    """Store the vocabulary itself, so that a later command can leave it out; the caller holds the write lock."""
    where = _kept(vocabulary.key, template_set)
    newest = _last(store) == (vocabulary.key, template_set)
    if newest and store.count(schema.VOCABULARIES, where) == len(vocabulary.texts):
        return
    store.delete(schema.VOCABULARIES, where)
    head = {"vocabulary": vocabulary.key, "template_set": template_set}
    rows = [head | {"position": i, "text": text} for i, text in enumerate(vocabulary.texts)]
    store.append(schema.VOCABULARIES, pa.Table.from_pylist(rows, schema=schema.table_schema(schema.VOCABULARIES)))


def embed_picture(encoder: Encoder, path: str | Path) -> torch.Tensor:
    """Return the embedding [D] of a picture file."""
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as exc:
        raise SourceError(f"the picture {path} cannot be read: {exc.strerror or exc}") from exc
    try:
        image = decode(data)
    except SourceError as exc:
        raise SourceError(f"the picture {path} cannot be read: {exc}") from exc
    return encoder.embed_images(encoder.preprocess(image)[None])[0]


def last_vocabulary(store: Store) -> Vocabulary:
    """Return the vocabulary the index kept last, or `imagenet1k` where it kept none."""
    key, template_set = _last(store)
    if not key:
        return load_vocabulary("imagenet1k")
    rows = store.read(schema.VOCABULARIES, where=_kept(key, template_set)).sort_by("position")
    return Vocabulary(key.rpartition("@")[0], tuple(rows["text"].to_pylist()))


def last_templates(store: Store) -> str:
    """Return the template set the index used last, or `csp` where it used none."""
    return _last(store)[1]


def _last(store: Store) -> tuple[str, str]:
    kept = store.read(schema.VOCABULARIES, ["vocabulary", "template_set"])
    if kept.num_rows == 0:
        return "", "csp"
    last = kept.slice(kept.num_rows - 1).to_pylist()[0]
    return last["vocabulary"], last["template_set"]


def _kept(key: str, template_set: str) -> str:
    return f"vocabulary = {sql_text(key)} AND template_set = {sql_text(template_set)}"


def _built_in(name: str) -> list[str]:
    if name == "imagenet1k":
        import open_clip

        return list(open_clip.IMAGENET_CLASSNAMES)
    from timm.data.imagenet_info import ImageNetInfo

    # A synset's description opens with its lemmas, most usual first.
    return [text.split(",")[0] for text in ImageNetInfo("imagenet21k").label_descriptions()]


def _merged(texts: Sequence[str]) -> tuple[str, ...]:
    spellings: dict[str, str] = {}
    for text in texts:
        clean = " ".join(unicodedata.normalize("NFC", text).split())
        spellings.setdefault(clean.casefold(), clean)
    return tuple(spellings.values())


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]
