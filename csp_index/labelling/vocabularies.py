"""Vocabularies: named lists of candidate labels, built in, from files and tables, from the images' metadata.

Knows nothing about embeddings.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow as pa

from csp_index.errors import LabelError, one_line
from csp_index.files.regular_files import check_file, decoded, read_bytes, read_text, user_path
from csp_index.images.tables.text_tables import separator_of
from csp_index.labelling.texts.label_files import read_label_file
from csp_index.settings import MAX_TEXT_BYTES
from csp_index.store import catalog, schema
from csp_index.store.image_metadata import check_columns, image_records
from csp_index.store.tables import Store

BUILT_IN = ("imagenet1k", "imagenet21k")

_log = logging.getLogger(__name__)
_METADATA = "metadata:"
_LINES_TRIED = 100  # by which the separator of a table is recognized
_FORMULA = re.compile(r"^'(?=[=+\-@\t\r])")  # the apostrophe that `csp-index sql --format csv` puts before formulas
_TABLE = re.compile(r"(?P<file>.+?\.(?:parquet|csv|tsv))(?::(?P<column>.+))?", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A named list of candidate labels, without duplicates or empty texts."""

    name: str
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name and content hash: two lists of one name are two vocabularies."""
        return f"{self.name}@{digest(self.texts)}"


def load_vocabulary(name: str | Path, store: Store | None = None) -> Vocabulary:
    """Return a vocabulary by name: built in, a file of labels, or a column of a table.

    A file has one label per line, or is JSON or YAML (`texts.label_files`: lists, labels by number or synset, concepts
    by class); what was guessed about it is logged. Built in are `imagenet1k` and `imagenet21k`. `FILE.parquet:COLUMN`,
    `FILE.csv:COLUMN` (or .tsv) is a column of texts or of lists of texts; `metadata:COLUMN` what the metadata of the
    index's images say (`metadata_vocabulary`). Texts that differ only in case, spacing or Unicode form are merged, the
    first spelling wins. Errors: LabelError for an empty list, an empty line or row (with its number), a missing column
    (with those there are), a file that is no list of labels.
    """
    if str(name) in BUILT_IN:
        return Vocabulary(str(name), _merged(_built_in(str(name))))
    if str(name).startswith(_METADATA):
        if store is None:
            raise LabelError(f"vocabulary {name} is a column of an index: name it where an index is labelled")
        return metadata_vocabulary(store, str(name).removeprefix(_METADATA))
    path = user_path(name)
    if table := _TABLE.fullmatch(str(path)):
        vocabulary = _from_table(Path(table["file"]), table["column"])
        if vocabulary is not None:
            return vocabulary
    try:
        labels = read_label_file(path)
    except FileNotFoundError:
        raise LabelError(f"vocabulary {name} is neither a file nor built in (has: {', '.join(BUILT_IN)})") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise LabelError(f"vocabulary {path} cannot be read as UTF-8 text: {one_line(exc)}") from exc
    if labels.note:
        _log.warning("%s", labels.note)
    vocabulary = _checked(path.stem, labels.rows, str(path), "line")
    merged = sum(map(len, labels.rows)) - len(vocabulary.texts)
    if merged:
        _log.warning("%s: labels that repeat others and are merged: %s", path.name, f"{merged:,}")
    return vocabulary


def make_vocabulary(name: str, texts: Sequence[str], where: str = "") -> Vocabulary:
    """Return the vocabulary of the given texts.

    >>> make_vocabulary("mine", ["striped", "Striped ", "red star"]).texts
    ('striped', 'red star')
    """
    return _checked(name, [[text] for text in texts], where or name, "line")


def metadata_vocabulary(store: Store, column: str) -> Vocabulary:
    """Return what a column of the images' metadata says: each text once, in the order of the images.

    A value is a text, a number, or a list of such; a text is parted at `;` and `|`, as for `evaluate --concepts`.
    Truth values, nulls and images without the column say nothing. Errors: NotFoundError if no image has the column,
    LabelError if it has no text.
    """
    return store.memo(schema.IMAGES, ("metadata vocabulary", column), lambda: _from_metadata(store, column))


def in_prose(name: str) -> str:
    """Return a vocabulary as a sentence calls it, given its name.

    >>> in_prose("birds"), in_prose("metadata:species"), in_prose("list")
    ('the vocabulary birds', 'the metadata column species', 'a list')
    """
    if name.startswith(_METADATA):
        return f"the metadata column {name.removeprefix(_METADATA)}"
    return "a list" if name == "list" else f"the vocabulary {name}"


def clean_text(text: str) -> str:
    """Return a label as it is stored: Unicode composed, spaces single. Labels equal but for case are one."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _visible(text: str) -> bool:
    """Return whether a label shows anything: spaces, control and formatting characters do not."""
    return any(unicodedata.category(character)[0] not in "CZ" for character in text)


def text_lines(path: Path) -> list[str]:
    """Return the lines of a text file; only line ends part them, as in an editor."""
    lines = read_text(path).split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def digest(texts: Sequence[str]) -> str:
    """Return a short hash of texts in their order."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _built_in(name: str) -> list[str]:
    if name == "imagenet1k":
        import open_clip

        return list(open_clip.IMAGENET_CLASSNAMES)
    from timm.data.imagenet_info import ImageNetInfo

    # A synset's description opens with its lemmas, most usual first.
    return [text.split(",")[0] for text in ImageNetInfo("imagenet21k").label_descriptions()]


def _checked(name: str, rows: Sequence[Sequence[str]], where: str, unit: str) -> Vocabulary:
    """Return the vocabulary of all texts of all rows; a row without a text is refused by its number, from 1."""
    for number, text in ((number, text) for number, row in enumerate(rows, 1) for text in row):
        if not isinstance(text, str):  # a list of a caller may hold numbers, or a table's missing values
            raise LabelError(f"vocabulary {where} has {text!r} in {unit} {number}: expected a text")
    if not any(_visible(text) for row in rows for text in row):
        raise LabelError(f"vocabulary {where} is empty: expected one label a {unit}")
    for number, row in enumerate(rows, 1):
        if not row or not all(_visible(text) for text in row):
            raise LabelError(f"vocabulary {where} has an empty label in {unit} {number}: expected one label a {unit}")
    return Vocabulary(name, _merged([text for row in rows for text in row]))


def _from_table(file: Path, column: str | None) -> Vocabulary | None:
    """Return the vocabulary in a table's column, or None for a .csv file that is a plain list of one label a line."""
    parquet = file.suffix.lower() == ".parquet"
    try:
        check_file(file, MAX_TEXT_BYTES)
        names, rows = _parquet_rows(file, column) if parquet else _csv_rows(file, column)
    except FileNotFoundError:
        raise LabelError(f"vocabulary {file} is not there: expected a table, written FILE:COLUMN") from None
    except (OSError, ValueError, csv.Error, pa.ArrowException) as exc:
        raise LabelError(f"vocabulary {file} cannot be read as a table: {one_line(exc)}") from exc
    if column is None and not parquet and len(names) < 2:
        return None
    if rows is None or column is None:
        missing = f"has no column {column!r}" if column is not None else "is a table and no column is named"
        raise LabelError(f"vocabulary {file} {missing} (has: {', '.join(names) or 'none'}): write {file}:COLUMN")
    return _checked(f"{file.stem}:{column}", rows, f"{file}:{column}", "row")


def _csv_rows(file: Path, column: str | None) -> tuple[list[str], list[list[str]] | None]:
    """Return the columns of a CSV or TSV file, and the cells of one, row by row below the header."""
    text, note = decoded(read_bytes(file, MAX_TEXT_BYTES))
    if note and column is not None:
        _log.warning("%s: %s", file.name, note)
    usual = "\t" if file.suffix.lower() == ".tsv" else ","
    other = separator_of(list(islice(io.StringIO(text, newline=""), _LINES_TRIED))).strip(" ") or usual
    names: list[str] = []
    for separator in (usual, other):
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        names = next(lines, [])
        if column in names:
            place = names.index(column)
            return names, [[_FORMULA.sub("", cell) for cell in line[place : place + 1]] for line in lines]
        if len(names) > 1:
            break
    return names, None


def _parquet_rows(file: Path, column: str | None) -> tuple[list[str], list[list[str]] | None]:
    """Return the columns of a parquet file, and the texts of one, row by row."""
    from pyarrow import parquet, types

    with parquet.ParquetFile(file) as table:
        names = table.schema_arrow.names
        if column not in names:
            return names, None
        kind = table.schema_arrow.field(column).type
        listed = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
        inner = kind.value_type if listed or types.is_dictionary(kind) else kind
        if not (types.is_string(inner) or types.is_large_string(inner) or types.is_null(inner)):
            raise LabelError(f"vocabulary {file}:{column} holds {kind}: expected texts, or lists of texts")
        cells = table.read(columns=[column]).column(0).to_pylist()
    return names, [[text or "" for text in (cell if listed else [cell]) or ()] for cell in cells]


def _from_metadata(store: Store, column: str) -> Vocabulary:
    check_columns(store, [column])
    texts: dict[str, None] = {}
    for _, record in image_records(store, catalog.image_count(store)):
        texts.update(dict.fromkeys(texts_said(record.get(column))))
    if not texts:
        raise LabelError(f"the metadata column {column!r} holds no text in any image: name another vocabulary")
    return make_vocabulary(f"{_METADATA}{column}", list(texts))


def texts_said(value: object) -> Iterator[str]:
    """Yield the texts of one value of the metadata: a number is one; a list has several, so has a text with ; or |."""
    if isinstance(value, list):
        for item in value:
            yield from () if isinstance(item, list) else texts_said(item)
    elif isinstance(value, str):
        yield from (part for part in re.split("[;|]", value) if part.strip())
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Tables hold 7 as 7.0 where another row of the column has no value.
        yield str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _merged(texts: Sequence[str]) -> tuple[str, ...]:
    spellings: dict[str, str] = {}
    for text in texts:
        clean = clean_text(text)
        spellings.setdefault(clean.casefold(), clean)
    return tuple(spellings.values())
