"""The shapes of the documents about audits: see `shapes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from csp_index.studies.auditing.records import AuditFields, FindingFields


class FindingImage(TypedDict):
    """An image and how much it activates the neuron."""

    image: int
    activation: FiniteFloat


class FindingPair(TypedDict):
    """An image that activates the neuron, and a similar one that leaves it silent."""

    image: int
    activation: FiniteFloat
    silent: int
    silent_activation: FiniteFloat | None
    similarity: FiniteFloat | None


class FindingEffect(TypedDict):
    """The neuron's effect on a class, in units of its logit."""

    class_name: str
    effect: FiniteFloat


class FindingCell(TypedDict):
    """The images with or without the class and the artefact: how many, the mean activation, the strongest."""

    of_class: bool
    with_value: bool
    count: int
    mean: FiniteFloat | None
    images: list[FindingImage]


class CounterExamples(TypedDict):
    """Images of the class that activate the neuron least, and others that activate it most."""

    class_without_firing: list[FindingImage]
    firing_without_class: list[FindingImage]


class FindingEvidence(TypedDict):
    """What a finding rests on; `cells` are of artefacts, `further_classes` have the scores of the same elsewhere."""

    pairs: list[FindingPair]
    effects: list[FindingEffect]
    counter_examples: CounterExamples
    cells: list[FindingCell]
    further_classes: dict[str, FiniteFloat]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingRow(FindingFields):
    """A finding. `effect`, `doubt` and `score`, their product, are in [0, 1]; `push` is in units of the logit."""

    finding: Annotated[str, Field(description="Its id: the same whenever the same is found.")]
    neuron: Annotated[str, Field(examples=["cnn/pooled/3"])]
    evidence: FindingEvidence


class AuditRow(TypedDict):
    """An audit in a list."""

    layer: str
    model: str
    by: str
    findings: Annotated[int, Field(description="Those above the threshold.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditDocument(AuditFields):
    """An audit of a layer: findings, the highest score first, and what was not looked at."""

    layer: str
    model: str
    by: str
    indexed: Annotated[int, Field(description="Images that the layer has by now.")]
    findings: list[FindingRow]
    names: Annotated[dict[str, str], Field(description="The file names of all images named.")]
    others: list[AuditRow]


class ReportDocument(TypedDict):
    """What the report of an audit shows: see `csp-index report`."""

    digest: Annotated[str, Field(description="sha256 over all parts.")]
    digests: Annotated[dict[str, str], Field(description="The digest of each part.")]
    parts: Annotated[dict[str, Any], Field(description="What is shown, by the names of the parts.")]
