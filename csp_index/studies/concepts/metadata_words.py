"""Which columns of the images' metadata know a word: a value of the column, or a column of truth values of its name."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from csp_index.errors import SourceError
from csp_index.store import catalog, schema
from csp_index.store.image_metadata import image_records
from csp_index.store.tables import Store
from csp_index.studies.classes.image_classes import MOST_CLASSES, value_texts
from csp_index.studies.concepts.known_classes import YES, KnownClass
from csp_index.studies.concepts.words import normal

_NO: Final = ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class MetadataValue:
    """A value of a metadata column, and how many images have it."""

    by: str
    class_name: str
    images: int


def metadata_words(store: Store) -> Mapping[str, tuple[MetadataValue, ...]]:
    """Return the values of all columns by their normal forms, and the true one of truth values by its column's name.

    Columns with more than 1,000 different values name images, and are left out. One pass over the metadata, kept while
    the images stay the same. Raises SourceError for metadata that are no JSON.
    """
    return store.memo(schema.IMAGES, "metadata words", lambda: _read(store))


def uncompared_values(
    store: Store, word: str, known: Iterable[KnownClass], notes: list[str]
) -> tuple[MetadataValue, ...]:
    """Return the values of columns that a word names, and that no layer's neurons were compared with.

    Where metadata cannot be read, a note says so.
    """
    compared = {one.by for one in known}
    try:
        values = metadata_words(store).get(normal(word), ())
    except SourceError as exc:
        notes.append(f"metadata were not looked at: {exc}")
        return ()
    return tuple(one for one in values if one.by not in compared)


def _read(store: Store) -> Mapping[str, tuple[MetadataValue, ...]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    dropped = set[str]()
    for _, record in image_records(store, catalog.image_count(store)):
        for column, value in record.items():
            if column not in dropped:
                counts[column].update(value_texts(value) or ())
                if len(counts[column]) > MOST_CLASSES:
                    dropped.add(column)
                    del counts[column]
    found: dict[str, list[MetadataValue]] = defaultdict(list)
    for column, texts in counts.items():
        truths = all(text.casefold() in (*YES, *_NO) for text in texts)
        for text, images in texts.items():
            value = MetadataValue(column, text, images)
            found[normal(text)].append(value)
            if truths and text.casefold() in YES:
                found[normal(column)].append(value)
    return {word: tuple(values) for word, values in found.items()}
