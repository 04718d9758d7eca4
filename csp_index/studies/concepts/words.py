"""The distinct labels of an index, and what a label has to do with a word: is it, has it, is spelled like it.

Pure functions of texts. Texts are compared as everywhere: case folded, underscores and hyphens are spaces.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.errors import SettingError
from csp_index.evaluation.hierarchy import normal_text
from csp_index.labelling.vocabularies import clean_text
from csp_index.records import LayerKey

LONGEST: Final = 300
"""Characters of a word, at most."""

IS: Final = 2
"""The label is the word."""
HAS: Final = 1
"""The label is more than the word."""

_LIKE = 0.3  # the least share of common letter groups (Dice) by which two words are spelled alike


def checked_word(word: str) -> str:
    """Return a word as labels are stored: Unicode composed, spaces single. SettingError for none, or a long one."""
    clean = clean_text(word)
    if len(clean) > LONGEST:
        raise SettingError(f"the word has {len(clean):,} characters: expected 1 to {LONGEST}")
    if not any(character.isprintable() and not character.isspace() for character in clean):
        raise SettingError("the word is empty: write a word or a phrase that a label may be")
    return clean


def normal(text: str) -> str:
    """Return the form in which words are compared; never empty for a text that is not.

    >>> normal("Red_Star"), normal("--")
    ('red star', '--')
    """
    return normal_text(text) or text


@dataclass(frozen=True, slots=True)
class LabelWords:
    """The W distinct labels of an index, by falling number of neurons, and the label of each neuron of each layer.

    `normals` are their normal forms, distinct; `spellings` the form that most neurons have; `counts` [W] how many
    neurons. `places` has for each layer the place of each neuron's label among them [M], -1 where it has none;
    `place_of` the place of each normal form.
    """

    normals: tuple[str, ...]
    spellings: tuple[str, ...]
    counts: np.ndarray
    places: Mapping[LayerKey, np.ndarray]
    place_of: Mapping[str, int]

    @classmethod
    def of(cls, layers: Mapping[LayerKey, Iterable[str | None]]) -> LabelWords:
        """Return the words of the labels of layers, a text or None for each neuron."""
        texts = {key: list(labels) for key, labels in layers.items()}
        raw = Counter(text for labels in texts.values() for text in labels if text)
        spelled: dict[str, Counter[str]] = defaultdict(Counter)
        for text, count in raw.items():
            spelled[normal(text)][text] = count
        order = sorted(spelled, key=lambda word: (-spelled[word].total(), word))
        place_of = {text: place for place, word in enumerate(order) for text in spelled[word]}
        return cls(
            tuple(order),
            tuple(spelled[word].most_common(1)[0][0] for word in order),
            np.array([spelled[word].total() for word in order], np.int64),
            {
                key: np.array([place_of.get(text or "", -1) for text in labels], np.int64)
                for key, labels in texts.items()
            },
            {word: place for place, word in enumerate(order)},
        )

    def spelling(self, word: str) -> str | None:
        """Return how most labels that are the word spell it; None where no label is."""
        place = self.place_of.get(normal(word))
        return None if place is None else self.spellings[place]

    def stacked(self, vectors: Mapping[str, np.ndarray], width: int) -> np.ndarray:
        """Return the vector [D] of each label [W, D] float32, by its spelling; zero where there is none."""
        rows = np.zeros((len(self.spellings), width), np.float32)
        for place, text in enumerate(self.spellings):
            if text in vectors:
                rows[place] = vectors[text]
        return rows

    @property
    def nbytes(self) -> int:
        """About how much memory this takes."""
        return 1000 + 300 * len(self.normals) + sum(places.nbytes for places in self.places.values())

    def says(self, word: str) -> np.ndarray:
        """Return of each label [W] int8 whether it is the word (IS), has it as whole words (HAS), or neither (0)."""
        wanted, inside = normal(word), f" {normal(word)} "
        says = np.array([HAS if wanted in one and inside in f" {one} " else 0 for one in self.normals], np.int8)
        if wanted in self.place_of:
            says[self.place_of[wanted]] = IS
        return says

    def of_layer(self, key: LayerKey, of_labels: np.ndarray) -> np.ndarray:
        """Return for each neuron of a layer [M] the value [W] of its label, 0 where it has none."""
        places = self.places[key]
        spread: np.ndarray = np.append(of_labels, of_labels.dtype.type(0))[places]  # -1 is the last one
        return spread

    def spelled_like(self, word: str, most: int) -> list[int]:
        """Return the places of labels that share most groups of three letters with a word, the most alike first."""
        own = _groups(normal(word))
        alike = [(2 * len(own & (groups := _groups(one))) / (len(own) + len(groups))) for one in self.normals]
        order = np.argsort(-np.array(alike), kind="stable")[: most + 1].tolist()
        return [place for place in order if alike[place] >= _LIKE and self.normals[place] != normal(word)][:most]


def _groups(text: str) -> frozenset[str]:
    """Return the groups of three letters of a text, its ends included.

    >>> sorted(_groups("ox"))
    [' ox', 'ox ']
    """
    padded = f" {text} "
    return frozenset(padded[first : first + 3] for first in range(max(1, len(padded) - 2)))
