"""The fields of audits and findings, which the index, the JSON of the command, and HTTP have alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

FindingKind: TypeAlias = Literal["artefact", "unexpected-label", "changed-label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFields:
    """What is said of a finding besides its neuron and its evidence: see `findings.Finding`."""

    finding: str  # its id, the same whenever the same is found
    rank: int
    kind: FindingKind
    class_name: str
    subject: str
    column_name: str | None
    value: str | None
    label: str | None
    plain_label: str | None
    score: float
    effect: float
    doubt: float
    push: float
    push_share: float
    above: bool  # the score is above the audit's threshold
    statement: str
    refutation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFields:
    """What is said of an audit besides its layer and its findings.

    `expected` are the expected concepts, `unknown` those of them that no vocabulary has. `columns` of the metadata were
    looked at; `notes` say what was not, and why.
    """

    method: str
    encoder: str
    threshold: float
    expected: tuple[str, ...]
    unknown: tuple[str, ...]
    columns: tuple[str, ...]
    notes: tuple[str, ...]
    neurons: int
    classes: int
    images: int
