"""A layer's labels in a hierarchy, as they are stored and shown; loads no torch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from csp_index.query.results import SqlResult, Tabular
from csp_index.records import LayerKey


@dataclass(frozen=True, slots=True)
class StoredWord:
    """A word at or above a label: its place, title, the places of its parents, and how many known texts it has below.

    `embedded` says whether its own text has an embedding.
    """

    word: int
    title: str
    parents: tuple[int, ...]
    texts: int
    embedded: bool


@dataclass(frozen=True, slots=True)
class Group:
    """A word with the neurons at or below it: `neurons` of them in all, `own` at the word itself.

    `through` are titles of broader words that have no other neurons and stand between this word and the one shown.
    """

    word: StoredWord
    neurons: int
    own: int
    through: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerHierarchy(Tabular):
    """The labels of a layer's neurons at the level that their activations bear.

    `levels` has a row per neuron: label, state, level (a word's place) and level_title, steps climbed, `by` (text,
    union), the correlations of label and level with the neuron over the judging images, the bounds of their difference,
    and the word at which the climb ended. `notes` say what was left out.
    """

    layer: LayerKey
    source: str
    encoder: str
    vocabulary: str
    judging: int
    choosing: int
    keep: float
    notes: tuple[str, ...]
    words: tuple[StoredWord, ...]
    levels: pa.Table
    run_id: str = ""
    settings_hash: str = ""

    def __len__(self) -> int:
        return int(self.levels.num_rows)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of `levels`, by neuron."""
        rows: list[dict[str, Any]] = self.levels.to_pylist()
        return rows

    def count(self, state: str) -> int:
        """Return how many neurons have a state."""
        return sum(row["state"] == state for row in self.rows)

    @property
    def _broadest(self) -> list[int]:
        return [one.word for one in self.words if not one.parents]

    @cached_property
    def _children(self) -> dict[int, list[int]]:
        children: dict[int, list[int]] = defaultdict(list)
        for word in self.words:
            for parent in word.parents:
                children[parent].append(word.word)
        return children

    @cached_property
    def _at(self) -> dict[int, list[int]]:
        """The neurons at each word."""
        at: dict[int, list[int]] = defaultdict(list)
        for row in self.rows:
            if row["level"] is not None:
                at[row["level"]].append(row["neuron"])
        return at

    @cached_property
    def _under(self) -> dict[int, set[int]]:
        """The neurons at or below each word that has any."""
        under: dict[int, set[int]] = defaultdict(set)
        for word, neurons in self._at.items():
            for one in self._upwards([word]):
                under[one].update(neurons)
        return under

    def _upwards(self, words: Iterable[int]) -> list[int]:
        """Return words and all above them, nearest first."""
        found = dict.fromkeys(words)
        waiting = list(found)
        for word in waiting:  # the list grows while it is read
            for parent in self.words[word].parents:
                if parent not in found:
                    found[parent] = None
                    waiting.append(parent)
        return waiting

    def neurons_at(self, word: int) -> list[dict[str, Any]]:
        """Return the rows of the neurons at a word itself, those with the highest correlation first."""
        rows = [self.rows[neuron] for neuron in self._at.get(word, ())]
        return sorted(rows, key=lambda row: (-(row["level_correlation"] or 0.0), row["neuron"]))

    def outside(self) -> list[dict[str, Any]]:
        """Return the rows of the neurons whose label is no word of the hierarchy."""
        return [row for row in self.rows if row["state"] == "unknown"]

    def broader(self, word: int) -> list[StoredWord]:
        """Return the parents of a word."""
        return [self.words[parent] for parent in self.words[word].parents]

    def groups(self, word: int | None = None) -> list[Group]:
        """Return the groups directly below a word, or the broadest ones; the largest first.

        A word whose neurons are all of one group below it stands for no group of its own: the group is shown in place.
        """
        below = self._broadest if word is None else self._children.get(word, [])
        groups: dict[int, Group] = {}
        for one in below:
            if self._under.get(one):
                place, through = self._settled(one)
                groups.setdefault(place, self._group(place, through))
        return sorted(groups.values(), key=lambda group: (-group.neurons, group.word.title, group.word.word))

    def _settled(self, word: int) -> tuple[int, tuple[str, ...]]:
        through: list[str] = []
        while not self._at.get(word):
            full = [one for one in self._children.get(word, ()) if self._under.get(one) == self._under[word]]
            if not full:
                break
            through.append(self.words[word].title)
            word = full[0]
        return word, tuple(through)

    def _group(self, word: int, through: tuple[str, ...]) -> Group:
        return Group(self.words[word], len(self._under[word]), len(self._at.get(word, ())), through)

    def tree(self) -> list[tuple[int, Group]]:
        """Return all groups from the broadest to the narrowest, each with its depth.

        A group below two others stands below both, what is below it only below the first.
        """
        found: list[tuple[int, Group]] = []
        seen: set[int] = set()

        def add(groups: Sequence[Group], depth: int) -> None:
            for group in groups:
                found.append((depth, group))
                if group.word.word not in seen:
                    seen.add(group.word.word)
                    add(self.groups(group.word.word), depth + 1)

        add(self.groups(), 0)
        return found

    def to_arrow(self) -> pa.Table:
        """Return the rows of `levels`."""
        return self.levels

    def _repr_html_(self) -> str:
        columns = ["neuron", "label", "state", "level_title", "steps", "correlation", "level_correlation"]
        return SqlResult(self.levels.select(columns))._repr_html_()
