"""The shapes of what the page of a layer shows besides its gallery. See `shapes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict


class Histogram(TypedDict):
    """How many neurons of a layer have which values of a column; `edges` are one more than the bins."""

    column: Annotated[str, Field(examples=["firing_rate"])]
    edges: list[FiniteFloat]
    counts: Annotated[list[int], Field(description="Of all neurons of the layer.")]
    shown: Annotated[list[int], Field(description="Of those that the query leaves.")]
    without: Annotated[int, Field(description="Neurons of the layer that have no value.")]


class GroupMember(TypedDict):
    """A neuron of a group, and the image that excites it most."""

    neuron: str
    index: int
    score: FiniteFloat | None
    image: int | None


class LabelGroup(TypedDict):
    """The neurons of a layer that share a label, or have none."""

    label: str | None
    state: Annotated[str, Field(description="`labelled`, else why these have no label.")]
    neurons: int
    share: Annotated[FiniteFloat, Field(description="Of the layer's labeled neurons; without a label of all neurons.")]
    numbers: Annotated[str, Field(description="The neurons, as `neurons=` takes them.", examples=["3,8,100-120"])]
    score: Annotated[FiniteFloat | None, Field(description="The median.")]
    firing_rate: Annotated[FiniteFloat, Field(description="The median.")]
    dead: int
    uncertain: int
    chance: Annotated[
        int | None, Field(description="How many a random network's neurons reach; null: never compared with one.")
    ]
    images: Annotated[int, Field(description="Different images among those that excite each of them most.")]
    warning: Annotated[str, Field(description="What so large a group may mean; empty for others.")]
    best: Annotated[list[GroupMember], Field(description="Its neurons with the highest scores.")]


class GroupsDocument(TypedDict):
    """A layer's neurons grouped by label, the largest group first."""

    layer: str
    method: str | None
    neurons: Annotated[int, Field(description="How many are grouped.")]
    labels: Annotated[int, Field(description="Different labels.")]
    groups: list[LabelGroup]
    left_out: Annotated[int, Field(description="Groups beyond the limit.")]
    mapped: Annotated[int, Field(description="How many top images of each neuron have maps to lay over pictures.")]
