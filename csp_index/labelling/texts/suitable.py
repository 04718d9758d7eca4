"""Which vocabulary suits the images of an index, where nobody names one: their captions or classes, or ImageNet's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from csp_index.labelling.vocabularies import texts_said
from csp_index.store import catalog
from csp_index.store.image_metadata import image_records
from csp_index.store.tables import Store

LEAST: Final = 20  # distinct texts; fewer leave a label hardly a choice
_CAPTIONS: Final = (
    *("caption", "captions", "description", "descriptions", "text", "texts", "title", "tags", "keywords"),
    "txt",  # what a .txt beside an image says
)
_CLASSES: Final = ("label", "labels", "label_name", "class", "class_name", "category", "concept", "concepts", "species")
_CODE: Final = re.compile(r"[A-Za-z]{0,2}[-_.]?\d[\d\W_]*")  # of a part of a set, a synset, a sample: no name
_FALLBACK: Final = "imagenet1k"


@dataclass(frozen=True, slots=True)
class Suitable:
    """The name of a vocabulary, as `--vocabulary` takes it, and why it was chosen."""

    name: str
    why: str


def suitable_vocabulary(store: Store) -> Suitable:
    """Return the vocabulary of captions, else of classes, that the images' metadata hold, else ImageNet's.

    A column is one of captions or classes by its name; it needs at least LEAST distinct texts that are no numbers or
    codes (`d07`). Errors: as `image_records`.
    """
    columns = {name: _Texts() for name in _CAPTIONS + _CLASSES}
    for _, record in image_records(store, catalog.image_count(store)):
        for name, value in record.items():
            if (texts := columns.get(name.casefold())) is not None and not isinstance(value, int | float):
                texts.column = name
                texts.distinct.update(text for text in texts_said(value) if not _CODE.fullmatch(text.strip()))
    for names, what in ((_CAPTIONS, "captions"), (_CLASSES, "classes")):
        for texts in (columns[name] for name in names):
            if len(texts.distinct) >= LEAST:
                why = f"the {len(texts.distinct):,} {what} in the images' column {texts.column}"
                return Suitable(f"metadata:{texts.column}", why)
    few = next((texts for texts in columns.values() if texts.distinct), None)
    if few is None:
        return Suitable(_FALLBACK, "the images have neither captions nor classes")
    held = f"the images' column {few.column} has only {len(few.distinct):,} texts"
    return Suitable(_FALLBACK, f"{held}, {LEAST} are needed for a choice")


class _Texts:
    """The distinct texts of a column."""

    def __init__(self) -> None:
        self.column = ""
        self.distinct: set[str] = set()
