"""The shapes of the documents about labels in a hierarchy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

State = Literal["climbed", "kept", "unexplained", "unknown", "unlabelled"]


class WordRow(TypedDict):
    """A word of the hierarchy that stands at or above a label."""

    word: Annotated[int, Field(description="Its place: the parameter `word` of this address.")]
    title: str


class GroupRow(TypedDict):
    """A word with the neurons at or below it."""

    word: int
    title: str
    neurons: Annotated[int, Field(description="At or below the word.")]
    own: Annotated[int, Field(description="At the word itself.")]
    through: Annotated[list[str], Field(description="Broader words in between, which have no other neurons.")]
    narrower: Annotated[list[str], Field(description="The largest groups below it.")]


class LevelRow(TypedDict):
    """A neuron with the word that stands for its label."""

    neuron: Annotated[str, Field(examples=["resnet50/layer4/77"])]
    label: str | None
    state: State
    level_title: str | None
    steps: Annotated[int | None, Field(description="From the label up to the word.")]
    by: Annotated[str | None, Field(description="How the broader word is read: text, union.")]
    correlation: Annotated[FiniteFloat | None, Field(description="Of the label with the activation, held out.")]
    level_correlation: Annotated[FiniteFloat | None, Field(description="The same of the word.")]
    low: Annotated[FiniteFloat | None, Field(description="Of the difference, word minus label, as `high`.")]
    high: FiniteFloat | None
    ended_at: Annotated[str | None, Field(description="The next broader word, which does not bear the neuron.")]
    ended_correlation: FiniteFloat | None


class HierarchyDocument(TypedDict):
    """A word with its groups and neurons; without a word the broadest groups, and the neurons outside."""

    layer: str
    source: Annotated[str, Field(description="The name of the hierarchy's file.")]
    encoder: str
    vocabulary: str
    choosing: int
    judging: Annotated[int, Field(description="Images that decide how broad a word a neuron bears.")]
    keep: FiniteFloat
    states: Annotated[dict[str, int], Field(description="How many neurons of the layer have each state.")]
    notes: list[str]
    word: WordRow | None
    broader: list[WordRow]
    groups: list[GroupRow]
    neurons: Annotated[list[LevelRow], Field(description="At the word itself; without a word, outside the hierarchy.")]
    total: Annotated[int, Field(description="Of such neurons, of which some are on this page.")]
    start: int
    stale: Annotated[bool, Field(description="Whether the layer's labels have changed since.")]
