"""The shapes of documents about a word over all layers. See `shapes`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from csp_index.service.documents.shapes import NeuronRow
from csp_index.studies.concepts.concept import Way

Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
Cosine = Annotated[FiniteFloat, Field(ge=-1, le=1)]


class ConceptRow(NeuronRow):
    """A neuron and a word: its label, its concept vector, the word as a candidate of its label, classes of images."""

    says: Annotated[Literal["label", "part", "no"], Field(description="The label is the word, has it, or neither.")]
    by_reader: Annotated[bool, Field(description="Whether a reader gave the label.")]
    similarity: Annotated[Cosine | None, Field(description="Of its concept vector with the word; null: not known.")]
    above_layer: Annotated[Fraction | None, Field(description="The share of its layer's neurons that are less near.")]
    stands_out: Annotated[bool, Field(description="Nearer than the nearest neuron is to 95 of 100 chance words.")]
    candidate_rank: Annotated[int | None, Field(description="The word's place among the stored candidates, 0 first.")]
    candidate_score: FiniteFloat | None
    auroc: Annotated[Fraction | None, Field(description="For the images of the class that the word names.")]
    auroc_by: Annotated[str | None, Field(description="The column that has the class.")]
    auroc_class: str | None
    tells_class: Annotated[bool, Field(description="Whether the AUROC is above 0.5 by more than chance.")]
    ways: Annotated[list[Way], Field(description="How it answers, the strongest first; none: by chance.")]
    mapped: Annotated[list[int], Field(description="Those of top_images over which `/maps` can lay a veil.")]


class ConceptGroup(TypedDict):
    """The neurons for which a way is the strongest: no other group has them."""

    way: Way
    total: Annotated[int, Field(description="How many there are, those that are not listed included.")]
    stronger: Annotated[int, Field(description="How many more answer in this way, and in a stronger one.")]
    neurons: list[ConceptRow]


class ConceptLayer(TypedDict):
    """How many neurons of a layer a word has to do with, in each way."""

    layer: str
    neurons: int
    labeled: int
    uncertain: int
    parts: int
    candidates: int
    standing_out: Annotated[int | None, Field(description="By concept vector; null: not known.")]
    floor: Annotated[Cosine | None, Field(description="The cosine that the nearest neuron has with chance words.")]


class OtherWord(TypedDict):
    """Another label near to the word."""

    text: str
    neurons: int
    similarity: Annotated[Cosine | None, Field(description="Of the embeddings; null: spelled like it.")]


class NamedClass(TypedDict):
    """A class of images that the word names, and how many neurons of a layer tell it better than chance."""

    layer: str
    by: str
    class_name: str
    images: int
    others: int
    chance: Fraction
    telling: int


class UncomparedValue(TypedDict):
    """A value of a metadata column that the word names, and that no neuron was compared with."""

    by: str
    class_name: str
    images: int


class ConceptDocument(TypedDict):
    """What the neurons of all layers have to do with a word: all those of each way, and in `groups` each once."""

    word: str
    sentence: Annotated[str, Field(description="What holds of it, in words.")]
    labeled: Annotated[list[ConceptRow], Field(description="Neurons whose label is the word.")]
    parts: Annotated[list[ConceptRow], Field(description="Neurons whose label has the word and more.")]
    near: Annotated[
        list[ConceptRow], Field(description="Whose concept vectors stand out; where none does, the nearest.")
    ]
    candidates: Annotated[list[ConceptRow], Field(description="Of whose labels it was another candidate.")]
    groups: Annotated[list[ConceptGroup], Field(description="Each neuron once, by its strongest way.")]
    layers: list[ConceptLayer]
    also: list[OtherWord]
    also_by: Literal["meaning", "spelling"]
    classes: list[NamedClass]
    uncompared: list[UncomparedValue]
    notes: Annotated[list[str], Field(description="What could not be looked at, and why.")]


class LabelWord(TypedDict):
    """A label and how many neurons have it."""

    text: str
    neurons: int


class WordsDocument(TypedDict):
    """The labels that most neurons have, of all layers; `total` counts the distinct labels."""

    words: list[LabelWord]
    total: int
