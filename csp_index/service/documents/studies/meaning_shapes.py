"""The shapes of documents about the meanings of a layer's neurons: facets, and logical labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict


class FacetImage(TypedDict):
    """An image that shows a meaning, with its activation."""

    image_id: int
    name: str
    activation: FiniteFloat


class FacetRow(TypedDict):
    """A meaning of a neuron: its label, its share of the images, the most activating ones of these."""

    label: str
    score: FiniteFloat
    share: FiniteFloat
    images: list[FacetImage]


class FacetedNeuron(TypedDict):
    """A neuron with several facets, the one with the most images first."""

    neuron: Annotated[str, Field(examples=["cnn/concepts/3"])]
    label: str | None
    clear: Annotated[FiniteFloat, Field(description="1 less the most that the label of a facet explains of another.")]
    facets: list[FacetRow]


class FormulaRow(TypedDict):
    """A logical label of a neuron, and what it explains more than the best concept alone, on held-out images."""

    neuron: str
    label: str | None
    formula: str | None
    terms: list[str]
    single: str | None
    fired: int
    iou: FiniteFloat | None
    single_iou: FiniteFloat | None
    correlation: FiniteFloat | None
    single_correlation: FiniteFloat | None
    gain: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    kept: bool | None


class MeaningsDocument(TypedDict):
    """Neurons of a layer that one label does not tell: with several facets, or a formula; some at a time.

    The counts are null where nothing is stored; the notes say what a reader should know.
    """

    layer: str
    divided: Annotated[int | None, Field(description="Neurons that were looked at for facets.")]
    several: Annotated[int, Field(description="Neurons with several, of which `neurons` are some.")]
    facets_note: str
    neurons: list[FacetedNeuron]
    formula_neurons: Annotated[int | None, Field(description="Neurons that formulas were looked for.")]
    kept: Annotated[int, Field(description="Formulas that are kept, of which `formulas` are some.")]
    concepts: Annotated[str | None, Field(description="The key of the texts, or the metadata columns, of formulas.")]
    made_of: Annotated[str | None, Field(description="The same in prose.", examples=["texts of the vocabulary birds"])]
    formulas_note: str
    formulas: list[FormulaRow]


class NeuronFormula(FormulaRow):
    """The logical label of one neuron, and which concepts it is made of."""

    concepts: str
    made_of: str
    note: str
