"""The shapes of the documents about the evolution of a layer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict


class EvolutionRow(TypedDict):
    """A layer that was followed through checkpoints."""

    id: str
    network: str
    layer: str
    run_id: str


class EvolutionsDocument(TypedDict):
    """All evolutions that the index has, newest first."""

    evolutions: list[EvolutionRow]


class StepRow(TypedDict):
    """A layer at one checkpoint."""

    checkpoint: str
    alive: Annotated[int, Field(description="Neurons that fire.")]
    born: Annotated[int, Field(description="That fire, and did not at the checkpoint before.")]
    died: int
    labels: Annotated[int, Field(description="Distinct labels.")]
    changed: Annotated[int, Field(description="Neurons with another label than at the checkpoint before.")]
    settled: Annotated[int, Field(description="Neurons that keep their label from here on.")]
    cosine: Annotated[FiniteFloat | None, Field(description="Of concept vectors with those before, the mean.")]


class PathRow(TypedDict):
    """A neuron through the checkpoints."""

    neuron: int
    labels: list[str | None]
    settled: str
    changes: int
    drift: Annotated[
        FiniteFloat | None,
        Field(description="The sum of 1 - cosine over consecutive checkpoints; null without vectors at two of them."),
    ]
    born: str | None
    died: str | None


class EvolutionDocument(TypedDict):
    """A layer followed through checkpoints, and the paths of its neurons, the one that moved most first."""

    evolution: EvolutionRow
    steps: list[StepRow]
    neurons: list[PathRow]
    total: int
    start: int
