"""The form of the evidence that is stored with a finding of an audit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_evidence(evidence: Mapping[str, Any]) -> bool:
    """Return whether stored evidence has the form that the audit gives it."""
    try:
        counter = evidence["counter_examples"]
        lists = [counter["class_without_firing"], counter["firing_without_class"]]
        for cell in evidence["cells"]:
            lists.append(cell["images"])
            if not (_is(cell, int, "count") and _is(cell, bool, "of_class", "with_value") and "mean" in cell):
                return False
        pairs = all(_is(pair, int, "image", "silent") and _is(pair, float, "activation") for pair in evidence["pairs"])
        rest = all("silent_activation" in pair and "similarity" in pair for pair in evidence["pairs"])
        effects = all(_is(one, str, "class_name") and _is(one, float, "effect") for one in evidence["effects"])
        images = all(_is(one, int, "image") and _is(one, float, "activation") for each in lists for one in each)
        return pairs and rest and effects and images and isinstance(evidence["further_classes"], dict)
    except (KeyError, TypeError):
        return False


def _is(part: Mapping[str, Any], kind: type, *names: str) -> bool:
    return all(isinstance(part[name], kind) for name in names)
