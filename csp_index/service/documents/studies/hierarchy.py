"""A layer's labels by broader words, as `csp-index hierarchy` stored them. Does not load torch."""

from __future__ import annotations

from typing import Any, Final, cast

from csp_index.errors import NotFoundError
from csp_index.printable import without_folders
from csp_index.records import LayerKey
from csp_index.service.documents.studies.hierarchy_shapes import GroupRow, HierarchyDocument, LevelRow, WordRow
from csp_index.service.snapshot import Snapshot
from csp_index.store.study_tables import HIERARCHY_STATES
from csp_index.studies.hierarchies.records import Group, LayerHierarchy, StoredWord
from csp_index.studies.hierarchies.stored import layers_with_hierarchies, read_hierarchy
from csp_index.studies.shown_labels import shown_labels

NEURONS: Final = 50
"""Neurons on a page."""
_NARROWER = 5  # groups that are named below a group
_LEVEL: Final = tuple(LevelRow.__annotations__)


def has_hierarchy(snapshot: Snapshot, key: LayerKey) -> bool:
    """Return whether the labels of a layer were put into a hierarchy."""
    return key in layers_with_hierarchies(snapshot.store)


def hierarchy_document(
    snapshot: Snapshot, key: LayerKey, word: int | None = None, start: int = 0, limit: int = NEURONS
) -> HierarchyDocument:
    """Return a word of the hierarchy of a layer's labels, or its broadest groups; neurons from the `start`-th on.

    Raises NotFoundError for a layer without a hierarchy, and for a word that it does not have.
    """
    found = snapshot.cache.get(
        ("hierarchy", key), lambda: read_hierarchy(snapshot.store, key), lambda one: 4 * one.levels.nbytes
    )
    if word is not None and not 0 <= word < len(found.words):
        raise NotFoundError(f"the hierarchy of {key} has no word {word} (has: 0 to {len(found.words) - 1})")
    rows = found.outside() if word is None else found.neurons_at(word)
    texts = shown_labels(snapshot.store, snapshot.info(key)).texts
    return {
        "layer": str(key),
        "source": found.source,
        "encoder": without_folders(found.encoder),
        "vocabulary": found.vocabulary,
        "choosing": found.choosing,
        "judging": found.judging,
        "keep": found.keep,
        "states": {state: found.count(state) for state in HIERARCHY_STATES},
        "notes": list(found.notes),
        "word": None if word is None else _word(found.words[word]),
        "broader": [] if word is None else [_word(one) for one in found.broader(word)],
        "groups": [_group(found, group) for group in found.groups(word)],
        "neurons": [_level(key, row) for row in rows[start : start + limit]],
        "total": len(rows),
        "start": start,
        "stale": tuple(row["label"] for row in found.rows) != texts,
    }


def _word(word: StoredWord) -> WordRow:
    return {"word": word.word, "title": word.title}


def _group(found: LayerHierarchy, group: Group) -> GroupRow:
    narrower = [one.word.title for one in found.groups(group.word.word)[:_NARROWER]]
    row = _word(group.word) | {"neurons": group.neurons, "own": group.own}
    return cast(GroupRow, row | {"through": list(group.through), "narrower": narrower})


def _level(key: LayerKey, row: dict[str, Any]) -> LevelRow:
    return cast(LevelRow, {name: row[name] for name in _LEVEL} | {"neuron": f"{key}/{row['neuron']}"})
