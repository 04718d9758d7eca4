"""The concepts that a network should rely on, as its user lists them; loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from csp_index.evaluation.hierarchy import normal_text
from csp_index.labelling.vocabularies import load_vocabulary, make_vocabulary
from csp_index.store import schema
from csp_index.store.tables import Store


@dataclass(frozen=True)
class ExpectedConcepts:
    """A list of texts. A label is expected if it is on the list or contains an entry as whole words.

    So "red star" is expected where "star" is on the list: it says more of what is expected. Texts are compared in the
    form of `hierarchy.normal_text`.

    >>> concepts = ExpectedConcepts(("star", "striped"))
    >>> [concepts.covers(text) for text in ("red star", "Striped", "starfish", "red border")]
    [True, True, False, False]
    """

    texts: tuple[str, ...]

    @cached_property
    def _padded(self) -> tuple[str, ...]:
        return tuple(f" {normal_text(text)} " for text in self.texts)

    def covers(self, text: str) -> bool:
        """Return whether a text is expected."""
        padded = f" {normal_text(text)} "
        return any(entry in padded for entry in self._padded)

    def shared(self, one: str, other: str) -> bool:
        """Return whether two texts contain the same expected concept.

        >>> ExpectedConcepts(("star", "red")).shared("large star", "solid star")
        True
        """
        texts = [f" {normal_text(text)} " for text in (one, other)]
        return any(entry in texts[0] and entry in texts[1] for entry in self._padded)

    def with_classes(self, names: Iterable[str]) -> ExpectedConcepts:
        """Return the list with the names of the classes, which every network of classes should rely on."""
        return ExpectedConcepts(tuple(dict.fromkeys((*self.texts, *names))))


def read_expected(file: str | Path | Iterable[str]) -> ExpectedConcepts:
    """Return the concepts of a file that `load_vocabulary` reads (one per line), or of a list of texts.

    Errors: LabelError for a file that is missing or empty, or has an empty line.
    """
    if isinstance(file, str | Path):
        return ExpectedConcepts(load_vocabulary(file).texts)
    return ExpectedConcepts(make_vocabulary("expected", list(file), "of expected concepts").texts)


def unknown_texts(store: Store, expected: ExpectedConcepts) -> tuple[str, ...]:
    """Return the expected concepts that no vocabulary of the index has, so that no label can be one of them."""
    known = {normal_text(text) for text in store.read(schema.VOCABULARIES, ["text"])["text"].unique().to_pylist()}
    return tuple(text for text in expected.texts if normal_text(text) not in known)
