"""A word over all layers, as an answer: the neurons that are called by it, mean it, or had it as a candidate.

The ways stay apart: the label, the concept vector, and the score of the word as a candidate of the label. A neuron
that answers in several is in the list of each, and once among the groups: in that of its strongest way. Values come in
as arrays of layers; this module knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from csp_index.records import LayerKey, NeuronKey
from csp_index.studies.concepts.chance import word_floor
from csp_index.studies.concepts.known_classes import KnownClass
from csp_index.studies.concepts.words import HAS, IS

Says = Literal["label", "part", "no"]
Way = Literal["labeled", "parts", "near", "candidates"]

WAYS: Final[tuple[Way, ...]] = ("labeled", "parts", "near", "candidates")
"""How a neuron answers to a word, the strongest first: called by it, by more than it, near by concept vector, with it
as a candidate."""

_SAYS: Final[dict[int, Says]] = {IS: "label", HAS: "part", 0: "no"}
_NEAREST = 4  # neurons that are shown where no vector stands out


@dataclass(frozen=True, slots=True)
class LayerEvidence:
    """What the M neurons of a layer have to do with a word.

    `labels` are the labels shown (str or None), `says` what they have to do with the word (IS, HAS or 0), `readers`
    those that a reader gave, `uncertain` those that may be others. `ranks` is the place of the word among the stored
    candidates behind the label, 0 first and -1 for none, `scores` its score there (NaN). `cosines` are those of the
    concept vectors with the word's embedding, NaN for neurons without one; None where the embedding is not at hand.
    `lead` is by how much the nearest neuron leads for chance words (`chance.chance_lead`).
    """

    key: LayerKey
    labels: np.ndarray
    says: np.ndarray
    readers: np.ndarray
    uncertain: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    cosines: np.ndarray | None
    lead: float | None = None
    classes: Sequence[KnownClass] = ()


@dataclass(frozen=True, slots=True)
class ConceptNeuron:
    """A neuron and a word: what its label, its concept vector, the candidates of its label and metadata say of it.

    `above_layer` is the share of its layer's neurons whose vectors are less near; `stands_out`: nearer than the
    nearest neuron is to 95 of 100 chance words (`concepts.chance`). `auroc` is for the images of the class that the
    word names.
    """

    neuron: NeuronKey
    label: str | None
    says: Says
    by_reader: bool
    uncertain: bool
    similarity: float | None
    above_layer: float | None
    stands_out: bool
    candidate_rank: int | None
    candidate_score: float | None
    auroc: float | None
    auroc_by: str | None
    auroc_class: str | None
    tells_class: bool

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways in which it answers, the strongest first; none where its vector is among the nearest by chance."""
        labeled = self.says == "label"
        candidate = self.candidate_rank is not None and not labeled
        answers = (labeled, self.says == "part", self.stands_out, candidate)
        return tuple(way for way, does in zip(WAYS, answers, strict=True) if does)


@dataclass(frozen=True, slots=True)
class LayerCounts:
    """How many neurons of a layer a word has to do with, in each way; `floor`: the least cosine that stands out."""

    layer: LayerKey
    neurons: int
    labeled: int
    uncertain: int
    parts: int
    candidates: int
    standing_out: int | None
    floor: float | None


@dataclass(frozen=True, slots=True)
class ConceptGroup:
    """The neurons for which a way is the strongest, the best first, as many as were asked for.

    `total` counts them all, `stronger` those that answer in this way and in a stronger one.
    """

    way: Way
    neurons: tuple[ConceptNeuron, ...]
    total: int
    stronger: int


@dataclass(frozen=True, slots=True)
class FoundNeurons:
    """The neurons of each way, the best first, as many of each as were asked for; and the counts of each layer.

    `groups` have each neuron once; a way for which no neuron is left has none.
    """

    labeled: tuple[ConceptNeuron, ...]
    parts: tuple[ConceptNeuron, ...]
    near: tuple[ConceptNeuron, ...]
    candidates: tuple[ConceptNeuron, ...]
    layers: tuple[LayerCounts, ...]
    groups: tuple[ConceptGroup, ...]

    def every(self) -> dict[NeuronKey, ConceptNeuron]:
        """Return each neuron once, those of all ways and of all groups."""
        ways = (self.labeled, self.parts, self.near, self.candidates, *(group.neurons for group in self.groups))
        return {one.neuron: one for neurons in ways for one in neurons}


def find_neurons(layers: Sequence[LayerEvidence], most: int) -> FoundNeurons:
    """Return at most `most` neurons of each way, the best first; of equals the layer's order, then the number.

    Labeled ones: names of readers, then sure ones, then by the word's score. Near ones: those that stand out, by
    cosine; where none does, the nearest four, whose group is then the last. Candidates: by place, then by score,
    without those it labels.
    """
    floors = [_floor(one) for one in layers]
    near = [_above(one, floor) for one, floor in zip(layers, floors, strict=True)]
    stands_out, few = any(map(len, near)), most
    if not stands_out:
        few = min(most, _NEAREST)
        near = [_leading(one, few) for one in layers]
    numbers: dict[Way, list[np.ndarray]] = {
        "labeled": [np.flatnonzero(one.says == IS) for one in layers],
        "parts": [np.flatnonzero(one.says == HAS) for one in layers],
        "near": near,
        "candidates": [np.flatnonzero((one.ranks >= 0) & (one.says != IS)) for one in layers],
    }

    def answers(way: Way, those: Sequence[np.ndarray], most: int) -> tuple[ConceptNeuron, ...]:
        return tuple(_answer(layers[place], one, floors[place]) for place, one in _best(layers, way, those, most))

    ways = {way: answers(way, those, few if way == "near" else most) for way, those in numbers.items()}
    groups, shown = list[ConceptGroup](), [np.zeros(len(one.says), bool) for one in layers]
    for way, every in numbers.items():
        if way == "near" and not stands_out:
            continue
        own = [those[~seen[those]] for those, seen in zip(every, shown, strict=True)]
        for those, seen in zip(own, shown, strict=True):
            seen[those] = True
        if total := sum(map(len, own)):
            groups.append(ConceptGroup(way, answers(way, own, most), total, sum(map(len, every)) - total))
    if not stands_out and (nearest := tuple(one for one in ways["near"] if not one.ways)):
        groups.append(ConceptGroup("near", nearest, len(nearest), len(ways["near"]) - len(nearest)))
    return FoundNeurons(**ways, layers=tuple(map(_counts, layers, floors)), groups=tuple(groups))


def _floor(layer: LayerEvidence) -> float | None:
    return None if layer.cosines is None else word_floor(layer.cosines, layer.lead)


def _above(layer: LayerEvidence, floor: float | None) -> np.ndarray:
    """Return the neurons whose cosine is above a floor; none without one."""
    if layer.cosines is None or floor is None:
        return np.zeros(0, np.intp)
    return np.flatnonzero(layer.cosines > floor)


def _leading(layer: LayerEvidence, most: int) -> np.ndarray:
    """Return the neurons with the highest cosines."""
    if layer.cosines is None:
        return np.zeros(0, np.intp)
    known = np.flatnonzero(np.isfinite(layer.cosines))
    leading: np.ndarray = known[np.argsort(-layer.cosines[known], kind="stable")[:most]]
    return leading


def _best(layers: Sequence[LayerEvidence], way: str, neurons: Sequence[np.ndarray], most: int) -> list[tuple[int, int]]:
    """Return the best neurons of a way as (place of the layer, number)."""
    entries: list[tuple[tuple[float, ...], int, int]] = []
    for place, (layer, numbers) in enumerate(zip(layers, neurons, strict=True)):
        keys = _order(layer, way, numbers)
        order = np.lexsort((numbers, *reversed(keys)))[:most]
        columns = [column[order].tolist() for column in keys]
        entries += [(tuple(key), place, number) for *key, number in zip(*columns, numbers[order].tolist(), strict=True)]
    entries.sort()
    return [(place, number) for _, place, number in entries[:most]]


def _order(layer: LayerEvidence, way: str, numbers: np.ndarray) -> list[np.ndarray]:
    """Return what neurons of a way are sorted by, rising, the first key first."""
    scores = -np.nan_to_num(layer.scores[numbers], nan=-np.inf)
    if way == "near":
        cosines = np.zeros(len(numbers)) if layer.cosines is None else -layer.cosines[numbers].astype(np.float64)
        return [cosines]
    if way == "candidates":
        return [layer.ranks[numbers].astype(np.float64), scores]
    lengths = np.array([len(text or "") for text in layer.labels[numbers]], np.float64)
    return [(~layer.readers[numbers]).astype(float), layer.uncertain[numbers].astype(float), lengths, scores]


def _answer(layer: LayerEvidence, neuron: int, floor: float | None) -> ConceptNeuron:
    cosine = None if layer.cosines is None else _number(layer.cosines[neuron])
    known = next((one for one in layer.classes if np.isfinite(one.auroc[neuron])), None)
    rank = int(layer.ranks[neuron])
    return ConceptNeuron(
        NeuronKey(layer.key.model, layer.key.layer, neuron),
        layer.labels[neuron],
        _SAYS[int(layer.says[neuron])],
        bool(layer.readers[neuron]),
        bool(layer.uncertain[neuron]),
        None if cosine is None else max(-1.0, min(1.0, cosine)),
        None if cosine is None or layer.cosines is None else _share_below(layer.cosines, cosine),
        cosine is not None and floor is not None and cosine > floor,
        rank if rank >= 0 else None,
        _number(layer.scores[neuron]),
        None if known is None else float(known.auroc[neuron]),
        None if known is None else known.by,
        None if known is None else known.class_name,
        known is not None and bool(known.tells[neuron]),
    )


def _share_below(values: np.ndarray, value: float) -> float | None:
    others = int(np.isfinite(values).sum()) - 1
    return None if others < 1 else float(np.count_nonzero(values < value) / others)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _counts(layer: LayerEvidence, floor: float | None) -> LayerCounts:
    named = layer.says == IS
    out = None if layer.cosines is None or floor is None else int(np.count_nonzero(layer.cosines > floor))
    return LayerCounts(
        layer.key,
        len(layer.says),
        int(named.sum()),
        int((named & layer.uncertain).sum()),
        int((layer.says == HAS).sum()),
        int(((layer.ranks >= 0) & ~named).sum()),
        out,
        floor,
    )
