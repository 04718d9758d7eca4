"""The shapes of the documents about layers that were compared."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

By = Literal["concepts", "activations"]


class WayRow(TypedDict):
    """How many neurons of two layers match by one measure."""

    by: By
    live: Annotated[int, Field(description="Neurons of the first layer that take part.")]
    other_live: int
    matched: Annotated[int, Field(description="Pairs that score above all nulls.")]
    share: Annotated[FiniteFloat | None, Field(description="Of the neurons of the side that has fewer.")]
    null: Annotated[FiniteFloat | None, Field(description="The score that a match must exceed.")]
    null_images: FiniteFloat | None
    null_mixed: FiniteFloat | None
    null_untrained: Annotated[FiniteFloat | None, Field(description="Of a layer that has learned nothing, if named.")]


class ComparisonRow(TypedDict):
    """Two layers that were compared."""

    id: str
    first: Annotated[str, Field(examples=["cnn/concepts"])]
    second: str
    other: Annotated[str, Field(description='The name of the second layer\'s index, "" if it is this one.')]
    images: int
    only_first: int
    only_second: int
    neurons: int
    other_neurons: int
    ways: list[WayRow]
    untrained: Annotated[str, Field(description='The layer that has learned nothing, "" if none was named.')]
    note: str
    run_id: str


class ComparisonsDocument(TypedDict):
    """All comparisons of layers that the index has, newest first."""

    comparisons: list[ComparisonRow]


class CoverageRow(TypedDict):
    """How many texts of a vocabulary are labels."""

    vocabulary: str
    texts: int
    held: int
    other_held: int
    both_held: int


class OwnConceptRow(TypedDict):
    """A label that one layer alone has, and neurons that carry it."""

    text: str
    neurons: list[int]


class Bins(TypedDict):
    """How many pairs score how much: `counts` of equally wide bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]


class MatchRow(TypedDict):
    """Two neurons that were assigned to each other."""

    neuron: int
    other_neuron: int
    score: FiniteFloat
    matched: bool
    label: str | None
    other_label: str | None


class MatchesDocument(TypedDict):
    """Two layers that were compared, with the pairs of one measure, the highest score first."""

    comparison: ComparisonRow
    by: By
    coverage: CoverageRow | None
    own: list[OwnConceptRow]
    other_own: list[OwnConceptRow]
    chart: Bins
    pairs: list[MatchRow]
    total: int
    start: int
