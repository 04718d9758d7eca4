"""The nouns, adjectives and noun phrases of a caption, and those that distinguish two sets of captions.

The only file that knows the tagger (HanTa, whose English model is in its package). Knows nothing about models or
images: captions in, candidate texts out.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import combinations
from typing import Any, Final

MOST_WORDS: Final = 4  # of a phrase, including its preposition
_LONGEST: Final = 60  # characters of a word; the tagger's time grows with their square
_MOST_MODIFIERS: Final = 6  # those nearest to the noun; each further one would double the phrases
_WORDS: Final = re.compile(r"[^\W_]+(?:-[^\W_]+)*|'s\b|[^\w\s]")

# Classes of the tagger's tags (CLAWS C5): words inside a noun phrase, and words before one.
_ADJECTIVES: Final = frozenset({"AJ0", "AJC", "AJS"})
_NOUNS: Final = frozenset({"NN0", "NN1", "NN2", "NP0", "UNC"})
_BEFORE_NOUNS: Final = frozenset({"AT0", "DPS", "DT0", "CRD", "ORD"})  # a, its, some, two, first
_PREPOSITIONS: Final = frozenset({"PRP", "PRF"})
_SKIPPED: Final = frozenset({"AV0", "POS"})  # very, 's
#: "a photo of a dog" is about a dog: before "of", such a noun without a modifier is not a phrase.
_FRAMES: Final = frozenset(
    {"close-up", "closeup", "image", "photo", "photograph", "picture", "shot", "view"}
    | {"bunch", "couple", "group", "lot", "pair"}
)


_HOLLOW = frozenset({"background"})  # nouns that fit every picture, so they are specific only with a modifier


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    lemma: str
    tag: str

    @property
    def named(self) -> str:
        """The word as the noun of a phrase: in the singular."""
        return self.lemma if self.tag == "NN2" else self.text


@dataclass(frozen=True, slots=True)
class _Chunk:
    """One noun phrase without its article: modifiers and a noun, or adjectives alone."""

    modifiers: tuple[_Word, ...]
    noun: _Word | None
    preposition: str = ""  # the link to the noun phrase right before it

    def phrases(self) -> Iterator[str]:
        """Yield the noun with every subset of its modifiers, in their order; the modifiers; pairs of adjectives."""
        if self.noun is not None:
            yield from self.ending_in_noun(MOST_WORDS)
        yield from (word.text for word in self.modifiers)
        adjectives = [word.text for word in self.modifiers if word.tag in _ADJECTIVES]
        yield from (" ".join(pair) for pair in combinations(adjectives, 2))

    def ending_in_noun(self, words: int) -> Iterator[str]:
        """Yield the noun with every subset of its modifiers, at most `words` words; a hollow noun never alone."""
        if self.noun is None:
            return
        near = self.modifiers[-_MOST_MODIFIERS:]
        for count in range(self.noun.lemma in _HOLLOW, min(len(near), words - 1) + 1):
            for subset in combinations(near, count):
                yield " ".join([*(word.text for word in subset), self.noun.named])


@lru_cache(maxsize=8192)
def phrases(caption: str) -> tuple[str, ...]:
    """Return the distinct phrases of a caption in order of appearance: lower case, no articles.

    They are the nouns and adjectives; each noun with any of its modifiers, and each pair of adjectives of one noun, in
    the caption's order; and "X on Y" where a preposition links the two: all of at most four words. A noun that ends a
    phrase is singular. Verbs, numbers and "a photo of" are left out.

    >>> phrases("a large red star")
    ('star', 'large star', 'red star', 'large red star', 'large', 'red', 'large red')
    >>> phrases("two dogs near a fence")
    ('dog', 'fence', 'dog near fence')
    """
    distinct: dict[str, None] = {}
    before: Sequence[_Chunk] = ()
    for chunks in _runs(_tagged(caption)):
        for chunk in chunks:
            distinct.update(dict.fromkeys(chunk.phrases()))
            distinct.update(dict.fromkeys(phrase for left in before for phrase in _linked(left, chunk)))
        before = chunks
    return tuple(distinct)


def contrast_phrases(
    activating: Sequence[str], contrastive: Sequence[str], floor: float = 0.1, most: int = 20
) -> list[tuple[str, float]]:
    """Return the phrases that fit the activating captions but not the contrastive ones, best first, with scores.

    A phrase in a of the A activating captions and in c of the C contrastive ones scores

        a / A * ln( (a + 1) / (A + 1) : (c + 1) / (C + 1) )

    which is its part of the relative entropy of the two sets, in nats, with one caption added to each count: 0 if it is
    equally common in both, negative if it is rarer in the first, at most ln(C + 1). So "red star" beats "red" and
    "star" where the contrastive captions have each without the other, and "striped" beats "striped circle" where not
    every striped thing is a circle. Without contrastive captions the score is a / A. The result has the `most` best
    phrases of at least `floor`; among equals the shorter comes first. It may be empty.

    >>> [phrase for phrase, _ in contrast_phrases(["a red star", "a red star"], ["a red circle", "a blue star"])]
    ['red star', 'star', 'red']
    >>> contrast_phrases(["a striped red circle", "a striped blue circle"], ["a red circle", "a blue circle"])[0][0]
    'striped'
    >>> contrast_phrases(["a red star", "a blue star"], [])
    [('star', 1.0), ('red', 0.5), ('blue', 0.5), ('red star', 0.5), ('blue star', 0.5)]
    """
    if not activating:
        return []
    counts, contrast_counts = _counts(activating), _counts(contrastive)
    scores: dict[str, float] = {}
    for phrase, count in counts.items():
        share = count / len(activating)
        ratio = (count + 1) / (len(activating) + 1) * (len(contrastive) + 1) / (contrast_counts[phrase] + 1)
        scores[phrase] = share * math.log(ratio) if contrastive else share
    ranked = [(phrase, score) for phrase, score in scores.items() if score >= floor]
    ranked.sort(key=lambda entry: (-entry[1], len(entry[0].split())))
    return ranked[:most]


def _counts(captions: Sequence[str]) -> Counter[str]:
    return Counter(phrase for caption in captions for phrase in phrases(caption))


def _linked(left: _Chunk, right: _Chunk) -> Iterator[str]:
    """Yield "X on Y" for the phrases X and Y of two noun phrases, up to four words; nothing without a preposition."""
    if not right.preposition:
        return
    for first in left.ending_in_noun(MOST_WORDS - 2):
        for second in right.ending_in_noun(MOST_WORDS - 1 - len(first.split())):
            yield f"{first} {right.preposition} {second}"


# --- from words to noun phrases ---------------------------------------------------------------------------------------


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


def _tagged(caption: str) -> list[_Word]:
    plain = caption.casefold().replace("\u2019", "'").replace("close up", "close-up")
    texts = [word for word in _WORDS.findall(plain) if len(word) <= _LONGEST]
    words = [_Word(text, lemma.casefold(), tag) for text, lemma, tag in _tagger().tag_sent(texts)] if texts else []
    return [_Word(word.text, word.lemma, _tag_in_place(words, at)) for at, word in enumerate(words)]


def _tag_in_place(words: Sequence[_Word], at: int) -> str:
    """Return a word's tag, corrected where its neighbors show that a verb form is part of a noun phrase.

    A verb right after an article or adjective is a noun ("a honeycomb texture"), and a participle between one and a
    noun an adjective ("a hatched star", "a snow covered roof").
    """
    tag = words[at].tag
    if not tag.startswith("VV"):
        return tag
    before = words[at - 1].tag if at else ""
    after = words[at + 1].tag if at + 1 < len(words) else ""
    opened = before in _BEFORE_NOUNS | _ADJECTIVES | {"AV0"}
    if tag not in ("VVN", "VVD", "VVG"):
        return ("NN2" if tag == "VVZ" else "NN1") if before in _BEFORE_NOUNS | _ADJECTIVES else tag
    goes_on = after in _NOUNS | _ADJECTIVES | {"VVN"}
    if tag == "VVG":
        return "AJ0" if opened and goes_on else tag
    first = before in _PREPOSITIONS | {"", "PUN", "VVN", "CJC"}
    return "AJ0" if (opened or first or before in _NOUNS) and (goes_on or (first and not after)) else tag


def _runs(words: Iterable[_Word]) -> Iterator[list[_Chunk]]:
    """Yield the noun phrases in order, grouped by noun: adjectives joined by "and" each get the noun."""
    run: list[_Word] = []
    waiting: list[_Word] = []  # adjectives before "and"
    link = ""
    for word in [*words, _Word("", "", "END")]:
        if word.tag in _ADJECTIVES | _NOUNS:
            run.append(word)
        elif word.tag in _SKIPPED or (word.text == "," and run and run[-1].tag in _ADJECTIVES):
            continue
        elif word.tag == "CJC" and run and not any(other.tag in _NOUNS for other in run):
            waiting, run = [*waiting, *run], []
        else:
            framed = len(run) == 1 and run[0].text in _FRAMES and word.tag == "PRF"
            had = bool(run or waiting) and not framed
            if had:
                yield list(_closed(run, waiting, link))
            run, waiting = [], []
            if word.tag not in _BEFORE_NOUNS or had:
                link = word.text if word.tag in _PREPOSITIONS and had else ""


def _closed(run: Sequence[_Word], waiting: Sequence[_Word], link: str) -> Iterator[_Chunk]:
    """Yield the noun phrases of a contiguous run of nouns and adjectives, the first ending at its last noun."""
    end = max((at for at, word in enumerate(run) if word.tag in _NOUNS), default=-1)
    noun = run[end] if end >= 0 else None
    if waiting:
        yield _Chunk(tuple(waiting), noun, link)
    if noun is not None:
        yield _Chunk(tuple(run[:end]), noun, link)
    if run[end + 1 :]:
        yield _Chunk(tuple(run[end + 1 :]), None)
