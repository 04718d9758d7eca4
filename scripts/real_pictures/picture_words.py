"""The words of the experiment: names, keywords, backgrounds, compounds, and what each is true of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from picture_packages import Emoji
from picture_views import BACKGROUNDS

#: Sigmoid outputs of the network under study that are keywords.
OUTPUT_WORDS: Final = 150
#: Keywords of fewer emoji than this are no candidates.
LEAST_EMOJI: Final = 2


def background_text(color: str) -> str:
    """Return the text of a named background.

    >>> background_text("red")
    'red background'
    """
    return f"{color} background"


@dataclass(frozen=True, slots=True)
class Words:
    """All single texts with their truth: keywords by falling number of emoji, then names that are no keyword.

    `truth` is bool [T, E]: text t is true of emoji e.
    """

    texts: tuple[str, ...]
    truth: NDArray[np.bool_]
    #: Texts 0 to `keywords` - 1 are keywords of two and more emoji.
    keywords: int
    #: Row of each emoji's name in `texts`, [E].
    name_row: NDArray[np.int64]

    @property
    def output_words(self) -> tuple[str, ...]:
        """The keywords that the network under study has outputs for."""
        return self.texts[: min(OUTPUT_WORDS, self.keywords)]


def words_of(emoji: Sequence[Emoji]) -> Words:
    """Return the single texts of a list of emoji and of which of them each is true."""
    counts = Counter(word for entry in emoji for word in entry.keywords)
    frequent = [word for word, count in counts.most_common() if count >= LEAST_EMOJI]
    known = set(frequent)
    names = [entry.name for entry in emoji if entry.name not in known]
    texts = tuple(dict.fromkeys((*frequent, *names)))
    row_of = {text: row for row, text in enumerate(texts)}
    truth = np.zeros((len(texts), len(emoji)), bool)
    for column, entry in enumerate(emoji):
        truth[[row_of[word] for word in entry.keywords if word in row_of], column] = True
    return Words(texts, truth, len(frequent), np.array([row_of[entry.name] for entry in emoji]))


def background_texts() -> tuple[str, ...]:
    """Return the texts of all named backgrounds, in their order."""
    return tuple(background_text(color) for color in BACKGROUNDS)


def compound_text(text: str, color: str) -> str:
    """Return the text of a concept on a background.

    >>> compound_text("cat", "red")
    'cat on a red background'
    """
    return f"{text} on {'an' if color[0] in 'aeiou' else 'a'} {color} background"


def pair_text(first: str, second: str) -> str:
    """Return the text of a concept that two words are true of together.

    >>> pair_text("cat", "smile")
    'cat and smile'
    """
    return f"{first} and {second}"
