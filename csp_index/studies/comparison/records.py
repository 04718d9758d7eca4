"""A comparison of two layers as a value: how many neurons match, by what, and what only one of them holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.query.results import Tabular

By = Literal["concepts", "activations"]
WAYS: tuple[By, ...] = get_args(By)


@dataclass(frozen=True, slots=True)
class Way:
    """How many neurons match by one measure: the cosine of concept vectors, or the correlation of activations.

    A pair counts where its score is above the 95th percentile of all nulls: the two of `comparison.nulls`, and what the
    first layer's neurons score with a layer that has learned nothing, if one was named.
    """

    by: By
    live: int  # neurons of the first layer that take part
    other_live: int
    matched: int
    null_images: float | None  # None where nothing could be matched
    null_mixed: float | None
    null_untrained: float | None  # None also where no such layer was named

    @property
    def null(self) -> float | None:
        """The score that a match must exceed."""
        levels = (self.null_images, self.null_mixed, self.null_untrained)
        known = [level for level in levels if level is not None]
        return max(known, default=None)

    @property
    def share(self) -> float | None:
        """The matched share of the neurons of the side that has fewer."""
        fewer = min(self.live, self.other_live)
        return self.matched / fewer if fewer else None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many texts of a vocabulary are labels: of the first layer, of the second, of both."""

    vocabulary: str
    texts: int
    held: int
    other_held: int
    both_held: int


@dataclass(frozen=True, slots=True)
class OwnConcept:
    """A label that only one of the layers has, and its neurons, none of which is matched."""

    text: str
    neurons: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Comparison(Tabular):
    """Two layers compared; `matches` has the rows of the table `matches`."""

    first: str
    second: str
    other: str  # the address of the second layer's index, "" if it is the same
    images: int  # that both have
    only_first: int  # images of the first layer alone
    only_second: int
    neurons: int
    other_neurons: int
    ways: tuple[Way, ...]
    coverage: Coverage | None
    matches: pa.Table
    untrained: str = ""  # the layer that has learned nothing, "" if none was named
    note: str = ""
    run_id: str = ""

    def own_concepts(self, *, second: bool = False) -> tuple[OwnConcept, ...]:
        """Return the labels that only the first (or `second`) layer has, on neurons that match none, most first."""
        own, others = ("label", "other_label")[:: -1 if second else 1]
        number = "other_neuron" if second else "neuron"
        absent = {text.casefold() for text in self.matches[others].to_pylist() if text}
        matched = set(self.matches.filter(self.matches["matched"])[number].to_pylist())
        neurons: dict[str, set[int]] = defaultdict(set)
        for text, neuron in zip(self.matches[own].to_pylist(), self.matches[number].to_pylist(), strict=True):
            if text and neuron is not None and text.casefold() not in absent:
                neurons[text].add(neuron)
        alone = [OwnConcept(text, tuple(sorted(some))) for text, some in neurons.items() if not some & matched]
        return tuple(sorted(alone, key=lambda concept: (-len(concept.neurons), concept.text)))

    def pairs(self, by: By) -> pa.Table:
        """Return the pairs that one measure assigned, the highest score first."""
        rows = self.matches.filter(pc.equal(self.matches["by"], by))
        return rows.filter(pc.is_valid(rows["score"])).sort_by([("score", "descending"), ("neuron", "ascending")])

    def head(self) -> dict[str, Any]:
        """Return all but the rows, for machines."""
        ways = [asdict(way) | {"null": way.null, "share": way.share} for way in self.ways]
        counts = ("images", "only_first", "only_second", "neurons", "other_neurons")
        names = ("first", "second", "other", *counts, "untrained", "note")
        return {
            **{name: getattr(self, name) for name in names},
            "ways": ways,
            "coverage": None if self.coverage is None else asdict(self.coverage),
            "own": [asdict(concept) for concept in self.own_concepts()],
            "other_own": [asdict(concept) for concept in self.own_concepts(second=True)],
        }

    def to_arrow(self) -> pa.Table:
        """Return the rows of the table `matches`."""
        return self.matches


def held_texts(vocabulary: str, texts: Sequence[str], first: Sequence[str], second: Sequence[str]) -> Coverage:
    """Return how many texts of a vocabulary are labels of two layers; case does not count.

    >>> held_texts("mine", ["red", "blue", "ring"], ["Red"], ["red", "blue", "star"])
    Coverage(vocabulary='mine', texts=3, held=1, other_held=2, both_held=1)
    """
    known, one, two = ({text.casefold() for text in some} for some in (texts, first, second))
    return Coverage(vocabulary, len(known), len(known & one), len(known & two), len(known & one & two))
