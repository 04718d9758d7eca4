"""Findings in plain sentences: what was found, and what would refute it. Knows nothing about the store."""

from __future__ import annotations

from csp_index.studies.auditing.findings import Finding


def statement(finding: Finding) -> str:
    """Return what a finding says, in one sentence."""
    name = finding.class_name
    part = f"{min(finding.part, 1):.0%}"
    push = f"it gives {finding.push_share:.0%} of what neurons push for {name!r}"
    if finding.kind == "artefact":
        where = "lack" if finding.absent else "have"
        return (
            f"The neuron follows {finding.column} {finding.value!r} more than its class: {part} of its tie "
            f"to {name!r} comes from the images that {where} it, and {push}."
        )
    if finding.kind == "unexpected-label":
        return (
            f"The neuron is labeled {finding.label!r}, which is not among the expected concepts; likeness to that "
            f"label carries {part} of its tie to {name!r}, and {push}."
        )
    return (
        f"Without contrast the neuron is called {finding.plain!r}, with contrast {finding.label!r}: the images that "
        f"activate it share the first, and so do similar images that leave it silent, and {push}."
    )


def refutation(finding: Finding) -> str:
    """Return what would refute a finding, in one sentence."""
    name = finding.class_name
    if finding.kind == "artefact":
        return (
            f"It is refuted if images of {name!r} activate the neuron as much where only {finding.column} "
            f"{finding.value!r} is {'added' if finding.absent else 'removed'}, or if it belongs to what makes an image "
            f"{name!r}."
        )
    if finding.kind == "unexpected-label":
        return (
            f"It is refuted if another label, one that is expected, predicts the neuron better on images that did not "
            f"choose it, or if {finding.label!r} belongs to what makes an image {name!r}."
        )
    return (
        f"It is refuted if most images that show {finding.plain!r} activate the neuron, whatever else they show, and "
        f"images without it do not."
    )
