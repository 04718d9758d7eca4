"""Findings of an audit, ranked by effect x doubtfulness. Pure numerics on arrays; knows nothing about the store.

The *effect* of a neuron on a class is its push for the class's logit as a share of the strongest neuron's, in [0, 1]
(`carried.relative_effects`). The *doubtfulness*, in [0, 1], depends on the kind:

- `artefact`: what a value of a metadata column that is not the class carries of the neuron's tie to the class;
- `unexpected-label`: the same for the likeness to the neuron's label, where nobody expects that label;
- `changed-label`: how far activating images share the look that the label without contrast names, while similar silent
  images show it, too, times what likeness to that look carries of the tie.

What is carried is lowered by `carried.SURE` standard errors, so that what few images say counts little. An artefact is
a finding only where it carries more than half: more than the class's own part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, get_args

import numpy as np

from csp_index.evaluation.hierarchy import normal_text
from csp_index.studies.auditing.carried import ALIKE, carried, relative_effects
from csp_index.studies.auditing.expected import ExpectedConcepts
from csp_index.studies.auditing.records import FindingKind

KINDS: Final[tuple[FindingKind, ...]] = get_args(FindingKind)
THRESHOLD: Final = 0.25
"""The score from which on a finding counts."""
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class AuditArrays:
    """What an audit looks at: M neurons, C classes, V values of metadata columns, over N images.

    Correlations are Pearson's, 0 where something is constant. A neuron without a label has None, and zeros.
    """

    classes: Sequence[str]
    values: Sequence[tuple[str, str]]  # [V] column and value
    images: int
    effects: np.ndarray  # [M, C] on the logits of the classes; higher pushes for the class
    own: np.ndarray  # [M, C] correlation of activation and class
    tied: np.ndarray  # [M, V] of activation and value
    joint: np.ndarray  # [V, C] of value and class
    labels: Sequence[str | None]  # [M] with contrast
    label_tied: np.ndarray  # [M] of activation and likeness to the label
    label_joint: np.ndarray  # [M, C] of that likeness and class
    plain: Sequence[str | None]  # [M] labels without contrast
    plain_tied: np.ndarray  # [M] of activation and likeness to that label
    plain_joint: np.ndarray  # [M, C] of that likeness and class
    looks: np.ndarray  # [M] `carried.unneeded_look` of the label without contrast


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a neuron and a class. Scores are in [0, 1], higher is more doubtful.

    `subject` is what it is about: "frame: pink", or a label. `column` and `value` are of artefacts, `plain` is the
    label without contrast. `push` is the effect itself, on the class's logit, and `push_share` its share of all that
    neurons push for the class. `part` is what is carried before it is lowered.
    """

    kind: FindingKind
    neuron: int
    class_name: str
    subject: str
    score: float
    effect: float
    doubt: float
    push: float
    push_share: float
    part: float = float("nan")
    column: str | None = None
    value: str | None = None
    label: str | None = None
    plain: str | None = None
    absent: bool = False  # the artefact counts where it is missing: it is rarer in the class, and silences the neuron
    further: Mapping[str, float] = field(default_factory=dict)  # other classes on which the same is found: score

    def identity(self, layer: str) -> str:
        """Return the finding's id: it depends on what is found, not on when or how surely."""
        said = [layer, self.neuron, self.kind, self.class_name, self.subject, self.label, self.plain]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


def rank_findings(arrays: AuditArrays, expected: ExpectedConcepts, least: float = 0.0) -> list[Finding]:
    """Return the findings with a score above `least`, the highest first; of equal ones the kind, then the neuron.

    Of a neuron and a subject only the class with the highest score is a finding; `further` has the others. A value or
    column of the metadata that is expected is no artefact.
    """
    expected, pushes = expected.with_classes(arrays.classes), _Pushes.of(arrays.effects)
    candidates = [*_artefacts(arrays, pushes, expected), *_unexpected(arrays, pushes, expected)]
    candidates += _changed(arrays, pushes, expected)
    groups: dict[tuple[FindingKind, int, str], list[Finding]] = {}
    for candidate in candidates:
        if candidate.score > least:
            groups.setdefault((candidate.kind, candidate.neuron, candidate.subject), []).append(candidate)
    findings = []
    for group in groups.values():
        best, *others = sorted(group, key=lambda one: (-one.score, one.class_name))
        findings.append(replace(best, further={other.class_name: other.score for other in others}))
    return sorted(findings, key=lambda one: (-one.score, KINDS.index(one.kind), one.neuron, one.subject))


@dataclass(frozen=True, slots=True)
class _Pushes:
    """Effects [M, C]: as they are, relative to the strongest neuron of a class, as shares of all pushes for it."""

    raw: np.ndarray
    relative: np.ndarray
    share: np.ndarray

    @classmethod
    def of(cls, effects: np.ndarray) -> _Pushes:
        raising = np.maximum(np.nan_to_num(effects), 0)
        total = raising.sum(0)
        share = np.divide(raising, total, out=np.zeros_like(raising), where=total > 0)
        return cls(effects, relative_effects(effects), share)

    def finding(self, kind: FindingKind, neuron: int, class_name: str, at: int, subject: str, doubt: float) -> Finding:
        """Return the finding about a neuron and the class at a place, with its numbers."""
        effect, push, share = (float(values[neuron, at]) for values in (self.relative, self.raw, self.share))
        return Finding(kind, neuron, class_name, subject, effect * doubt, effect, doubt, push, share)


def _artefacts(arrays: AuditArrays, pushes: _Pushes, expected: ExpectedConcepts) -> Iterator[Finding]:
    """Yield the neurons that a value of the metadata ties to a class more than the class itself does."""
    for place, (column, value) in enumerate(arrays.values):
        if _is_expected(arrays, expected, column, value):
            continue
        parts = carried(arrays.own, arrays.tied[:, place, None], arrays.joint[place], arrays.images)
        doubts = np.nan_to_num(parts.sure)
        doubts[doubts <= _HALF] = 0
        for neuron, at in np.argwhere(pushes.relative * doubts > 0).tolist():
            one = pushes.finding(
                "artefact", neuron, arrays.classes[at], at, f"{column}: {value}", float(doubts[neuron, at])
            )
            absent = bool(arrays.joint[place, at] < 0)
            yield replace(one, part=float(parts.part[neuron, at]), column=column, value=value, absent=absent)


def _is_expected(arrays: AuditArrays, expected: ExpectedConcepts, column: str, value: str) -> bool:
    """Return whether a value of the metadata is expected; of a column with two values so is the other one."""
    own = [other for name, other in arrays.values if name == column]
    return expected.covers(column) or any(map(expected.covers, own if len(own) == 2 else [value]))


def _unexpected(arrays: AuditArrays, pushes: _Pushes, expected: ExpectedConcepts) -> Iterator[Finding]:
    """Yield the neurons with a label that nobody expects, by what the likeness to it carries of their classes."""
    parts = carried(arrays.own, arrays.label_tied[:, None], arrays.label_joint, arrays.images)
    doubts = np.nan_to_num(parts.sure)
    for neuron, at in np.argwhere(pushes.relative * doubts > 0).tolist():
        label = arrays.labels[neuron]
        if label is not None and not expected.covers(label):
            name = arrays.classes[at]
            one = pushes.finding("unexpected-label", neuron, name, at, label, float(doubts[neuron, at]))
            yield replace(one, part=float(parts.part[neuron, at]), label=label)


def _changed(arrays: AuditArrays, pushes: _Pushes, expected: ExpectedConcepts) -> Iterator[Finding]:
    """Yield the neurons whose label contrast changes, because they do not need the look of their images."""
    parts = carried(arrays.own, arrays.plain_tied[:, None], arrays.plain_joint, arrays.images)
    doubts = np.nan_to_num(parts.sure) * arrays.looks[:, None]
    for neuron, at in np.argwhere(pushes.relative * doubts > 0).tolist():
        label, plain = arrays.labels[neuron], arrays.plain[neuron]
        if label is None or plain is None or _same(label, plain) or expected.shared(label, plain):
            continue
        one = pushes.finding("changed-label", neuron, arrays.classes[at], at, plain, float(doubts[neuron, at]))
        yield replace(one, part=float(parts.part[neuron, at]), label=label, plain=plain)


def _same(label: str, plain: str) -> bool:
    """Return whether two labels say the same, or one says more of it.

    >>> _same("red star", "Star"), _same("star", "striped")
    (True, False)
    """
    one, other = (f" {normal_text(text)} " for text in (label, plain))
    return one in other or other in one


def candidates_of(effects: np.ndarray, least: float) -> np.ndarray:
    """Return the neurons, sorted, of effects [M, C] that can have a finding with a score above `least`."""
    return np.flatnonzero((relative_effects(effects) > least).any(1))


def inseparable(arrays: AuditArrays) -> list[tuple[str, str, str]]:
    """Return (column, value, class) where a value is on all images of a class and on no other, or the reverse."""
    places = np.argwhere(np.abs(arrays.joint) >= ALIKE).tolist()
    return [(*arrays.values[value], arrays.classes[at]) for value, at in places]
