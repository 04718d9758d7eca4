"""Agreement by degree: how far a label and the truth are true of the same images, and which of them is broader.

Real vocabularies hold synonyms and narrower words, which an exact match counts as wrong. What a word is true of comes
from the images' metadata or from a table word,item; without either, a hierarchy says which word is broader. Texts are
compared in the form of `hierarchy.normal_text`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import torch
from scipy.sparse import csr_matrix

from csp_index.errors import EvaluationError, SourceError
from csp_index.evaluation.hierarchy import Hierarchy, normal_text
from csp_index.evaluation.metadata_concepts import ConceptTable
from csp_index.files.regular_files import user_path
from csp_index.images.tables.read_table import read_metadata_file

#: A label is of the truth's own level if it is true of at most this many powers of 2 more or fewer images.
SAME_LEVEL: Final = 0.5

GRADES: Final = (
    "agreement-overlap",
    "agreement-level",
    "agreement-same",
    "agreement-narrower",
    "agreement-broader",
)
_UNKNOWN_LABEL = "the label is not a value of the metadata, so it is not known what it is true of"
_UNKNOWN_TRUTH = "no accepted text is a value of the metadata, so it is not known what the truth is true of"
_NEITHER = "neither the label nor the truth is true of any image"
_NO_LABEL_IMAGE = "the label is true of no image, so it has no level"
_NO_TRUTH_IMAGE = "the truth is true of no image, so there is no level"
_NOT_IN_HIERARCHY = "the label or its truth is not in the hierarchy"
_PAIR_VALUES = 2**24  # images of the pairs in memory at a time


class Grade(NamedTuple):
    """One label against the closest of its accepted texts; NaN where a value is not defined, and why.

    The last three are 1 or 0: which of them holds; none where the two share no image.
    """

    overlap: float
    level: float
    same: float
    narrower: float
    broader: float
    no_overlap: str = ""  # why there is no overlap, nor any of the last three
    no_level: str = ""


Grades = dict[str, tuple[torch.Tensor, list[str]]]
_EXACT = Grade(1.0, 0.0, 1.0, 0.0, 0.0)


def grades_by_images(labels: Sequence[str], accepted: Sequence[Sequence[str]], table: ConceptTable) -> Grades:
    """Return each metric of GRADES as values [P] and the reasons for missing ones, for P labels with accepted texts.

    overlap: images of both / images of either, in [0, 1], greatest over the accepted texts. level: log2 of the label's
    images over those of the accepted text with that overlap (of several, the one of the nearest level); negative for a
    narrower label. same, narrower, broader: 1 where both share an image and the level is within SAME_LEVEL of 0, below,
    or above. A label that is an accepted text has overlap 1 and level 0, whatever the table holds. A label or truth
    that the table does not know has no value; a known one that is true of no image has overlap 0 and no level.
    """
    pairs = [
        (normal_text(label), [normal_text(text) for text in texts])
        for label, texts in zip(labels, accepted, strict=True)
    ]
    unique = list(dict.fromkeys((a, b) for a, texts in pairs if a not in texts for b in texts))
    known = [(a, b) for a, b in unique if a in table.showing and b in table.showing]
    counts = dict(zip(known, _counts(known, table), strict=True))
    return _columns([_EXACT if label in texts else _by_images(label, texts, table, counts) for label, texts in pairs])


def grades_by_hierarchy(labels: Sequence[str], accepted: Sequence[Sequence[str]], hierarchy: Hierarchy) -> Grades:
    """Return GRADES but for the overlap, as `grades_by_images` does, from the places of P labels in a hierarchy.

    level: the accepted text's depth less the label's, in steps, for the accepted text of the greatest similarity.
    same, narrower, broader: whether that is the label's relation to it.
    """
    grades = [_by_hierarchy(label, texts, hierarchy) for label, texts in zip(labels, accepted, strict=True)]
    return {name: column for name, column in _columns(grades).items() if name != "agreement-overlap"}


def read_word_items(path: str | Path) -> ConceptTable:
    """Return the table of a file with columns word and item: a row for each thing that a word is true of.

    Any format of `images.tables`. An item is any text or number. Errors: EvaluationError in one line.
    """
    file = user_path(path)
    try:
        table = read_metadata_file(file).columns
    except SourceError as exc:
        raise EvaluationError(str(exc).replace("the metadata table", "the table of words and items", 1)) from exc
    columns = {name.strip().casefold(): name for name in table.column_names}
    if not {"word", "item"} <= columns.keys():
        has = ", ".join(table.column_names) or "nothing"
        raise EvaluationError(f"the table of words and items {file} lacks the columns word,item (has: {has})")
    words, items = (table[columns[name]].to_pylist() for name in ("word", "item"))
    number_of: dict[str, int] = {}
    items_of: dict[str, set[int]] = {}
    for word, item in zip(words, items, strict=True):
        key = normal_text("" if word is None else str(word))
        if key and item is not None:
            items_of.setdefault(key, set()).add(number_of.setdefault(str(item).strip(), len(number_of)))
    if not items_of:
        raise EvaluationError(f"the table of words and items {file} has no row with both a word and an item")
    showing = {word: np.array(sorted(own), np.int64) for word, own in items_of.items()}
    return ConceptTable(np.arange(len(number_of)), showing, frozenset(showing))


def _counts(pairs: Sequence[tuple[str, str]], table: ConceptTable) -> list[int]:
    """Return how many images both texts of each pair are true of."""
    counts: list[int] = []
    sizes = np.array([len(table.showing[a]) + len(table.showing[b]) for a, b in pairs], dtype=np.int64)
    block_of = (sizes.cumsum() - sizes) // _PAIR_VALUES
    columns = int(table.images[-1]) + 1 if len(table.images) else 0
    for block in np.unique(block_of).tolist():
        own = [pairs[row] for row in np.flatnonzero(block_of == block).tolist()]
        left, right = (_incidence([table.showing[pair[side]] for pair in own], columns) for side in (0, 1))
        counts += np.asarray(left.multiply(right).sum(1)).reshape(-1).astype(np.int64).tolist()
    return counts


def _incidence(rows: Sequence[np.ndarray], columns: int) -> csr_matrix:
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows)
    return csr_matrix((np.ones(len(indices), np.int32), indices, starts), shape=(len(rows), columns))


def _by_images(label: str, texts: Sequence[str], table: ConceptTable, counts: Mapping[tuple[str, str], int]) -> Grade:
    if label not in table.showing:
        return _without(_UNKNOWN_LABEL)
    grades = [
        _grade(len(table.showing[label]), len(table.showing[text]), counts[label, text])
        for text in texts
        if text in table.showing
    ]
    if not grades:
        return _without(_UNKNOWN_TRUTH)
    return max(grades, key=lambda grade: (_or(grade.overlap, -1.0), -_or(abs(grade.level), math.inf)))


def _grade(label: int, truth: int, both: int) -> Grade:
    """Return the grade of a label that is true of so many images, of which `both` are the truth's, too."""
    if not label and not truth:
        return _without(_NEITHER)
    overlap = both / (label + truth - both)
    if not label or not truth:
        return Grade(overlap, math.nan, 0.0, 0.0, 0.0, no_level=_NO_TRUTH_IMAGE if label else _NO_LABEL_IMAGE)
    level = math.log2(label / truth)
    same, narrower, broader = (
        float(holds and both > 0) for holds in (abs(level) <= SAME_LEVEL, level < -SAME_LEVEL, level > SAME_LEVEL)
    )
    return Grade(overlap, level, same, narrower, broader)


def _by_hierarchy(label: str, texts: Sequence[str], hierarchy: Hierarchy) -> Grade:
    if normal_text(label) in map(normal_text, texts):
        return _EXACT
    closest = max(texts, key=lambda text: _or(hierarchy.similarity(label, text), -1.0))
    level = hierarchy.depth(closest) - hierarchy.depth(label)
    if math.isnan(level):
        return _without(_NOT_IN_HIERARCHY)
    relation = hierarchy.relation(label, closest)
    if relation == "same":
        return _EXACT
    return Grade(math.nan, level, 0.0, float(relation == "narrower"), float(relation == "broader"))


def _without(reason: str) -> Grade:
    return Grade(math.nan, math.nan, math.nan, math.nan, math.nan, reason, reason)


def _or(value: float, other: float) -> float:
    return other if math.isnan(value) else value


def _columns(grades: Sequence[Grade]) -> Grades:
    values = torch.tensor([grade[:5] for grade in grades], dtype=torch.float64).reshape(-1, 5)
    no_overlap, no_level = [grade.no_overlap for grade in grades], [grade.no_level for grade in grades]
    return {
        name: (values[:, column], no_level if name == "agreement-level" else no_overlap)
        for column, name in enumerate(GRADES)
    }
