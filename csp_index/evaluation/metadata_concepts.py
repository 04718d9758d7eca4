"""The concepts that the images' own metadata shows: the truth about images, as `ground_truth` is that about neurons.

Texts are compared in the form of `hierarchy.normal_text`.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from csp_index.errors import EvaluationError
from csp_index.evaluation.hierarchy import normal_text
from csp_index.store.image_metadata import number_text, parse_metadata

_CELLS = 1_000_000  # distinct cells cached while metadata is read
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class ConceptTable:
    """Which of the requested texts each image's metadata shows.

    `images` [N] are the sorted ids of all images read; `showing` has the sorted ids of the images that show a text, by
    its normal form, for every text that the metadata knows. `requested` are the normal forms of all requested texts.
    """

    images: np.ndarray
    showing: Mapping[str, np.ndarray]
    requested: frozenset[str]

    def presence(self, texts: Sequence[str], images: np.ndarray | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which images (default all) show which text, bool [T, N], and which texts are known, bool [T].

        The row of an unknown text is False throughout and means nothing.
        """
        unique, positions = np.unique(self.images if images is None else np.asarray(images), return_inverse=True)
        mask = np.zeros((len(texts), len(unique)), dtype=bool)
        known = np.zeros(len(texts), dtype=bool)
        for row, text in enumerate(texts):
            key = normal_text(text)
            if key not in self.requested:
                raise EvaluationError(f"text {text!r} was not looked for in the metadata: name it when reading it")
            if key in self.showing:
                known[row] = True
                ids = self.showing[key]
                column = np.searchsorted(unique, ids)
                inside = column < len(unique)
                mask[row, column[inside][unique[column[inside]] == ids[inside]]] = True
        return torch.from_numpy(mask)[:, torch.from_numpy(positions.reshape(-1))], torch.from_numpy(known)


def concept_presence(
    rows: Iterable[tuple[int, str | None]], texts: Sequence[str], columns: Sequence[str] | None = None
) -> ConceptTable:
    """Look for texts in the images' metadata, pairs of (image id, JSON object) in any order, in one pass.

    An image shows a text if in one of the columns (default all) the value equals it, is a list with such a value, or is
    a string with it as a part between `;` or `|`; or if the column has the text's name and the value true, 1, "true" or
    "yes". A text is known if any image shows it or a column of its name has a truth value. A column that no image has
    shows nothing. Errors: SourceError for metadata that is not JSON.
    """
    codes_of = {key: code for code, key in enumerate(dict.fromkeys(map(normal_text, texts)))}
    selected = None if columns is None else frozenset(columns)
    images, hits = array("q"), [array("q") for _ in codes_of]
    known: set[int] = set()
    column_codes: dict[str, int] = {}  # the code of the text that is a column's name, or -1
    cells: dict[str, tuple[int, ...]] = {}  # the codes of a string; most columns repeat few values
    for image, metadata in rows:
        images.append(image)
        image_codes: set[int] = set()
        for column, value in parse_metadata(metadata, image).items():
            if (code := column_codes.get(column)) is None:
                code = column_codes[column] = codes_of.get(normal_text(column), -1)
            if selected is not None and column not in selected:
                continue
            if code >= 0 and (flag := _flag(value)) is not None:
                known.add(code)
                image_codes.update((code,) if flag else ())
            for item in value if isinstance(value, list) else (value,):
                cell = item if isinstance(item, str) else _cell(item)
                if (codes := cells.get(cell)) is None:
                    if len(cells) >= _CELLS:
                        cells.clear()
                    parts = {cell, *re.split("[;|]", cell)}
                    codes = cells[cell] = tuple(
                        {codes_of[key] for part in parts if (key := normal_text(part)) in codes_of}
                    )
                if codes:
                    image_codes.update(codes)
        for code in image_codes:
            hits[code].append(image)
    showing = {
        key: np.unique(np.asarray(hits[code], np.int64))
        for key, code in codes_of.items()
        if hits[code] or code in known
    }
    return ConceptTable(np.unique(np.asarray(images, np.int64)), showing, frozenset(codes_of))


def _cell(value: object) -> str:
    """Return a value as a text to compare; a truth value, null and nested data are empty."""
    if isinstance(value, str):
        return value
    return "" if isinstance(value, bool) or not isinstance(value, int | float) else number_text(value)


def _flag(value: object) -> bool | None:
    """Return a truth value, or None for another value."""
    word = str(value).lower() if isinstance(value, bool) else normal_text(_cell(value))
    return True if word in _YES else False if word in _NO else None
