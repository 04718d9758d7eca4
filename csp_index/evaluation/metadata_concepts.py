"""Which concepts the images' own metadata shows: the truth of images, beside that of neurons in `truth`.

Texts are compared in the form of `hierarchy.normal_text`.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from csp_index.errors import EvaluationError, one_line
from csp_index.evaluation.hierarchy import normal_text

_CELLS = 1_000_000  # distinct cells remembered while metadata is read
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """Which of the texts looked for each image's metadata shows.

    `images` [N] are all image ids read, sorted; `found` holds the sorted ids of the images that show a text, by its
    normal form, for every known text (known: the metadata can tell). `sought` are all normal forms looked for.
    """

    images: np.ndarray
    found: Mapping[str, np.ndarray]
    sought: frozenset[str]

    def presence(self, texts: Sequence[str], images: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which images (default all) show which text, bool [T, N], and which texts are known, bool [T].

        The row of an unknown text is False throughout and means nothing.
        """
        wanted, places = np.unique(self.images if images is None else np.asarray(images), return_inverse=True)
        mask = np.zeros((len(texts), len(wanted)), dtype=bool)
        known = np.zeros(len(texts), dtype=bool)
        for row, text in enumerate(texts):
            key = normal_text(text)
            if key not in self.sought:
                raise EvaluationError(f"text {text!r} was not looked for in the metadata: name it when reading it")
            if key in self.found:
                known[row] = True
                ids = self.found[key]
                place = np.searchsorted(wanted, ids)
                held = place < len(wanted)
                mask[row, place[held][wanted[place[held]] == ids[held]]] = True
        return torch.from_numpy(mask)[:, torch.from_numpy(places.reshape(-1))], torch.from_numpy(known)


def concept_presence(
    rows: Iterable[tuple[int, str | None]], texts: Sequence[str], columns: Sequence[str] | None = None
) -> ConceptTable:
    """Look for texts in the images' metadata, given as (image id, JSON object) in any order; one pass.

    An image shows a text if in one of the columns (default all) the value equals it, is a list with such a value, or is
    a string whose parts between `;` or `|` hold it; or if the column is named like the text and holds true, 1, "true"
    or "yes". A text is known if any image shows it or a column of its name holds a truth value. Errors: EvaluationError
    for a column that no image has, and for metadata that is not JSON.
    """
    wanted = {key: code for code, key in enumerate(dict.fromkeys(map(normal_text, texts)))}
    chosen = None if columns is None else frozenset(columns)
    images, hits = array("q"), [array("q") for _ in wanted]
    known: set[int] = set()
    named: dict[str, int] = {}  # the code of the text that a column is named like, or -1
    cells: dict[str, tuple[int, ...]] = {}  # what a string shows: most columns repeat few values
    for image, metadata in rows:
        images.append(image)
        shown: set[int] = set()
        for column, value in _record(metadata, image).items():
            if (code := named.get(column)) is None:
                code = named[column] = wanted.get(normal_text(column), -1)
            if chosen is not None and column not in chosen:
                continue
            if code >= 0 and (flag := _flag(value)) is not None:
                known.add(code)
                shown.update((code,) if flag else ())
            for item in value if isinstance(value, list) else (value,):
                cell = item if isinstance(item, str) else _cell(item)
                if (codes := cells.get(cell)) is None:
                    if len(cells) >= _CELLS:
                        cells.clear()
                    parts = {cell, *re.split("[;|]", cell)}
                    codes = cells[cell] = tuple({wanted[key] for part in parts if (key := normal_text(part)) in wanted})
                if codes:
                    shown.update(codes)
        for code in shown:
            hits[code].append(image)
    strange = sorted(chosen - named.keys()) if chosen is not None else []
    if strange:
        has = ", ".join(named) or "no columns at all"
        raise EvaluationError(f"no image has the metadata column {strange[0]!r} (has: {has})")
    found = {
        key: np.unique(np.asarray(hits[code], np.int64)) for key, code in wanted.items() if hits[code] or code in known
    }
    return ConceptTable(np.unique(np.asarray(images, np.int64)), found, frozenset(wanted))


def _record(metadata: str | None, image: int) -> dict[str, object]:
    """Return an image's metadata; empty where it has none."""
    if not metadata:
        return {}
    try:
        record = json.loads(metadata)
    except ValueError as exc:
        raise EvaluationError(f"the metadata of image {image} is not JSON: {one_line(exc)}") from exc
    return record if isinstance(record, dict) else {}


def _cell(value: object) -> str:
    """Return a value as the text it is compared as; a truth value, null and nested data are no text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    # Tables hold 7 as 7.0 where another row of the column has no value.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _flag(value: object) -> bool | None:
    """Return a truth value; None if it is none."""
    word = str(value).lower() if isinstance(value, bool) else normal_text(_cell(value))
    return True if word in _YES else False if word in _NO else None
