"""Which words stand out of a layer: words planted in its neurons, and words that its encoder does not know.

    python scripts/benchmarks/measure_words.py csp-demo/biased.db

A word stands out where a neuron's concept vector is nearer to it than the nearest one is to 95 of 100 chance words
drawn like the vocabulary. Known words are those that the demo's neurons were trained to detect. Words that the demo's
encoder does not know are every tenth class of ImageNet in torchvision's list, without those that share a word with the
demo's vocabulary. Beside each figure stands that of the floor of earlier versions, by the spread of the
word's own cosines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from unittest.mock import patch

from torchvision.models import ResNet50_Weights

from csp_index import Index, open_index
from csp_index.demo.network import PLANTED
from csp_index.demo.world import VOCABULARY

_NEURONS = 100  # more than the layer has
_EVERY = 10  # class of ImageNet


def unknown_words() -> list[str]:
    """Return classes of ImageNet that share no word with the demo's vocabulary."""
    known = {word for text in VOCABULARY for word in text.split()}
    names: Sequence[str] = ResNet50_Weights.DEFAULT.meta["categories"][::_EVERY]
    return [name for name in dict.fromkeys(names) if not known & set(name.lower().replace("-", " ").split())]


def standing_out(index: Index, word: str) -> set[int]:
    """Return the numbers of the neurons that stand out for a word."""
    near = index.concept(word, top=_NEURONS).found.near
    return {one.neuron.neuron for one in near if one.stands_out}


def figures(index: Index) -> tuple[str, str]:
    """Return how many known words and how many unknown ones stand out, in words."""
    planted = [(neuron.index, neuron.concept) for neuron in PLANTED if neuron.concept]
    known = [(number, standing_out(index, word)) for number, word in planted]
    asked = unknown_words()
    by_chance = sum(bool(standing_out(index, word)) for word in asked)
    own = sum(number in numbers for number, numbers in known)
    return (
        f"{sum(bool(numbers) for _, numbers in known)} of {len(known)} stand out, {own} by their own neuron",
        f"{by_chance} of {len(asked)} stand out ({100 * by_chance / len(asked):.0f} %)",
    )


def print_figures(floor: str, index: Index) -> None:
    """Print the figures of one floor."""
    for words, figure in zip(("planted words", "unknown words"), figures(index), strict=True):
        print(f"{floor}, {words}: {figure}", flush=True)


def main(path: str) -> None:
    """Print the figures of an index."""
    index = open_index(path)
    print_figures("above chance words", index)
    with patch("csp_index.studies.concepts.ask.chance_lead", return_value=None):
        print_figures("above the spread of the word's cosines", index)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
