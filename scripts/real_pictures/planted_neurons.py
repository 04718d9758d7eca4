"""Planted neurons: activations on a probing set that follow a known condition on emoji and background, with noise.

Their truth is exact by construction, as the truth of a trained output is not. Kinds: one keyword, a keyword and a
background, two keywords, either of two, one but not the other, a category of the Unicode consortium. A leaking variant
of the two conjunctions also fires weakly on pictures with one half of its condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from picture_packages import Emoji
from picture_views import BACKGROUNDS
from picture_words import Words, compound_text, pair_text

PER_KIND: Final = 40
NOISE: Final = 0.05
LEAK: Final = 0.15
LEAST: Final = 5


@dataclass(frozen=True, slots=True)
class Planted:
    """One planted neuron: its kind, the texts that are right for it, and where it fires: bool [E, 8]."""

    kind: str
    accepted: tuple[str, ...]
    fires: NDArray[np.bool_]
    #: Where it leaks, bool [E, 8]; nowhere without a leak.
    leaks: NDArray[np.bool_]


def plant(words: Words, emoji: Sequence[Emoji], seed: int = 0) -> list[Planted]:
    """Return the planted neurons over a list of words, drawn by a seed, all kinds."""
    rng = np.random.default_rng(40_000 + seed)
    everywhere = np.ones(len(BACKGROUNDS), bool)
    nowhere = np.zeros((words.truth.shape[1], len(BACKGROUNDS)), bool)
    outputs = len(words.output_words)
    truth, texts, colors = words.truth[:outputs], words.texts, list(BACKGROUNDS)

    def over_all(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return rows[:, None] & everywhere

    result = [Planted("keyword", (texts[row],), over_all(truth[row]), nowhere) for row in range(outputs)]
    ands: list[Planted] = []
    for row in rng.permutation(outputs)[:PER_KIND]:
        color = int(rng.integers(len(colors)))
        alone = np.arange(len(colors)) == color
        fires = truth[row][:, None] & alone
        half = (truth[row][:, None] | alone) & ~fires
        ands.append(Planted("keyword and background", (compound_text(texts[row], colors[color]),), fires, half))
    pairs = _pairs(truth, rng)
    for first, second in pairs["both"]:
        both, either = truth[first] & truth[second], truth[first] | truth[second]
        accepted = (pair_text(texts[first], texts[second]), pair_text(texts[second], texts[first]))
        ands.append(Planted("two keywords", accepted, over_all(both), over_all(either & ~both)))
    result += [Planted(p.kind, p.accepted, p.fires, nowhere) for p in ands]
    result += [Planted(f"{p.kind}, leaking", p.accepted, p.fires, p.leaks) for p in ands]
    for first, second in pairs["either"]:
        fires = over_all(truth[first] | truth[second])
        result.append(Planted("either of two", (texts[first], texts[second]), fires, nowhere))
    for first, second in pairs["not"]:
        result.append(
            Planted("one but not the other", (texts[first],), over_all(truth[first] & ~truth[second]), nowhere)
        )
    return result + _categories(words, emoji, nowhere)


def _pairs(truth: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, list[tuple[int, int]]]:
    """Return pairs of keywords for each kind of two: overlapping ones, disjoint ones, and ones that overlap in part."""
    result: dict[str, list[tuple[int, int]]] = {"both": [], "either": [], "not": []}
    count = len(truth)
    for code in rng.permutation(count * count):
        first, second = divmod(int(code), count)
        one, other = int(truth[first].sum()), int(truth[second].sum())
        shared = int((truth[first] & truth[second]).sum())
        if first < second and shared >= LEAST and shared <= 0.6 * min(one, other):
            kind = "both"
        elif first < second and not shared and 8 <= one <= 40 and 8 <= other <= 40:
            kind = "either"
        elif first != second and 0.25 * one <= shared <= 0.6 * one and one - shared >= LEAST:
            kind = "not"
        else:
            continue
        if len(result[kind]) < PER_KIND:
            result[kind].append((first, second))
        elif all(len(pairs) == PER_KIND for pairs in result.values()):
            break
    return result


def _categories(words: Words, emoji: Sequence[Emoji], nowhere: NDArray[np.bool_]) -> list[Planted]:
    """Return a neuron for each category of enough emoji for which some keyword is right (half of both in common)."""
    result = []
    for category in sorted({entry.category for entry in emoji} - {""}):
        members = np.array([entry.category == category for entry in emoji])
        shared = (words.truth[: words.keywords] & members).sum(1)
        overlap = shared / (words.truth[: words.keywords] | members).sum(1)
        accepted = tuple(words.texts[row] for row in np.argsort(-overlap, kind="stable")[:5] if overlap[row] >= 0.5)
        if members.sum() >= LEAST and accepted:
            fires = np.repeat(members[:, None], len(BACKGROUNDS), axis=1)
            result.append(Planted("category", accepted, fires, nowhere))
    return result


def activations(
    neurons: Sequence[Planted], concept: NDArray[np.int64], background: NDArray[np.int64], seed: int
) -> NDArray[np.float32]:
    """Return activations float32 [N, M] on pictures with a concept and a background [N].

    A neuron fires U(.6, 1) where its condition holds, a leaking one at .15 of that on one half of it; all have noise of
    deviation .05 around that, cut at 0.
    """
    rng = np.random.default_rng(50_000 + seed)
    columns = []
    for neuron in neurons:
        fires = neuron.fires[concept, background].astype(np.float32)
        level = fires + LEAK * neuron.leaks[concept, background]
        strength = rng.uniform(0.6, 1.0, len(concept))
        columns.append(np.maximum(level * strength + rng.normal(0, NOISE, len(concept)), 0))
    return np.stack(columns, axis=1).astype(np.float32)
