"""Neurons of the demo that no single concept tells: OR and AND NOT of the planted ones, in a network of their own.

`mixed_cnn()` is the demo's network with one fixed layer more, `formulas`, in place of its head: the planted neurons and
their weights stay as they are. `MIXED` is the truth about its neurons. They are judged on the unbiased probing set,
where every concept occurs with every other one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from csp_index.demo.network import CONCEPT_LAYER, NETWORK_WEIGHTS, PLANTED, PlantedCNN
from csp_index.index import Index
from csp_index.models.index_models import NetworkSource
from csp_index.studies.meanings.facets import NeuronFacets

LAYER: Final = "formulas"
NAME: Final = "mixed"
CONCEPTS: Final = "concepts"  # the metadata column with all concepts of an image
_CEILING = 6.0  # of ReLU6, as of the planted neurons
_AGAINST = 2.0  # a concept that must be absent counts twice: it is seldom as plain to see as the other


@dataclass(frozen=True, slots=True)
class MixedNeuron:
    """The truth about a neuron: planted concepts of which one is enough, and a concept that must be absent."""

    either: tuple[str, ...]
    without: str = ""

    @property
    def formula(self) -> str:
        """The formula as `csp-index formulas` writes it.

        >>> MixedNeuron(("ring", "moon"), "striped").formula
        '(ring OR moon) AND NOT striped'
        """
        either = " OR ".join(self.either)
        if not self.without:
            return either
        return f"({either}) AND NOT {self.without}" if len(self.either) > 1 else f"{either} AND NOT {self.without}"


MIXED: Final = (
    MixedNeuron(("triangle", "yellow")),
    MixedNeuron(("ring", "striped")),
    MixedNeuron(("heart", "navy background")),
    MixedNeuron(("moon", "speckled background")),
    MixedNeuron(("cyan", "dotted")),
    MixedNeuron(("orange", "white")),
    MixedNeuron(("brown background", "olive background")),
    MixedNeuron(("triangle", "heart")),
    MixedNeuron(("striped",), "speckled background"),
    MixedNeuron(("dotted",), "speckled background"),
    MixedNeuron(("speckled background",), "dotted"),
    MixedNeuron(("speckled background",), "striped"),
    MixedNeuron(("navy background",), "striped"),
    MixedNeuron(("yellow",), "dotted"),
    MixedNeuron(("triangle", "ring"), "speckled background"),
    MixedNeuron(("orange", "cyan"), "striped"),
)


class Formulas(nn.Module):
    """Values [N, M] of the planted neurons -> values of MIXED: the sum of either, less what must be absent, cut."""

    weights: Tensor

    def __init__(self) -> None:
        """Write the fixed weights; they are no parameters, and no part of the state."""
        super().__init__()
        places = {planted.concept: planted.index for planted in PLANTED if planted.concept}
        weights = torch.zeros(len(MIXED), len(PLANTED))
        for row, neuron in enumerate(MIXED):
            for concept in neuron.either:
                weights[row, places[concept]] = 1.0
            if neuron.without:
                weights[row, places[neuron.without]] = -_AGAINST
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """Return the values of the mixed neurons."""
        return (values @ self.weights.T).clamp(0.0, _CEILING)


class MixedCNN(PlantedCNN):
    """Images [N, 3, 64, 64] -> the layer `formulas` [N, M]; the weights are those of the demo's network."""

    def __init__(self) -> None:
        """Build the network with fresh weights."""
        super().__init__()
        self.formulas = Formulas()

    def forward(self, images: Tensor) -> Tensor:
        """Return the values of the mixed neurons [N, M]."""
        found: Tensor = self.formulas(self.concepts(self.features(images)))
        return found


def mixed_cnn() -> MixedCNN:
    """Build the network; load `NETWORK_WEIGHTS` into it."""
    return MixedCNN()


@dataclass(frozen=True, slots=True)
class MixedReport:
    """What facets and formulas make of the planted neurons: how many are right, of how many.

    `divided`: neurons of two concepts joined by OR whose two facets have these as labels. `whole`: planted neurons of
    one concept that have one facet. `told`: mixed neurons whose planted formula is found and kept.
    """

    divided: int
    of_two: int
    whole: int
    of_one: int
    told: int
    of_mixed: int


def run_mixed(index: Index, folder: str, tell: Callable[[str], None]) -> MixedReport:
    """Index the mixed neurons over the pictures of `folder`, find facets and formulas, and compare with the truth."""
    source = "python:csp_index.demo.mixed:mixed_cnn"
    index.add_images(folder, networks=[NetworkSource(source, (LAYER,), weights=str(NETWORK_WEIGHTS), name=NAME)])
    mixed, plain = (index.facets(layer).neurons() for layer in (f"{NAME}/{LAYER}", f"cnn/{CONCEPT_LAYER}"))
    formulas = index.formulas(f"{NAME}/{LAYER}", by=[CONCEPTS]).rows.to_pylist()
    tell(f"facets of {len(mixed) + len(plain)} neurons, formulas of {len(formulas)}")
    two = [(neuron, found) for neuron, found in zip(MIXED, mixed, strict=True) if len(neuron.either) == 2]
    two = [(neuron, found) for neuron, found in two if not neuron.without]
    single = [plain[planted.index] for planted in PLANTED if planted.concept]
    told = [
        row["kept"] and _is_same(row["formula"], neuron.formula) for row, neuron in zip(formulas, MIXED, strict=True)
    ]
    return MixedReport(
        sum(_labels(found) == set(neuron.either) for neuron, found in two),
        len(two),
        sum(len(found.facets) == 1 for found in single),
        len(single),
        sum(map(bool, told)),
        len(told),
    )


def _labels(found: NeuronFacets) -> set[str]:
    return {facet.label for facet in found.facets}


def _is_same(found: str, planted: str) -> bool:
    """Return whether two formulas are the same but for the order of what OR joins.

    >>> _is_same("(moon OR ring) AND NOT red", "(ring OR moon) AND NOT red"), _is_same("a AND NOT b", "b AND NOT a")
    (True, False)
    """
    parts = [text.replace("(", "").replace(")", "").partition(" AND NOT ") for text in (found, planted)]
    (one, _, without), (other, _, absent) = parts
    return sorted(one.split(" OR ")) == sorted(other.split(" OR ")) and without == absent
