"""The words of a hierarchy that stand at or above a layer's labels, and the texts below each. Pure; loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csp_index.evaluation.hierarchy import Hierarchy


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a hierarchy: its title, the places of its parents, and the known texts at or below it.

    `texts` are places among the texts that have an embedding; `own` is that of the title itself, None without one.
    """

    title: str
    parents: tuple[int, ...]
    texts: tuple[int, ...]
    own: int | None


@dataclass(frozen=True, slots=True)
class LabelWords:
    """The W words at or above L distinct labels that the hierarchy has, in its order.

    `starts` [L] are the places of each label's own words, its senses; `above` [L] has the places of these and of all
    broader words, with the fewest steps up, nearest first.
    """

    words: tuple[Word, ...]
    labels: tuple[str, ...]
    rows: tuple[int, ...]  # [L] the labels' places among the texts, -1 for one without an embedding
    starts: tuple[tuple[int, ...], ...]
    above: tuple[dict[int, int], ...]

    @property
    def embedded(self) -> tuple[bool, ...]:
        """Which labels have an embedding, [L]."""
        return tuple(row >= 0 for row in self.rows)


def broader_titles(hierarchy: Hierarchy, labels: Sequence[str]) -> list[str]:
    """Return the titles of all words at or above labels, each once: those that need an embedding."""
    nodes = dict.fromkeys(node for label in labels for node in hierarchy.above(label))
    return list(dict.fromkeys(hierarchy.title(node) for node in nodes))


def label_words(hierarchy: Hierarchy, labels: Sequence[str], texts: Sequence[str]) -> LabelWords:
    """Return the words at or above distinct labels, given all texts that have an embedding."""
    own_above = [hierarchy.above(label) for label in labels]
    nodes = sorted({node for above in own_above for node in above})
    places = {node: place for place, node in enumerate(nodes)}
    below: list[list[int]] = [[] for _ in nodes]
    for row, text in enumerate(texts):
        for node in hierarchy.above(text):
            if node in places:
                below[places[node]].append(row)
    rows = {text: row for row, text in reversed(list(enumerate(texts)))}
    words = tuple(
        Word(
            hierarchy.title(node),
            tuple(places[parent] for parent in hierarchy.broader(node)),
            tuple(below[place]),
            rows.get(hierarchy.title(node)),
        )
        for place, node in enumerate(nodes)
    )
    starts = tuple(tuple(places[node] for node in hierarchy.nodes(label)) for label in labels)
    above = tuple({places[node]: steps for node, steps in own.items()} for own in own_above)
    return LabelWords(words, tuple(labels), tuple(rows.get(label, -1) for label in labels), starts, above)
