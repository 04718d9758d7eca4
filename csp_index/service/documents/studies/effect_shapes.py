"""The shapes of documents about effects of neurons on a network's logits."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict


class EffectRow(TypedDict):
    """The effect of a neuron on a class: its part in the logit on images of the class, minus that elsewhere."""

    class_index: Annotated[int, Field(description="Of the class among the logits.")]
    class_name: str | None
    effect: FiniteFloat | None
    low: Annotated[FiniteFloat | None, Field(description="95 % of the effect lies above, over images.")]
    high: FiniteFloat | None
    on_class: FiniteFloat | None
    elsewhere: FiniteFloat | None


class EffectsOrigin(TypedDict):
    """How effects were found."""

    by: Literal["linear", "zero", "mean"]
    exact: Annotated[bool, Field(description="Whether the effects of all neurons and the bias give the logits.")]
    head: Annotated[str, Field(description="The module that gives the logits; empty: the network itself.")]
    how: Annotated[str, Field(description="The same in words, with what the sum check found.")]
    images: int


class NeuronEffects(EffectsOrigin):
    """The effects of one neuron, the largest by size first; `classes` counts all logits."""

    neuron: Annotated[str, Field(examples=["cnn/concepts/3"])]
    value: Annotated[FiniteFloat | None, Field(description="What the neuron was set to; null with a linear head.")]
    classes: int
    effects: list[EffectRow]


class ClassNeuron(TypedDict):
    """A neuron with its effect on one class."""

    neuron: str
    label: str | None
    effect: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None


class ClassEffects(TypedDict):
    """A class, its images, its mean logits, and the neurons that raise and lower its logit most on its images."""

    class_index: int
    class_name: str | None
    images: int
    logit_on: FiniteFloat | None
    logit_elsewhere: FiniteFloat | None
    raises: list[ClassNeuron]
    lowers: list[ClassNeuron]


class EffectsDocument(EffectsOrigin):
    """What a layer's neurons do to the logits, class by class, some classes at a time."""

    layer: Annotated[str, Field(examples=["cnn/concepts"])]
    neurons: Annotated[int, Field(description="That have effects.")]
    classes: list[ClassEffects]
    total: Annotated[int, Field(description="Classes, of which these are some.")]
